"""Requirements as people have them, from the reports of other projects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import run, run_json
from support.machines import cpu_only
from support.stations import Premises, activate, open_premises

HERE = Path(__file__).parent


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A folder, a home that does not exist yet, and an index of the usual wheels."""
    with open_premises(tmp_path) as premises:
        yield premises


@pytest.mark.parametrize("file", ["one-companion.txt", "companion-plain.txt"])
def test_a_companion_may_be_named_with_its_build(premises: Premises, file: str) -> None:
    """Companions' specifiers are held against their full version, with and without the local part: cu124."""
    case = HERE / "companion-local-version"
    shown = run_json(premises, "plan", "--machine", str(case / "machine.json"), "-r", str(case / file))
    assert (shown["build"], shown["torch"]) == ("cu124", "2.6.0")


def test_a_companion_that_names_its_build_is_installed(premises: Premises) -> None:
    """A switch takes the wheel that the index lists under that very version, though torch names no build."""
    premises.add_model("colours", requirements="torch==2.9.0\ntorchvision==0.24.0+cpu\n")
    assert activate(premises, "colours").build == "cpu"


@pytest.mark.parametrize("name", ["utf8-bom", "utf16le-bom", "utf16be-bom", "latin1-declared"])
def test_a_requirements_file_is_decoded_as_pip_decodes_it(premises: Premises, name: str) -> None:
    """By its byte order mark, as PowerShell writes one, or by the encoding that a PEP 263 line declares."""
    file = HERE / "encoded-requirements" / f"requirements-{name}.txt"
    machine = premises.folder / "machine.json"
    machine.write_text(json.dumps(cpu_only().to_json()))
    shown = run_json(premises, "plan", "--machine", str(machine), "-r", str(file))
    assert (shown["build"], shown["torch"]) == ("cpu", "2.6.0")


@pytest.mark.parametrize("content", [b"# \xfc\ntorch", b"# coding: no-such\ntorch", b"\xff\xfet"])
def test_a_requirements_file_in_no_encoding_is_named(premises: Premises, content: bytes) -> None:
    """What pip can't decode either: exit code 2, the file, the encoding, and what to do."""
    file = premises.folder / "requirements.txt"
    file.write_bytes(content)
    done = run(premises, "plan", "--offline", "-r", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert "Save it as UTF-8." in done.stderr


def test_constraints_and_a_backends_requirements_are_decoded_so_too(premises: Premises) -> None:
    """Both may have been written by `pip freeze > FILE` in PowerShell."""
    constraints = premises.folder / "constraints.txt"
    constraints.write_bytes("\ufefftorch<2.9\n".encode("utf-16-le"))
    premises.variables["PIP_CONSTRAINT"] = str(constraints)
    premises.add_model("colours")
    requirements = premises.folder / "backends" / "colours" / "requirements.txt"
    requirements.write_bytes("\ufefftorch>=2.8\n".encode("utf-16-be"))
    environment = activate(premises, "colours").environment
    assert 'version = "2.8.0+cpu"' in (premises.home.environments / environment / "pylock.toml").read_text()
