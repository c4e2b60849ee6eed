"""Every command's exit code, and what it prints where: results and errors with `--json` on stdout alone.

The command line is called in this process, which takes a tenth of the time; that a process of its own ends
with that code is seen in the other files here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from moondream_station.cli.app import app
from moondream_station.cli.run import _internal
from support.commands import call_here, run_json
from support.stations import Premises, activate, open_premises

DONE, FAILED, USAGE = 0, 1, 2

_COMMANDS = sorted(command.name or "" for command in app.registered_commands)
_NEEDS_MODEL = {"switch", "remove", "rollback"}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with the active model `colours`, and `shapes` and `hollow`, which no station can run."""
    with open_premises(tmp_path_factory.mktemp("lasting")) as premises:
        premises.add_model("colours")
        premises.add_model("shapes", supported_os=["plan9"])
        premises.add_model("hollow", backend="gone")
        activate(premises, "colours")
        (premises.folder / "requirements.txt").write_text("torch>=2.8\n")
        (premises.folder / "wrong.txt").write_text("torch>>2\n")
        (premises.folder / "options.txt").write_text("-e .\n")
        (premises.folder / "record.json").write_text("{}")
        yield premises


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(lasting: Premises) -> Call:
    """Call the command line with the variables of the premises, and others, in their folder."""
    return partial(call_here, lasting)


@dataclass(frozen=True)
class Case:
    """A command line and its end.

    Args:
        line: The words after the program's name.
        exit: The exit code.
        code: The error's code, None where a result is printed.
    """

    line: str
    exit: int
    code: str | None = None


