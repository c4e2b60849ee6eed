"""Passwords in URLs, wherever they are written: hidden, and nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from moondream_station.core.facts.redact import redact_text, redact_url
from support.commands import run

_INPUTS = Path(__file__).parent / "inputs"
_MALFORMED = (
    "http://bob:S3CRET/y@host",
    "bob:S3CRET@host/simple",
    "http://bob:S3CRET@[host/simple",
    "http:///S3CRET/simple",
)


class _Desk(NamedTuple):
    """Where a command runs."""

    folder: Path
    environ: Mapping[str, str]


@pytest.fixture
def desk(tmp_path: Path) -> _Desk:
    """A home of its own, and no settings of the user's."""
    environ = {"MOONDREAM_STATION_HOME": str(tmp_path / "home"), "PIP_CONFIG_FILE": os.devnull}
    return _Desk(tmp_path, {**os.environ, **environ, "UV_NO_CONFIG": "1"})


def test_a_revision_is_no_secret(desk: _Desk) -> None:
    """A repository's address with a revision is shown in full where it is refused."""
    file = _INPUTS / "revision-requirements.txt"
    completed = run(desk, "plan", "--offline", "-r", str(file))
    assert "git+https://git.example/group/project.git@v1.2" in completed.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git+https://bob:pw@git.example/a/b.git@v1.2", "git+https://git.example/a/b.git@v1.2"),
        ("git+ssh://git@git.example/a/b.git@v1", "git+ssh://git.example/a/b.git@v1"),
        ("https://host:8443/a@b", "https://host:8443/a@b"),
        ("https://[::1]:8080/a@b", "https://[::1]:8080/a@b"),
        ("https://me:p@ss@host/x@1", "https://host/x@1"),
        ("http://bob:S3CRET/y@host", "http://host"),
        ("https://host/list?mail=a@b.example", "https://host/list"),
    ],
)
def test_credentials_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    """In a text and alone: user names, passwords and queries go; ports, revisions and paths stay."""
    assert redact_text(f"see {text} now") == f"see {shown} now"
    assert redact_url(text) == shown


@pytest.mark.parametrize("url", _MALFORMED)
@pytest.mark.parametrize(
    "variable",
    [
        *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX"),
        *("UV_FIND_LINKS", "MOONDREAM_STATION_TORCH_INDEX", "MOONDREAM_STATION_MANIFEST"),
    ],
)
def test_a_malformed_url_is_refused_without_being_quoted(desk: _Desk, variable: str, url: str) -> None:
    """Nobody knows where in it the password ends, so no command and no file shows any of it."""
    for arguments in (("plan", "torch"), ("switch", "selftest", "--json"), ("doctor", "--json")):
        completed = run(desk, *arguments, **{variable: url})
        output = completed.stdout + completed.stderr
        assert "S3CRET" not in output
        assert "malformed" in output
        assert "internal-error" not in output
    written = [path.read_bytes() for path in desk.folder.rglob("*") if path.is_file()]
    assert not any(b"S3CRET" in content for content in written)


@pytest.mark.parametrize("entry", ['index-url = "URL"', '[[index]]\nurl = "URL"', 'find-links = ["URL"]'])
@pytest.mark.parametrize("url", _MALFORMED)
def test_a_malformed_url_in_uvs_file_is_refused_too(desk: _Desk, entry: str, url: str) -> None:
    """The message names the file and quotes nothing of the URL."""
    file = desk.folder / "uv.toml"
    file.write_text(entry.replace("URL", url))
    completed = run(desk, "plan", "torch", UV_CONFIG_FILE=str(file), UV_NO_CONFIG="")
    assert completed.returncode == 1
    assert "S3CRET" not in completed.stdout + completed.stderr
    assert str(file) in completed.stderr


def test_a_malformed_address_in_a_manifest_is_refused_too(desk: _Desk) -> None:
    """Of a backend's code; no command and no file shows its password."""
    backend = {
        "name": "B",
        "functions": ["caption"],
        "download_url": "bob:S3CRET@host/x.zip",
        "entry_module": "m",
        "version": "1",
    }
    model = {"name": "M", "description": "d", "version": "1", "backend": "b", "args": {}}
    manifest = desk.folder / "manifest.json"
    manifest.write_text(json.dumps({"version": "1", "models": {"m": model}, "backends": {"b": backend}}))
    for arguments in (("models", "--json"), ("switch", "m", "--json"), ("plan", "--model", "m"), ("doctor",)):
        completed = run(desk, *arguments, MOONDREAM_STATION_MANIFEST=str(manifest))
        assert "S3CRET" not in completed.stdout + completed.stderr
    completed = run(desk, "switch", "m", "--json", MOONDREAM_STATION_MANIFEST=str(manifest))
    assert "`download_url` is malformed" in completed.stdout
    written = [path.read_bytes() for path in (desk.folder / "home").rglob("*") if path.is_file()]
    assert not any(b"S3CRET" in content for content in written)


def test_a_malformed_proxy_is_refused_too(desk: _Desk) -> None:
    """A proxy may be written without a scheme, so only what can't be understood is refused."""
    completed = run(desk, "plan", "torch", HTTPS_PROXY="bob:S3CRET/y@proxy:3128")
    assert completed.returncode == 1
    assert "S3CRET" not in completed.stdout + completed.stderr
