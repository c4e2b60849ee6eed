"""What reaches the disk, in which order, and what happens where the disk itself fails; by strace."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from moondream_station.core.home.active_file import read_active
from support.stations import Premises
from support.survival import Survival
from support.traced import traced

_SWITCH = ("switch", "colours", "--upgrade", "--json")
_SYNCS = "fsync,fdatasync,syncfs"
_RENAMES = "rename,renameat,renameat2"
_numbers = itertools.count(10)


def index_of(calls: Sequence[str], *wanted: str) -> int:
    """Where the first successful call is that has these words.

    Raises:
        AssertionError: There is none.
    """
    for number, call in enumerate(calls):
        if all(word in call for word in wanted) and " = 0" in call:
            return number
    raise AssertionError(f"no call with {wanted}")


def test_everything_is_synced_before_it_is_named(lasting: Premises) -> None:
    """The environment, `commit.json` and `active.json`: each is durable before it is named."""
    lasting.index.add_torch(f"2.9.{next(_numbers)}", "cpu")
    done, calls = traced(lasting, f"{_SYNCS},{_RENAMES}", *_SWITCH)
    assert done.returncode == 0, done.stderr
    environment = read_active(lasting.home).models["colours"].environment
    order = [
        index_of(calls, "syncfs(", f"environments/{environment}>"),
        index_of(calls, "fsync(", f"environments/{environment}/.commit.json."),
        index_of(calls, "rename", f"environments/{environment}/commit.json"),
        index_of(calls, "fsync(", "/.active.json."),
        index_of(calls, "rename", "/active.json"),
    ]
    assert order == sorted(order)
    after_commit = [call for call in calls[order[2] :] if "fsync(" in call]
    assert any(f"environments/{environment}>" in call for call in after_commit)
    assert any(call.rstrip().endswith("= 0") and "home>" in call for call in calls[order[4] :])


@dataclass(frozen=True, kw_only=True)
class Break:
    """Calls that fail with an I/O error.

    Args:
        name: What that is.
        calls: Which ones.
        when: The first of them that fails, and all after it ("1+"), or that one alone ("1").
        path: The path that they are about, below the home; empty for any.
    """

    name: str
    calls: str
    when: str = "1+"
    path: str = ""


BREAKS = [
    Break(name="the environment can't be synced", calls="syncfs"),
    Break(name="the pointer can't be synced", calls="fsync", path="active"),
    Break(name="nothing can be synced", calls=_SYNCS),
    Break(name="no name can be given", calls=_RENAMES, when="2+"),
    Break(name="no file can be linked", calls="link,linkat", when="4+"),
    Break(name="no folder can be made", calls="mkdir,mkdirat", when="15+"),
    Break(name="a download can't be written", calls="write", path="partial"),
]


@pytest.mark.faults
@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_a_disk_that_fails(lasting: Premises, broken: Break) -> None:
    """The switch ends with the cause, or without harm; the pointer is whole, and the next switch succeeds."""
    wheel = lasting.index.add_torch(f"2.9.{next(_numbers)}", "cpu", filler_bytes=3_000_000)
    survival = Survival.of(lasting)
    paths = {
        "": (),
        "active": (lasting.home.root,),
        "partial": (lasting.home.downloads / f"{wheel.sha256[:16]}-{wheel.filename}.partial",),
    }[broken.path]
    inject = f"error=EIO:when={broken.when}"
    done, calls = traced(lasting, broken.calls, *_SWITCH, inject=inject, paths=paths)
    assert any("(INJECTED)" in call for call in calls)
    last = json.loads(done.stdout.splitlines()[-1])
    if last["event"] == "ActivationSucceeded":
        assert done.returncode == 0
    else:
        assert (done.returncode, last["event"]) == (1, "ActivationFailed"), done.stdout
        assert last["error"]["code"] != "internal-error", last
        assert last["error"]["hint"], last
    survival.check(fetched_again_at_most=2 * len(wheel.data))
