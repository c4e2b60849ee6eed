"""A real terminal for tests: a tmux server of their own, with one pane."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.05


class Terminal:
    """One pane that runs one program; what it shows stays when the program has ended.

    Args:
        tmux: The command that reaches the server.
        status: The file that will hold the program's exit code.
    """

    def __init__(self, tmux: Sequence[str], *, status: Path) -> None:
        self._tmux = tmux
        self._status = status

    def screen(self, *, styled: bool = False) -> list[str]:
        """The lines shown now, without what is blank at their ends and below.

        Args:
            styled: Whether with the escape sequences of their styles.
        """
        shown = self._run("capture-pane", "-p", *(["-e"] if styled else []))
        return [line.rstrip() for line in shown.rstrip("\n").split("\n")]

    def wait_for(self, text: str) -> list[str]:
        """The screen as soon as it shows a text."""
        return self.wait_until(lambda lines: any(text in line for line in lines), f"to show {text!r}")

    def wait_until(self, is_so: Callable[[list[str]], bool], wanted: str = "the condition") -> list[str]:
        """The screen as soon as it is as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so(lines := self.screen()):
            assert time.monotonic() < deadline, f"Waited for {wanted}:\n" + "\n".join(lines)
            time.sleep(_LOOK_SECONDS)  # a terminal tells nobody what it shows
        return lines

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names (`C-c`, `Enter`, `Tab`)."""
        self._run("send-keys", *keys)

    def type_line(self, text: str) -> None:
        """Type a line and end it."""
        self._run("send-keys", "-l", text)
        self.press("Enter")

    def resize(self, columns: int, rows: int) -> None:
        """Make it another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def exit_code(self) -> int:
        """The program's exit code, as soon as it has ended."""
        self.wait_until(lambda _: self._status.exists(), "the program to end")
        return int(self._status.read_text(encoding="utf-8"))

    def program(self) -> psutil.Process:
        """The program's process."""
        shell = psutil.Process(int(self._run("display-message", "-p", "#{pane_pid}")))
        return shell.children()[0]

    def family(self) -> set[psutil.Process]:
        """The pane's shell, and what runs in it now."""
        shell = psutil.Process(int(self._run("display-message", "-p", "#{pane_pid}")))
        return {shell, *shell.children(recursive=True)}

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True)
        return done.stdout


@contextmanager
def open_terminal(
    command: Sequence[str | Path],
    *,
    columns: int,
    rows: int = 24,
    environ: Mapping[str, str] | None = None,
    clean: bool = False,
) -> Iterator[Terminal]:
    """Run a program in a terminal; both end with the block.

    Args:
        command: The program and its arguments.
        columns: The terminal's width.
        rows: Its height.
        environ: Variables of the program beside ours and those that tmux sets.
        clean: Whether it has those variables alone, and TERM.
    """
    program = shutil.which("tmux")
    assert program is not None, "tmux is not installed"
    tmux = [program, "-u", "-f", "/dev/null", "-L", f"moondream-{uuid.uuid4().hex}"]
    variables = [f"{name}={value}" for name, value in (environ or {}).items()]
    alone = ["-i", "TERM=screen"] if clean else []
    program_line = shlex.join(["env", *alone, *variables, *map(str, command)])
    with TemporaryDirectory() as folder:
        status, script = Path(folder) / "status", Path(folder) / "script"
        # tmux 3.3 now and then never tells the exit code of a pane that it keeps: a shell does. Its commands
        # stand in a file, so that what its and tmux's own command lines name is not the program's.
        script.write_text(
            f"trap : INT TERM HUP\n{program_line}\necho $? >{status}.new\nmv {status}.new {status}\ncat\n",
            encoding="utf-8",
        )
        size = ["-x", str(columns), "-y", str(rows)]
        subprocess.run([*tmux, "new-session", "-d", *size, "sh", str(script)], check=True)
        terminal = Terminal(tmux, status=status)
        try:
            yield terminal
        finally:
            family = terminal.family()
            subprocess.run([*tmux, "kill-server"], check=False)
            # The shell survives the hang-up, and so nobody passes it on to a program that still runs.
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
