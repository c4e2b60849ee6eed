"""The interactive prompt, in a real terminal."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from support.commands import command, run
from support.stations import Premises, processes_naming

_PATIENCE_SECONDS = 30.0


class Terminal:
    """A tmux session of its own, with a program in it.

    Args:
        premises: Where the program runs.
        name: The session's, and its server's.
    """

    def __init__(self, premises: Premises, name: str) -> None:
        self._name = name
        words = [f"{key}={value}" for key, value in premises.environ.items()]
        program = shlex.join(["env", "-i", "TERM=screen", *words, *command()])
        self._tmux("new-session", "-d", "-s", name, "-x", "100", "-y", "40", program)

    def type(self, line: str) -> None:
        """Type a line, and Enter."""
        self._tmux("send-keys", "-t", self._name, line, "Enter")

    def wait_for(self, text: str) -> str:
        """Look until the text is on the screen; gives the screen."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            screen = self._tmux("capture-pane", "-p", "-t", self._name)
            if text in screen:
                return screen
            assert time.monotonic() < deadline, f"{text!r} never came:\n{screen}"

    def has_ended(self) -> bool:
        """Whether the program ended, and with it the session, within the usual patience."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self._call("has-session", "-t", self._name).returncode != 0:
                return True
        return False

    def close(self) -> None:
        """End what is left of the session."""
        self._call("kill-server")

    def _tmux(self, *arguments: str) -> str:
        done = self._call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        tmux = shutil.which("tmux")
        assert tmux is not None
        return subprocess.run(
            [tmux, "-L", self._name, *arguments], capture_output=True, text=True, check=False
        )


@pytest.fixture
def terminal(premises: Premises) -> Iterator[Terminal]:
    """The prompt in a terminal; closed at the end."""
    terminal = Terminal(premises, f"prompt-{premises.folder.parent.name}-{premises.folder.name}"[-60:])
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.terminal
def test_it_serves_switches_and_ends(terminal: Terminal, premises: Premises) -> None:
    """Commands are obeyed, mistakes explained, and what happens is told above the prompt."""
    terminal.wait_for("Moondream Station is serving on http://127.0.0.1:")
    terminal.type("switch colours")
    terminal.wait_for("colours is active on the cpu build")
    terminal.wait_for("colours on cpu, worker ready")
    terminal.type("swich colours")
    terminal.wait_for("'swich colours' is no command")
    terminal.type("models")
    terminal.wait_for("colours *")
    assert "worker ready" in run(premises, "status").stdout
    terminal.type("quit")
    assert terminal.has_ended()
    assert processes_naming(premises.folder) == []


def test_without_a_terminal_it_names_serve(installed: Premises) -> None:
    """Exit code 2 and the hint."""
    done = run(installed)
    assert done.returncode == 2
    assert "moondream-station serve" in done.stderr
