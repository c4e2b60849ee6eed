"""What servers, manifests and backends word never controls the terminal that it is shown on."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from moondream_station.console.logging import configure_logging
from moondream_station.core.facts.printable import printable
from moondream_station.core.home.log import Log, set_up_logging
from support.commands import run
from support.stations import Premises, open_premises

_EVIL = "be\x1b]0;title\x07fore\x1b[2J\x9b2Jback\x08\u202egnp.\u2028line"
_CONTROLS = "\x1b\x07\x08\x9b\u202e\u2028\r"


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A manifest, and a backend that can't be had, both with control characters in their words."""
    with open_premises(tmp_path_factory.mktemp("foreign")) as opened:
        opened.add_model("colours", description=_EVIL)
        opened.add_model("nowhere", description=_EVIL, code_url=f"https://127.0.0.1:9/{_EVIL}")
        opened.add_model("refused", requirements=f"torch @ {_EVIL}\n")
        yield opened


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        ("switch", "nowhere"),
        ("switch", "refused"),
        ("switch", _EVIL),
        ("plan", "--offline", "-r", f"/nowhere/{_EVIL}"),
        ("doctor",),
    ],
)
def test_no_command_prints_control_characters(premises: Premises, arguments: tuple[str, ...]) -> None:
    """Neither among results nor among messages; what is readable stays."""
    completed = run(premises, *arguments, PIP_EXTRA_INDEX_URL=f"https://127.0.0.1:9/{_EVIL}")
    output = completed.stdout + completed.stderr
    assert output.strip()
    assert not set(_CONTROLS) & set(output)


def test_a_backends_output_is_shown_without_them(premises: Premises) -> None:
    """`logs` shows what a worker wrote."""
    premises.home.create()
    premises.home.worker_log("colours").write_text(f"{_EVIL}\n")
    completed = run(premises, "logs")
    assert not set(_CONTROLS) & set(completed.stdout + completed.stderr)


class _Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_the_log_on_a_terminal_has_none_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields and tracebacks; colours are the log's own."""
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    try:
        configure_logging("debug")
        Log().debug("output", text=_EVIL)
        try:
            pytest.fail(_EVIL)
        except pytest.fail.Exception:
            Log().exception("failed")
    finally:
        set_up_logging(logging.NOTSET, lambda: None)
        structlog.reset_defaults()
    shown = terminal.getvalue()
    assert "title" in shown
    assert "Traceback" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert not set(_CONTROLS) - {"\x1b"} & set(shown)


def test_what_only_shows_itself_stays() -> None:
    """Letters of every script, line ends and tabs."""
    assert printable("Žluť → 山\n\tx") == "Žluť → 山\n\tx"
    assert printable("a\x1b[1mb\r\n") == "a [1mb \n"