CASES = [
    Case("--version", DONE),
    Case("models", DONE),
    Case("status", DONE),
    Case("logs", DONE),
    Case("logs colours", DONE),
    Case("prune --dry-run", DONE),
    Case("plan", DONE),
    Case("plan --offline torch", DONE),
    Case("plan -r requirements.txt", DONE),
    Case("plan --model colours", DONE),
    Case("doctor", DONE),
    Case("doctor --offline", DONE),
    Case("doctor --offline --fix", DONE),
    Case("doctor --offline --record machine.json", DONE),
    Case("", USAGE, "usage"),
    Case("nope", USAGE, "usage"),
    Case("--nope", USAGE, "usage"),
    Case("models more", USAGE, "usage"),
    Case("status --watch=1", USAGE, "usage"),
    Case("logs a b", USAGE, "usage"),
    Case("plan torch>>1", USAGE, "usage"),
    Case("plan -r wrong.txt", USAGE, "usage"),
    Case("plan -r nowhere.txt", USAGE, "usage"),
    Case("plan -r .", USAGE, "usage"),
    Case("plan --machine nowhere.json", USAGE, "usage"),
    Case("plan --machine record.json", USAGE, "usage"),
    Case("plan --python three", USAGE, "usage"),
    Case("plan --strategy fastest", USAGE, "usage"),
    Case("doctor --machine nowhere.json", USAGE, "usage"),
    Case("doctor --machine record.json", USAGE, "usage"),
    Case("doctor --record nowhere/machine.json", USAGE, "usage"),
    Case("doctor --fix --machine record.json", USAGE, "usage"),
    Case("serve --port 70000", USAGE, "usage"),
    Case("serve --port any", USAGE, "usage"),
    Case("switch colours --strategy fastest", USAGE, "usage"),
    Case("switch colours --python nowhere/python", USAGE, "usage"),
    Case("caption nowhere.jpg", USAGE, "usage"),
    Case("query requirements.txt", USAGE, "usage"),
    *(Case(f"{name} nowhere.jpg dog", USAGE, "usage") for name in ("detect", "point", "segment")),
    Case("infer caption nowhere.jpg length=short", USAGE, "usage"),
    Case("mcp --folder nowhere", USAGE, "usage"),
    Case("stop", FAILED, "station-unreachable"),
    Case("plan --model nope", FAILED, "unknown-model"),
    Case("plan --model shapes", FAILED, "unsupported-model"),
    Case("plan --model hollow", FAILED, "unsupported-model"),
    Case("plan -r options.txt", FAILED, "requirements-unsafe"),
    Case("cancel", FAILED, "nothing-running"),
    Case("stop", FAILED, "station-unreachable"),
    Case("settings", DONE),
    Case("settings set service_port any", USAGE, "usage"),
    Case("logs nope", FAILED, "unknown-model"),
    Case("remove nope", FAILED, "unknown-model"),
    Case("rollback nope", FAILED, "unknown-model"),
    Case("rollback colours", FAILED, "nothing-to-roll-back"),
    Case("serve --port 0 --model nope", FAILED, "unknown-model"),
    Case("serve --port 0 --model shapes", FAILED, "unsupported-model"),
    Case("serve --port 0 --host no.such.host.invalid", FAILED, "address-unusable"),
    *(Case(f"{name} --nope", USAGE, "usage") for name in _COMMANDS),
    *(Case(name, USAGE, "usage") for name in _COMMANDS if name in _NEEDS_MODEL),
    *(Case(f"{name} ''", USAGE, "usage") for name in ("switch", "remove", "rollback", "logs")),
    *(Case(f"{name} --model ' '", USAGE, "usage") for name in ("plan", "serve --port 0")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line or "(nothing)")
def test_with_json_one_line_says_it(call: Call, lasting: Premises, case: Case) -> None:
    """The exit code is the contract's; the result or error is the one line on stdout; nothing happened."""
    journals = set(lasting.home.activations.iterdir())
    done = call(*shlex.split(case.line), "--json")
    assert done.returncode == case.exit, done
    assert set(lasting.home.activations.iterdir()) == journals
    (line,) = done.stdout.splitlines()
    shown = json.loads(line)
    if case.code is None:
        assert "error" not in shown
        return
    assert shown["error"]["code"] == case.code
    assert shown["error"]["message"]
    assert shown["error"]["hint"]
    assert "error: " not in done.stderr


@pytest.mark.parametrize(
    "line", ["models", "status", "logs", "cancel", "prune --dry-run", "plan --offline", "switch shapes"]
)
def test_json_may_stand_before_the_command(call: Call, line: str) -> None:
    """Results and errors are then JSON too, as they are with `--json` behind it."""
    before, behind = call("--json", *line.split()), call(*line.split(), "--json")
    assert before.returncode == behind.returncode
    shown = [json.loads(one) for one in before.stdout.splitlines()]
    assert [list(one) for one in shown] == [list(json.loads(one)) for one in behind.stdout.splitlines()]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.code], ids=lambda case: case.line or "(nothing)"
)
def test_for_people_an_error_is_on_stderr(call: Call, case: Case) -> None:
    """Stdout stays empty; the error is told with its hint, without a traceback."""
    done = call(*shlex.split(case.line))
    assert (done.returncode, done.stdout) == (case.exit, ""), done
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert told[0].startswith("error: ")
    assert told[1].startswith("  hint: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_and_json_everywhere(call: Call, name: str) -> None:
    """Every command explains itself, and takes `--json`."""
    done = call(name, "--help")
    assert (done.returncode, done.stderr) == (DONE, "")
    assert f"Usage: moondream-station {name}" in done.stdout
    assert "--json" in done.stdout


def test_an_error_found_is_exit_1(call: Call, lasting: Premises) -> None:
    """`doctor` with an error and `plan` without a build print their whole result."""
    plan = call("plan", "torch>=99", "--json")
    assert (plan.returncode, json.loads(plan.stdout)["build"]) == (FAILED, None)
    broken = str(lasting.folder / "nowhere.json")
    report = call("doctor", "--offline", "--json", MOONDREAM_STATION_MANIFEST=broken)
    assert (report.returncode, json.loads(report.stdout)["ok"]) == (FAILED, False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("nope",), "unknown-model"), (("shapes",), "unsupported-model")],
)
def test_a_switch_ends_with_its_terminal_event(call: Call, arguments: tuple[str, ...], code: str) -> None:
    """Its last line on stdout says why, not an error object; the attempt was published."""
    done = call("switch", *arguments, "--json")
    assert done.returncode == FAILED
    requested, *_, last = map(json.loads, done.stdout.splitlines())
    assert requested["event"] == "BackendActivationRequested"
    assert (last["event"], last["stage"], last["error"]["code"]) == ("ActivationFailed", "prepare", code)


