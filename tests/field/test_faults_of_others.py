"""`internal-error` is for the station's own faults: what users and servers do wrong has codes of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import run
from support.stations import Premises, open_premises
from support.torch_index import module_wheel


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A model whose backend needs `needy`, which the index has not yet."""
    with open_premises(tmp_path) as premises:
        premises.add_model("colours", requirements="torch\nneedy\n")
        yield premises


def _error(premises: Premises) -> dict[str, str]:
    done = run(premises, "switch", "colours", "--json")
    assert done.returncode == 1
    assert "S3CRET" not in done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    error: dict[str, str] = last["error"]
    return error


def test_a_dependency_that_asks_for_a_url(premises: Premises) -> None:
    """URLs are accepted of the backend itself alone: the package is named, and where to name it."""
    url = f"{premises.index.simple_url}/numpy/numpy-2.3.4-py3-none-any.whl"
    premises.index.add_simple(module_wheel("needy", "1.0", requires=[f"numpy @ {url}"]))
    error = _error(premises)
    assert error["code"] == "resolution-conflict"
    assert "asks for numpy by a URL" in error["message"]
    assert "`allow.urls`" in error["hint"]


def test_a_listing_with_a_size_below_nothing(premises: Premises) -> None:
    """The page is named, as one that is not a list of files."""
    wheel = premises.index.add_simple(module_wheel("needy", "1.0"))
    premises.index.claimed_bytes[wheel.filename] = -5
    error = _error(premises)
    assert error["code"] == "index-unreachable"
    assert f"{premises.index.simple_url}/needy/ is not a list of files" in error["message"]


@pytest.mark.parametrize(
    "variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "PIP_FIND_LINKS", "HTTPS_PROXY"]
)
def test_a_url_that_can_not_be_read(premises: Premises, variable: str) -> None:
    """The setting is to be corrected."""
    premises.variables[variable] = "http://[::1/S3CRET"
    assert _error(premises)["code"] == "settings-invalid"


def test_a_backend_whose_address_can_not_be_read(premises: Premises) -> None:
    """The manifest's fault, with the field to correct."""
    premises.add_model("colours", code_url="http://[::1/code.zip")
    error = _error(premises)
    assert error["code"] == "backend-unavailable"
    assert "`download_url` is malformed" in error["message"]


def test_a_requirement_whose_url_can_not_be_read(premises: Premises) -> None:
    """On the command line, as any other argument that is wrong."""
    done = run(premises, "plan", "--offline", "needy @ http://[::1/needy.whl")
    assert done.returncode == 2
    assert "its URL is not valid" in done.stderr
