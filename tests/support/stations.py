"""Stations of a test's own: a home, a manifest and an index in a temporary folder, and machines on record."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psutil

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.facts.events import ActivationFailed, ActivationSucceeded, Event, Fact
from moondream_station.core.facts.state import StationInfo
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import load_settings
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from moondream_station.core.station import Station, open_station
from support.backends import ECHO, write_backend
from support.facts import order_broken
from support.machines import LINUX
from support.torch_index import TorchIndex

T = TypeVar("T")

HERE = replace(
    LINUX,
    machine=platform.machine(),
    python=platform.python_version(),
    libc=platform.libc_ver(),
)
"""Platform facts for machines on record on which wheels for this interpreter can be installed."""

_KEPT = ("PATH", "TMPDIR", "LANG", "LC_ALL", "SYSTEMROOT", "TEMP", "TMP")


@dataclass(frozen=True, kw_only=True)
class Premises:
    """What a station finds around it, all in one folder: nothing of the user's set-up reaches it.

    Args:
        folder: Where everything is; its own home for the user too.
        index: What stands for PyPI and for PyTorch's index.
        variables: Further variables of the user, or others.
    """

    folder: Path
    index: TorchIndex
    variables: dict[str, str] = field(default_factory=dict)
    _manifest: dict[str, Any] = field(
        default_factory=lambda: {"version": "1", "models": {}, "backends": {}}, init=False
    )

    @property
    def home(self) -> Home:
        """The station's home."""
        return Home(root=self.folder / "home")

    @property
    def environ(self) -> dict[str, str]:
        """The user's variables: the loopback index is the only one, and no file of pip's or uv's is read."""
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "HOME": str(self.folder),
            "USERPROFILE": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.simple_url,
            "MOONDREAM_STATION_HOME": str(self.home.root),
            "MOONDREAM_STATION_MANIFEST": str(self.folder / "manifest.json"),
            "MOONDREAM_STATION_TORCH_INDEX": self.index.torch_url,
            "MOONDREAM_STATION_VENDOR_INDEXES": "0",
            **self.variables,
        }

    def add_model(
        self,
        model: str,
        *,
        requirements: str = "torch>=2.8\n",
        source: str = ECHO,
        code_url: str | None = None,
        files: dict[str, str] | None = None,
        allow: dict[str, list[str]] | None = None,
        parallel: str | None = None,
        **fields: object,
    ) -> None:
        """Put a model with a backend of its own into the manifest; calling it again changes it.

        Args:
            model: Its id, and its backend's.
            requirements: Its backend's requirements.txt.
            source: Its backend's code.
            code_url: Where the manifest says that code is; the folder it is written to by default.
            files: Further files beside its code.
            allow: What the manifest allows its requirements.
            parallel: How the manifest says that its backend answers several requests at once.
            fields: Further fields of the model's entry.
        """
        code = write_backend(self.folder / "backends" / model, source, requirements=requirements, files=files)
        self._manifest["backends"][model] = {
            "name": model,
            "download_url": code_url or str(code.folder),
            "entry_module": code.entry_module,
            "functions": list(code.functions),
            "allow": allow or {},
            "parallel": parallel,
        }
        entry = {"name": model, "description": f"The model {model}.", "backend": model, **fields}
        self._manifest["models"][model] = entry
        (self.folder / "manifest.json").write_text(json.dumps(self._manifest))

    @asynccontextmanager
    async def station(
        self, machine: MachineRecord | None = None, *, serves: bool = False, **settings: object
    ) -> AsyncIterator[Station]:
        """Open a station here.

        Args:
            machine: The computer it sees; this one by default.
            serves: Whether it holds the active model's worker, as `serve` does; HTTP is not part of it.
            settings: The user's settings, as flags give them.
        """
        info = StationInfo(instance="of-a-test", pid=os.getpid(), address="http://127.0.0.1:9", version="0")
        async with open_station(
            self.home,
            load_settings(self.home, self.environ, **settings),
            self.environ,
            station=info if serves else None,
            machine=None if machine is None else RecordedMachine(machine),
        ) as station:
            yield station

    def partial_downloads(self) -> dict[str, int]:
        """Sizes of the downloads that are not finished, by name."""
        return {path.name: path.stat().st_size for path in self.home.downloads.glob("*.partial")}

    def environments(self) -> set[str]:
        """Names of the committed environments."""
        return {path.parent.name for path in self.home.environments.glob("*/commit.json")}

    def check_tidy(self) -> None:
        """Nothing half done lies about, and what is active is there."""
        left = {path.name for path in self.home.environments.glob("*")} - self.environments()
        assert left == set(), left
        for folder in (self.home.backends, self.home.downloads, self.home.cache):
            assert list(folder.glob(".trash-*")) == []
        assert list(self.home.cache.glob("lock-*")) == []
        assert read_active(self.home).environments <= self.environments()


