"""The how-to pages' commands, run as they stand there: on a machine and on indexes of the tests' own.

The tutorial's and the backend's are run on a real torch, in tests/cli/test_real_torch.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from support.commands import run, run_json
from support.fake_driver import install_driver
from support.pages import DOCS, commands_in, exports_in, shell_lines
from support.stations import Premises, open_premises

HOW_TO = DOCS / "how-to"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A machine with a GPU, as far as its tool says, and an index that has torch for it."""
    with open_premises(tmp_path) as premises:
        install_driver(tmp_path / "bin", "560.35.03", "12.6")
        premises.variables["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        premises.add_model("selftest")
        premises.home.create()
        yield premises


@dataclass(frozen=True)
class Example:
    """A page whose commands are run.

    Args:
        page: Its name.
        before: What was run before the page is read.
        instead: What stands for an address or a place of the page's.
    """

    page: str
    before: Sequence[str] = ()
    instead: Mapping[str, str] = field(default_factory=dict)


EXAMPLES = [
    Example("read-doctor.md"),
    Example("report-a-machine.md"),
    Example("go-back-and-free-space.md", ("switch selftest", "switch selftest --upgrade")),
    Example(
        "override-the-build.md",
        instead={"/usr/bin/python3.12": os.path.realpath(sys.executable), "3.12": HERE},
    ),
]


def _run_page(premises: Premises, page: Path, instead: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run a page's commands in their order, with what it exports; gives each line and what it printed."""
    for line in shell_lines(page):
        for words, place in instead.items():
            line = line.replace(words, place)  # noqa: PLW2901  the line as it is run
        premises.variables.update(exports_in(line))
        for arguments in commands_in(line):
            if arguments[0] in {"serve", "stop"}:  # a page's commands run without a station beside them
                continue
            done = run(premises, *arguments)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            yield line, done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.page))
def test_a_pages_commands_work_one_after_the_other(premises: Premises, example: Example) -> None:
    """Every one of them succeeds."""
    for line in example.before:
        assert run(premises, *line.split()).returncode == 0
    assert list(_run_page(premises, HOW_TO / example.page, example.instead))


def test_every_way_to_wheels(premises: Premises, tmp_path: Path) -> None:
    """A mirror, a folder, and no network at all: each installs into a home of its own."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for wheel in premises.index.wheels():
        (folder / wheel.filename).write_bytes(wheel.data)
    instead = {
        "https://mirror.example/whl": premises.index.torch_url,
        "https://mirror.example/simple": premises.index.simple_url,
        "/media/wheels": str(folder),
    }
    sources = []
    for number, _ in enumerate(_run_page(premises, HOW_TO / "use-a-mirror-or-wheels.md", instead)):
        sources.append(_source_of_the_last_switch(premises))
        premises.variables["MOONDREAM_STATION_HOME"] = str(tmp_path / f"home-{number}")
        if number == 1:  # the mirror, which PIP_NO_INDEX leaves alone, is another section's
            premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = ""
    assert sources == ["index", "index", "find-links"]


def _source_of_the_last_switch(premises: Premises) -> str:
    chosen = [event for event in run_json(premises, "logs")["events"] if event["event"] == "BuildSelected"]
    return str(chosen[-1]["source"])


def test_everything_comes_through_the_proxy(premises: Premises, tmp_path: Path) -> None:
    """The indexes have names that only the proxy knows; certificates are read from where they are named."""
    pem = tmp_path / "company.pem"
    trustme.CA().cert_pem.write_to_path(str(pem))
    premises.variables["PIP_INDEX_URL"] = "http://packages.test/simple"
    premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = "http://pytorch.test/whl"
    instead = {"http://proxy.example:3128": premises.index.address, "/etc/ssl/certs/company.pem": str(pem)}
    assert len(list(_run_page(premises, HOW_TO / "behind-a-proxy.md", instead))) == 1
    assert {request.target.split("/")[2] for request in premises.index.requests} == {
        "packages.test",
        "pytorch.test",
    }
    assert run(premises, "switch", "selftest", "--upgrade").returncode == 0
