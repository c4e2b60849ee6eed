"""`switch` in real terminals: whole activations on a slow index, their ends, and what is gone on from.

What differs from run to run is taken out of the screens before they are held against `snapshots/switch-*`.
After a wanted change, run this file once with UPDATE_SNAPSHOTS=1 and look at what changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import IndexUnreachable
from support.commands import command, run_json, switch
from support.fake_driver import install_driver
from support.index_traffic import Fault
from support.snapshot_files import check_snapshot
from support.stations import Premises, open_premises
from support.terminal import Terminal, open_terminal
from support.wheels import TorchBehaviour

pytestmark = pytest.mark.terminal

_SNAPSHOTS = Path(__file__).parent / "snapshots"
_TORCH_BYTES = 3_000_000
_WHEEL = "/whl/cu*/torch-2.9.9*.whl"
_WIDTHS = pytest.mark.parametrize("columns", [80, 40])

_VARYING: Sequence[tuple[str, str]] = (
    (r"\s+\d+:\d\d$", ""),  # clocks at the right
    (r"pid \d+", "pid N"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}\b", "ENVIRONMENT"),
    (r"\d+\.\d+ s\b", "SECONDS"),
    (r"[━─]{20}", "BAR"),
    (r" +\d+% ", " N% "),
    (r"\d+\.\d [kM]B/s", "SPEED"),
    (r"\d+:\d\d left", "TIME left"),
    (r"\d+\.\d [kM]B of", "N MB of"),
    (r"resumed from \d+\.\d [kM]B", "resumed from N MB"),
    (r"\d+\.\d [kM]B (already downloaded|reused)", r"N MB \1"),
    (r"\d+\.\d kB", "N kB"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    # A long name is wrapped.
    (r"(?<=computes on )(?!CUDA|NVIDIA|Loopback)\S[^\n]*(\n {6,}[^\n]+)?", "PROCESSOR"),
    (r" {2,}", "  "),
)
_WHY = re.compile(r"\n\n(?:  (?!SPEED|torch 2\.9\.9\+).*\n)+")
"""The reason for the build: its words are the selection's matter, and held there."""


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A machine with an NVIDIA GPU, as far as its tool says, and an index with a large torch for it."""
    with open_premises(tmp_path) as premises:
        install_driver(tmp_path / "bin", "560.35.03", "12.6")
        premises.variables["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        premises.add_model("colours")
        premises.index.add_torch("2.9.9", "cu126", filler_bytes=_TORCH_BYTES)
        yield premises


def _switch(premises: Premises, columns: int, **variables: str) -> AbstractContextManager[Terminal]:
    environ = {**premises.environ, "LANG": "C.UTF-8", **variables}
    line = command("switch", "colours")
    return open_terminal(line, columns=columns, rows=40, environ=environ, clean=True)


def _lasting(lines: Sequence[str]) -> str:
    """What is the same in every run."""
    kept = []
    for line in lines:
        shown = line
        for pattern, instead in _VARYING:
            shown = re.sub(pattern, instead, shown)
        kept.append(shown.rstrip())
    return _WHY.sub("\n\n  WHY\n", "\n".join(kept) + "\n")


def _check(name: str, columns: int, lines: Sequence[str]) -> None:
    assert all(len(line) <= columns for line in lines)
    check_snapshot(_SNAPSHOTS / f"switch-{name}-{columns}.txt", _lasting(lines))


def _is_downloading(lines: Sequence[str]) -> bool:
    """Whether speed and remaining time are known by now."""
    text = "\n".join(lines)
    return "B/s" in text and " left" in text


@_WIDTHS
def test_a_whole_activation_on_a_slow_index(premises: Premises, columns: int) -> None:
    """Bytes, speed and remaining time while they arrive; then every stage's result and the command's."""
    premises.index.faults.append(Fault(match=_WHEEL, bytes_per_second=1_000_000))
    with _switch(premises, columns) as terminal:
        _check("downloading", columns, terminal.wait_until(_is_downloading, "a speed"))
        assert terminal.exit_code() == 0
        screen = terminal.screen()
    _check("whole", columns, screen)
    reasons = [event["reason"] for event in run_json(premises, "logs")["events"] if "candidates" in event]
    assert len(reasons) == 1
    assert reasons[0] in " ".join(" ".join(screen).split())


@_WIDTHS
def test_cancelling_and_going_on(premises: Premises, columns: int) -> None:
    """Ctrl-C ends it with 130 and says what is kept; the next run goes on from there, and shows that."""
    stalled = Fault(match=_WHEEL, bytes_per_second=1_000_000, hang_after_bytes=_TORCH_BYTES // 2)
    premises.index.faults.append(stalled)
    with _switch(premises, columns) as terminal:
        terminal.wait_until(_is_downloading, "a speed")
        terminal.press("C-c")
        assert terminal.exit_code() == 130
        _check("cancelled", columns, terminal.screen())
    premises.index.faults.remove(stalled)
    premises.index.faults.append(Fault(match=_WHEEL, bytes_per_second=500_000))
    with _switch(premises, columns) as terminal:
        _check("resumed", columns, terminal.wait_until(_is_downloading, "a speed"))
        assert terminal.exit_code() == 0
        _check("whole-resumed", columns, terminal.screen())


@_WIDTHS
def test_an_error_with_its_remedy(premises: Premises, columns: int) -> None:
    """An index that refuses to be asked ends it with 1; what can be done stands below."""
    premises.index.faults.append(Fault(match="/simple/*", status=401))
    premises.index.faults.append(Fault(match="/whl/*", status=500))
    with _switch(premises, columns) as terminal:
        assert terminal.exit_code() == 1
        screen = terminal.screen()
    _check("failed", columns, screen)
    assert f"[{IndexUnreachable.code}]" in "\n".join(screen)


@_WIDTHS
def test_a_degraded_result(premises: Premises, columns: int) -> None:
    """No build for the GPU computes: the processor's does, and the panel says that this is not as meant."""
    blind = TorchBehaviour(cuda="12.8", arch_list=("sm_90",))
    for build in ("cu118", "cu124", "cu126", "cu128", "cu129"):
        premises.index.add_torch("2.9.10", build, behaviour=blind)
    with _switch(premises, columns) as terminal:
        assert terminal.exit_code() == 0
        _check("degraded", columns, terminal.screen())
    assert run_json(premises, "status")["active"]["degraded"] is not None


def test_a_second_run_shows_what_was_there(premises: Premises) -> None:
    """Nothing is fetched or built again, and the panel says so."""
    assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
    with _switch(premises, 80) as terminal:
        assert terminal.exit_code() == 0
        _check("reused", 80, terminal.screen())


def test_without_colour_and_without_drawing(premises: Premises) -> None:
    """NO_COLOR takes the colours alone; TERM=dumb gets a line a fact, and no escape sequence."""
    with _switch(premises, 80, NO_COLOR="1") as terminal:
        assert terminal.exit_code() == 0
        assert not re.search(r"\x1b\[(?:[0-9;]*;)?[34][0-8]", "\n".join(terminal.screen(styled=True)))
        assert "✓ commit" in terminal.screen()
    with _switch(premises, 200, TERM="dumb") as terminal:
        assert terminal.exit_code() == 0
        first, *_, last = terminal.screen()
        assert first == "Switching to colours (strategy auto)"
        assert last.startswith("colours is active on the cu126 build (")
        assert "\x1b" not in "".join(terminal.screen(styled=True))