@dataclass
class Course:
    """The course of one activation, read as it happens.

    Args:
        events: A subscription from before it was requested.
        activation: Its id.
        joined: Whether it was running already.
        seen: Every event of it so far.
    """

    events: Subscription
    activation: str
    joined: bool
    seen: list[Event] = field(default_factory=list)

    @property
    def facts(self) -> list[Fact]:
        """What has happened so far."""
        return [event.fact for event in self.seen]

    def every(self, kind: type[T]) -> list[T]:
        """The facts of one kind so far."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def only(self, kind: type[T]) -> T:
        """The one fact of its kind so far."""
        (fact,) = self.every(kind)
        return fact

    async def until(self, kind: type[T], **wanted: object) -> T:
        """Read on until a fact of this kind has these values."""
        async for event in self.events:
            if event.activation != self.activation:
                continue
            self.seen.append(event)
            fact = event.fact
            if isinstance(fact, kind) and all(getattr(fact, name) == value for name, value in wanted.items()):
                return fact
            assert not event.is_terminal, f"it ended before any such {kind.__name__}: {fact}"
        raise AssertionError("the subscription ended")

    async def end(self, kind: type[T]) -> T:
        """Read on to the terminal fact, of this kind; all facts came in the contract's order."""
        while not (self.seen and self.seen[-1].is_terminal):
            event = await anext(self.events)
            if event.activation == self.activation:
                self.seen.append(event)
        assert order_broken(self.facts) is None
        last = self.facts[-1]
        assert isinstance(last, kind), last
        return last


@asynccontextmanager
async def course_of(
    station: Station, model: str, strategy: str | None = None, **options: Any
) -> AsyncGenerator[Course, None]:
    """Request a switch, and follow it."""
    async with station.bus.subscribe() as events:
        activation, joined = station.request_switch(model, strategy, **options)
        yield Course(events, activation, joined)


async def switched(station: Station, model: str, strategy: str | None = None, **options: Any) -> Course:
    """Switch, and give the course of it; it must succeed."""
    async with course_of(station, model, strategy, **options) as course:
        await course.end(ActivationSucceeded)
        return course


async def failed(station: Station, model: str, strategy: str | None = None, **options: Any) -> Course:
    """Switch, and give the course of it; it must fail."""
    async with course_of(station, model, strategy, **options) as course:
        await course.end(ActivationFailed)
        return course


def activate(premises: Premises, model: str, *, upgrade: bool = False) -> ActivationSucceeded:
    """Switch in this process, for what a test begins with or ends with: no command has to start for it."""

    async def switch_here() -> ActivationSucceeded:
        async with premises.station() as station:
            course = await switched(station, model, upgrade=upgrade)
            return course.only(ActivationSucceeded)

    return anyio.run(switch_here)


async def caption(station: Station) -> str:
    """What the active model says of nothing."""
    async with station.call("caption", {}, timeout_seconds=30) as answer:
        assert isinstance(answer, dict)
        return str(answer["caption"])


@contextmanager
def open_premises(folder: Path) -> Iterator[Premises]:
    """Premises with an index of the usual wheels; what is left in the end must be whole, and no process."""
    with TorchIndex() as index:
        premises = Premises(folder=folder, index=index.add_usual())
        yield premises
        deadline = time.monotonic() + 10  # what looks after a process notices its end a moment later
        while (left := processes_naming(folder)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
    premises.check_tidy()


def processes_naming(folder: Path) -> list[str]:
    """Command lines of the living processes that name something in a folder, but for pytest itself."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if str(folder) in line and process.pid != os.getpid():
                found.append(line)
    return found
