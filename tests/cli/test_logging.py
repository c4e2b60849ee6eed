"""What is logged, and where it goes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from moondream_station.console.logging import configure_logging
from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.home.log import Log, is_logged, set_up_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a process sets up belongs to all of it."""
    yield
    set_up_logging(logging.NOTSET, lambda: None)
    structlog.reset_defaults()


def test_lines_of_the_level_and_above_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line where stderr is no terminal; stdout belongs to results."""
    configure_logging(None)
    log = Log()
    log.info("small", number=1)
    log.warning("large", number=2)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = map(json.loads, err.splitlines())
    assert (line["event"], line["level"], line["number"]) == ("large", "warning", 2)
    assert is_logged(logging.WARNING)
    assert not is_logged(logging.INFO)


def test_the_user_may_see_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A level is known in either case; an unknown one is refused with those that there are."""
    configure_logging("DEBUG")
    Log().debug("small")
    assert json.loads(capsys.readouterr().err)["event"] == "small"
    with pytest.raises(SettingsInvalid, match="not a log level"):
        configure_logging("loud")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_fault_of_ours_is_logged_with_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """Where it happened can be reported; the values of variables stay out, because they may be secret."""
    configure_logging(None)
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr.isatty", lambda: is_terminal)
        secret = "hunter" + "2"
        try:
            len(secret) // 0
        except ZeroDivisionError:
            Log().exception("request failed", path="/v1/caption")
    said = capsys.readouterr().err
    if not is_terminal:
        line = json.loads(said)
        assert (line["event"], line["level"], line["path"]) == ("request failed", "error", "/v1/caption")
        said = line["exception"]
    assert "Traceback (most recent call last)" in said
    assert "ZeroDivisionError" in said
    assert "hunter2" not in said
