"""The interactive prompt, in a real terminal."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from support.commands import command, run
from support.index_traffic import Fault
from support.stations import Premises, processes_naming
from support.terminal import Terminal, open_terminal

_ROWS = 40


@pytest.fixture(params=[80])
def terminal(premises: Premises, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """The prompt in a terminal; closed at the end."""
    columns: int = request.param
    with open_terminal(
        command(), columns=columns, rows=_ROWS, environ=premises.environ, clean=True
    ) as terminal:
        terminal.wait_for("moondream>")
        yield terminal


@pytest.mark.terminal
@pytest.mark.parametrize("terminal", [80, 40], indirect=True)
def test_it_serves_switches_and_ends(terminal: Terminal, premises: Premises) -> None:
    """Commands are obeyed, the panel shows what runs, and `quit` ends the station as SIGTERM does."""
    terminal.wait_for("Moondream Station is serving on")
    terminal.wait_for("no model")
    terminal.type_line("switch colours")
    terminal.wait_for("Switching to colours")
    terminal.wait_for("colours is active on the cpu build")
    lines = terminal.wait_for("colours on cpu, worker ready")
    assert lines[-1] == "colours on cpu, worker ready"
    terminal.type_line("models")
    terminal.wait_for("colours *")
    assert "worker ready" in run(premises, "status").stdout
    terminal.type_line("quit")
    assert terminal.exit_code() == 0
    assert processes_naming(premises.folder) == []


@pytest.mark.terminal
def test_mistakes_are_explained(terminal: Terminal) -> None:
    """With a hint, and the prompt goes on."""
    terminal.type_line("swich colours")
    terminal.wait_for("Unknown command 'swich colours'")
    terminal.wait_for("`help` lists the commands")
    terminal.type_line("serve --port 0")
    terminal.wait_for("Run `moondream-station serve --port 0` in another terminal")
    terminal.wait_for("Did you mean `switch colours`?")
    terminal.type_line("rollback")
    terminal.wait_for("rollback can't be run like this")
    terminal.wait_for("hint: Run `rollback MODEL`.")
    terminal.type_line("help nothing")
    terminal.wait_for("There is no command 'nothing'.")
    terminal.type_line("switch colours --strategy cu9")
    terminal.wait_for("hint:")
    terminal.type_line("switch 'colours")
    terminal.wait_for("Close the quotes")
    terminal.type_line("cancel")
    terminal.wait_for("No activation is running")
    terminal.type_line("plan --nonsense")
    terminal.wait_for("No such option")
    terminal.type_line("switch gpt")
    terminal.wait_for("unknown-model")
    assert "Traceback" not in "\n".join(terminal.screen())


@pytest.mark.terminal
def test_a_notice_is_accepted_at_the_prompt(premises: Premises) -> None:
    """It is shown, with how to accept it; what follows goes by the flags."""
    premises.add_model("noted", requirements="", notice={"text": "Proprietary."})
    file = premises.folder / "manifest.json"
    news = {"version_messages": [{"version": ">0", "severity": "note", "message": "Read the manual."}]}
    file.write_text(json.dumps(json.loads(file.read_text()) | news))
    with open_terminal(command(), columns=80, rows=_ROWS, environ=premises.environ, clean=True) as terminal:
        terminal.wait_for("note: Read the manual.")
        terminal.wait_for("moondream>")
        terminal.type_line("switch noted")
        terminal.wait_for("Proprietary.")
        terminal.wait_for("--accept-notice")
        terminal.type_line("switch noted --nonsense")
        terminal.wait_for("switch can't be run like this")
        terminal.type_line("switch noted --anyway --accept-notice")
        terminal.wait_for("noted on no torch, worker ready")


@pytest.mark.terminal
def test_plan_answers_as_the_command_does(terminal: Terminal) -> None:
    """With its options."""
    terminal.type_line("plan --offline --strategy cpu")
    terminal.wait_for("for other machines: --all")


@pytest.mark.terminal
def test_commands_and_models_are_completed(terminal: Terminal) -> None:
    """By Tab."""
    terminal.press("s", "w", "Tab")
    terminal.wait_for("moondream> switch")
    terminal.press("Space", "c", "Tab")
    terminal.wait_for("moondream> switch colours")


@pytest.mark.terminal
def test_the_model_is_asked_about_a_file_whose_name_is_completed(
    terminal: Terminal, premises: Premises
) -> None:
    """As on the command line; the answer stands above the prompt."""
    picture = premises.folder / "holiday.png"
    picture.write_bytes(b"an image")
    terminal.type_line("switch colours")
    terminal.wait_for("colours on cpu, worker ready")
    terminal.press("caption", "Space", f"{premises.folder}/holi", "Tab")
    terminal.wait_until(lambda lines: "day.png" in "".join(lines))
    terminal.press("Enter")
    terminal.wait_for("a small caption")
    terminal.type_line("clear")
    terminal.type_line("caption --length short")
    terminal.wait_for(f"About {premises.folder}"[:70])
    terminal.wait_for("a small caption")
    terminal.type_line("caption nowhere.png")
    terminal.wait_for("There is no file nowhere.png.")


@pytest.mark.terminal
def test_a_word_ends_at_a_space_alone(premises: Premises) -> None:
    """A model's name has dashes, and so have options; each is completed in its middle, too."""
    premises.add_model("two-colours-small")
    with open_terminal(command(), columns=80, rows=_ROWS, environ=premises.environ, clean=True) as terminal:
        terminal.wait_for("moondream>")
        terminal.press("Tab")  # nothing is begun, and nothing is listed
        terminal.press(*"switch", "Space", *"two-colours-", "Tab")
        terminal.wait_for("moondream> switch two-colours-small")
        terminal.press("Space", *"--st", "Tab")
        lines = terminal.wait_for("moondream> switch two-colours-small --strategy")
        assert not any(line.startswith("rollback") for line in lines)