def test_a_broken_set_up_of_pip_is_told_where_it_matters(call: Call, lasting: Premises) -> None:
    """What is on this disk is used without it; a switch that asks indexes ends with its terminal event."""
    broken = lasting.folder / "pip.conf"
    broken.write_text("no section\n")
    assert call("models", "--json", PIP_CONFIG_FILE=str(broken)).returncode == DONE
    assert call("switch", "colours", "--json", PIP_CONFIG_FILE=str(broken)).returncode == DONE
    switched = call("switch", "colours", "--upgrade", "--json", PIP_CONFIG_FILE=str(broken))
    last = json.loads(switched.stdout.splitlines()[-1])
    assert (switched.returncode, last["event"], last["error"]["code"]) == (
        FAILED,
        "ActivationFailed",
        "settings-invalid",
    )
    findings = json.loads(call("doctor", "--json", PIP_CONFIG_FILE=str(broken)).stdout)["findings"]
    status = {finding["id"]: finding["status"] for finding in findings}
    assert status["backends.manifest"] == "ok"
    assert status["network.settings"] in {"warning", "error"}


@pytest.mark.parametrize(
    ("code", "variable"),
    [
        ("manifest-invalid", "MOONDREAM_STATION_MANIFEST"),
        ("settings-invalid", "MOONDREAM_STATION_LOG"),
        ("home-unusable", "MOONDREAM_STATION_HOME"),
    ],
)
def test_a_switch_that_can_not_begin_ends_all_the_same(
    call: Call, lasting: Premises, code: str, variable: str
) -> None:
    """Its one line is the terminal event of an activation that was never published, and so has no id."""
    journals = set(lasting.home.activations.iterdir())
    done = call("switch", "colours", "--json", **{variable: str(lasting.folder / "record.json")})
    (end,) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, end["event"], end["stage"]) == (FAILED, "ActivationFailed", "prepare")
    assert (end["activation"], end["model"], end["error"]["code"]) == (None, "colours", code)
    assert set(lasting.home.activations.iterdir()) == journals


@pytest.mark.parametrize(
    "line", ["models", "status", "plan", "switch colours", "serve --port 0", "prune", "rollback colours"]
)
def test_a_home_that_is_no_folder(tmp_path: Path, call: Call, line: str) -> None:
    """Every command says so, and none makes it one."""
    place = tmp_path / "file"
    place.write_text("mine")
    done = call(*line.split(), "--json", MOONDREAM_STATION_HOME=str(place))
    assert done.returncode == FAILED
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["error"]["code"] == "home-unusable"
    assert place.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "models",
        "status",
        "cancel",
        "rollback colours",
        "logs",
        "plan --offline",
        "doctor --offline",
        "doctor --fix",
        "remove colours",
        "prune",
        "prune --dry-run",
        "settings",
    ],
)
def test_looking_makes_no_home(tmp_path: Path, call: Call, line: str) -> None:
    """What only looks, or finds nothing to change, leaves nothing where nothing was."""
    call(*line.split(), MOONDREAM_STATION_HOME=str(tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_a_case() -> None:
    """A new command must say how it ends."""
    asked = {case.line.split()[0] for case in CASES if case.line and not case.line.endswith("--nope")}
    assert set(_COMMANDS) - asked == set()


def test_a_bug_is_reported_as_one() -> None:
    """With the kind of error, and without a traceback."""
    error = _internal(TypeError("'NoneType' object is not iterable"))
    assert error.code == "internal-error"
    assert (
        error.message
        == "Internal error (a bug in Moondream Station): TypeError: 'NoneType' object is not iterable"
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["swich", "two words"], "Run `moondream-station switch 'two words' --json`."),
        (["status", "--wach"], "Run `moondream-station status --help`."),
        (["nothing-like-it"], "Run `moondream-station --help`."),
        (["--vers", "switch"], "Run `moondream-station --help`."),
    ],
)
def test_a_hint_names_the_command_that_was_meant(premises: Premises, words: list[str], hint: str) -> None:
    """As a whole line to copy where its name was mistyped, else its help."""
    assert run_json(premises, *words)["error"]["hint"] == hint
