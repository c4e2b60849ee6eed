"""What the shell completes, as its scripts ask for it, and in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import command
from support.stations import Premises
from support.terminal import open_terminal


def completed(premises: Premises, line: str) -> list[str]:
    """What completes the last word of a command line; nothing is complained about, and nothing written."""
    before = sorted(premises.folder.rglob("*"))
    words = line.split(" ")
    done = subprocess.run(
        command(),
        env={
            **premises.environ,
            "_MOONDREAM_STATION_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(["moondream-station", *words]),
            "COMP_CWORD": str(len(words)),
        },
        cwd=premises.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert sorted(premises.folder.rglob("*")) == before
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("sw", ["switch"]),
        ("switch c", ["colours"]),
        ("logs c", ["colours"]),
        ("caption a.png --model c", ["colours"]),
        ("switch colours --strategy rocm6.4", ["rocm6.4"]),
        ("settings ", ["set", "unset"]),
        ("settings set ke", ["keep_alive"]),
        ("settings unset service_p", ["service_port"]),
        ("settings set strategy rocm6.4", ["rocm6.4"]),
        ("settings set keep_alive ", []),
        ("rollback c", []),
        ("infer ", []),
        ("plan --machine rec", []),  # and so the shell looks for files
        ("caption pho", []),
    ],
)
def test_names_are_completed(premises: Premises, line: str, names: list[str]) -> None:
    """Commands, models, builds; where nothing is, the shell completes files."""
    assert completed(premises, line) == names


def test_what_is_installed_is_completed(installed: Premises) -> None:
    """Models that have an environment, and the active one's functions."""
    installed.add_model("coloured")
    assert completed(installed, "switch co") == ["colours", "coloured"]
    assert completed(installed, "remove co") == ["colours"]
    assert completed(installed, "infer ca") == ["caption"]


@pytest.mark.parametrize("manifest", ["{", "[]", '{"models": 5}', "https://127.0.0.1:9/manifest.json"])
def test_a_manifest_that_cannot_be_read_completes_nothing(premises: Premises, manifest: str) -> None:
    """And is no error; one on the network is not fetched."""
    if manifest.startswith("https"):
        premises.variables["MOONDREAM_STATION_MANIFEST"] = manifest
    else:
        (premises.folder / "manifest.json").write_text(manifest)
    assert completed(premises, "switch c") == []


@pytest.mark.terminal
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_once_it_is_installed(premises: Premises) -> None:
    """By Tab: a model's name up to its end, and a file's."""
    programs = premises.folder / "bin"
    programs.mkdir()
    program = programs / "moondream-station"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m moondream_station "$@"\n')
    program.chmod(0o755)
    (premises.folder / "record.json").touch()
    environ = {**premises.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with open_terminal(
        [
            "bash",
            "--norc",
            "-c",
            f"cd {premises.folder}; moondream-station --install-completion; exec bash -i",
        ],
        columns=100,
        environ=environ,
        clean=True,
    ) as terminal:
        terminal.wait_for("bash completion installed in")
        assert "moondream-station" in Path(premises.folder / ".bashrc").read_text()
        terminal.press(*"moondream-station", "Space", *"switch", "Space", "c", "Tab")
        terminal.wait_for("moondream-station switch colours")
        terminal.press(
            "C-u", *"moondream-station", "Space", *"plan", "Space", *"--machine", "Space", "r", "Tab"
        )
        terminal.wait_for("--machine record.json")