@pytest.mark.terminal
def test_commands_are_run_as_hints_and_help_say_them(terminal: Terminal) -> None:
    """With the program's name before them, and with the options that they have outside."""
    terminal.type_line("moondream-station status")
    terminal.wait_for("Active: no model")
    terminal.type_line("logs")
    terminal.wait_for("No activation is on record")
    terminal.type_line("help prune")
    terminal.wait_for("--dry-run")
    terminal.type_line("models --nonsense")
    terminal.wait_for("No such option")
    terminal.type_line("help quit")
    terminal.wait_for("what it has downloaded is kept")
    terminal.type_line("settings set service_port 2021")
    terminal.wait_for("service_port is 2021.")
    terminal.type_line("clear")
    terminal.wait_until(lambda lines: not any("service_port" in line for line in lines))
    terminal.type_line("help")
    lines = terminal.wait_for("stop the station (also Ctrl-D)")
    assert any(line.startswith("prune [--dry-run]") for line in lines)
    terminal.wait_until(lambda lines: lines[-1] == "no model")  # no line was broken: each command has one


@pytest.mark.terminal
def test_lines_are_remembered(premises: Premises) -> None:
    """By the next session too, in a file of the user's own; `quit` says what becomes of a switch."""
    for session in range(2):
        with open_terminal(
            command(), columns=80, rows=_ROWS, environ=premises.environ, clean=True
        ) as terminal:
            terminal.wait_for("`help` lists the commands.")
            terminal.wait_for("moondream>")
            if session:
                terminal.press("Up", "Up")
                terminal.wait_for("moondream> switch colours")
                terminal.press("C-c")
                terminal.type_line("history")
                terminal.wait_for("switch colours")
            else:
                premises.index.faults.append(Fault(match="/whl/*", hang_after_bytes=0))
                terminal.type_line("switch colours")
                terminal.wait_for("Switching to colours")
                terminal.type_line("quit")
                terminal.wait_for("The switch to colours is cancelled.")
                assert terminal.exit_code() == 0
    assert premises.home.history.stat().st_mode & 0o777 == 0o600


@pytest.mark.terminal
def test_what_happens_gets_lines_of_its_own_on_a_dumb_terminal(installed: Premises) -> None:
    """None stands behind the prompt, which is written again."""
    with open_terminal(
        ["env", "TERM=dumb", *command()], columns=80, rows=_ROWS, environ=installed.environ, clean=True
    ) as terminal:
        lines = terminal.wait_for("Verified: torch")
        assert not any("moondream> W" in line or "moondream> V" in line for line in lines)
        terminal.wait_until(lambda lines: lines[-1] == "moondream>")


@pytest.mark.terminal
def test_control_c_cancels_and_the_prompt_goes_on(terminal: Terminal, premises: Premises) -> None:
    """Where a line was begun, that is discarded, and nothing else."""
    premises.index.faults.append(Fault(match="/whl/*", hang_after_bytes=0))
    terminal.type_line("switch colours")
    terminal.wait_for("Switching to colours")
    terminal.wait_until(lambda lines: "moondream>" in lines)  # earlier the key would be a signal
    terminal.press("n", "o")
    terminal.wait_for("moondream> no")
    terminal.press("C-c")
    terminal.wait_until(lambda lines: "moondream> no" in lines and "moondream>" in lines)
    assert "Cancelled at" not in "\n".join(terminal.screen())  # a line that was begun goes first
    terminal.press("C-c")
    terminal.wait_for("Cancelled at")
    terminal.type_line("status")
    terminal.wait_for("Active: no model")


@pytest.mark.terminal
@pytest.mark.parametrize("end", ["C-c", "SIGTERM"])
def test_a_plan_is_cancelled(terminal: Terminal, premises: Premises, end: str) -> None:
    """Long before an index that does not answer has had its eight seconds."""
    premises.index.faults.append(Fault(match="/whl/*", hang_after_bytes=0))
    terminal.type_line("plan torch")
    premises.index.wait_for("/torch/", bytes_sent=0)
    began = time.monotonic()
    if end == "C-c":
        terminal.press("C-c")
        terminal.wait_for("Cancelled.")
        terminal.type_line("status")
        terminal.wait_for("Active: no model")
    else:
        terminal.program().send_signal(signal.SIGTERM)
        assert terminal.exit_code() == 0
    assert time.monotonic() - began < 4


@pytest.mark.terminal
def test_what_is_followed_ends_and_the_prompt_still_heeds_signals(terminal: Terminal) -> None:
    """`logs --follow` ignores further signals once it is to end: it alone."""
    terminal.type_line("switch colours")
    terminal.wait_for("colours on cpu, worker ready")
    for command_line in ("logs --follow", "status --watch"):
        terminal.type_line("clear")
        terminal.type_line(command_line)
        terminal.wait_for("colours is active" if "logs" in command_line else "Environment:")
        terminal.press("C-c")
        terminal.wait_until(lambda lines: lines[-1] == "colours on cpu, worker ready")
    terminal.program().send_signal(signal.SIGTERM)
    assert terminal.exit_code() == 0


@pytest.mark.terminal
@pytest.mark.parametrize("end", ["C-d", "SIGTERM"])
def test_the_end_of_the_terminal_and_signals_end_it(terminal: Terminal, premises: Premises, end: str) -> None:
    """Exit code 0, nothing left behind."""
    if end == "C-d":
        terminal.press(end)
    else:
        terminal.program().send_signal(signal.SIGTERM)
    assert terminal.exit_code() == 0
    assert processes_naming(premises.folder) == []


def test_without_a_terminal_it_names_serve(installed: Premises) -> None:
    """Exit code 2 and the hint."""
    done = run(installed)
    assert done.returncode == 2
    assert "moondream-station serve" in done.stderr
