"""`switch`; and how an activation is requested and shown to its end, here or in the serving station."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio.to_thread

from moondream_station.console.interrupts import (
    CANCELLED,
    DONE,
    FAILED,
    cancel_on_signal,
    ignore_signals,
    run_loop,
)
from moondream_station.console.logging import begin
from moondream_station.console.output import print_json, print_progress, write
from moondream_station.console.presenting import (
    JsonPresenter,
    Presenter,
    Told,
    present,
    presenter_for_people,
)
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts import events
from moondream_station.core.facts.codec import event_from_json, event_to_json
from moondream_station.core.facts.errors import (
    DoesNotFit,
    NothingToCancel,
    StationError,
    StationUnreachable,
    UnknownModel,
    UsageError,
)
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home, absolute
from moondream_station.core.home.locks import Holder, StationRecord, read_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.task_groups import as_raised
from moondream_station.panel.words import waiting_text

if TYPE_CHECKING:
    from moondream_station.core.station import Station
    from moondream_station.http.client import Accepted, StationClient

_POLL_SECONDS = 0.25
_Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of `switch`."""

    model: str
    strategy: str | None
    upgrade: bool
    python: Path | None
    anyway: bool
    accept_notice: bool

    @property
    def flags(self) -> dict[str, Any]:
        """All but the model and the strategy, as a station takes them."""
        return {name: value for name, value in asdict(self).items() if name not in {"model", "strategy"}}


def run_switch(*, as_json: bool, **chosen: Any) -> int:
    """Activate a model by `_Options`; returns the exit code.

    With `as_json` the last line is a terminal event, also where an activation could not begin, or not be
    followed to its end.
    """
    options = _Options(**chosen)
    presenter = JsonPresenter() if as_json else None
    try:
        with as_raised():
            return _run(options, presenter)
    except UsageError:
        raise
    except StationError as error:
        if presenter is None or (presenter.last is not None and presenter.last.is_terminal):
            raise
        end = events.ActivationFailed(model=options.model, stage=presenter.stage, error=error.info)
        _print_end(presenter, end)
        return FAILED
    except KeyboardInterrupt:
        if presenter is None or presenter.last is not None:
            raise
        reason, stage = events.CancelReason.USER, presenter.stage
        _print_end(presenter, events.ActivationCancelled(model=options.model, stage=stage, reason=reason))
        return CANCELLED


def _print_end(presenter: JsonPresenter, fact: events.Fact) -> None:
    """Print the terminal event of an activation that nobody could publish one of."""
    now, last = datetime.now(UTC), presenter.last
    seq = max(int(now.timestamp() * 1_000_000), last.seq + 1 if last else 0)
    event = events.Event(seq=seq, at=now, activation=last.activation if last else None, fact=fact)
    print_json({**event_to_json(event), "activation": event.activation})


def _run(options: _Options, presenter: Presenter | None) -> int:
    home, settings = begin(strategy=options.strategy)
    check_strategy(settings.strategy)
    python = options.python and absolute(options.python)
    if python is not None and not python.is_file():
        raise UsageError(f"There is no file {python}.", hint="Give the path of a Python interpreter.")
    accepted = options.accept_notice or (presenter is None and _accepts_notice(home, settings, options.model))
    options = replace(options, strategy=settings.strategy, python=python, accept_notice=accepted)
    if presenter is not None:
        return run_loop(_switch, home, settings, options, presenter)
    shown = Told(presenter_for_people())
    code = run_loop(_switch, home, settings, options, shown)
    is_too_much = shown.error is not None and shown.error.code == DoesNotFit.code
    if is_too_much and _is_answered() and _agrees(f"Switch to {options.model} anyway?"):
        return run_loop(_switch, home, settings, replace(options, anyway=True), presenter_for_people())
    return code


def _accepts_notice(home: Home, settings: Settings, model: str) -> bool:
    """Ask for the model's notice, where somebody can answer; whoever declines gets the error."""
    if not _is_answered():
        return False
    with suppress(StationError):  # which the switch meets again, and reports
        if notice := run_loop(_open_notice, home, settings, model):
            print_progress(notice)
            return _agrees(f"Accept this, and switch to {model}?")
    return False


def _is_answered() -> bool:
    """Whether there is somebody to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _agrees(question: str) -> bool:
    write(sys.stderr, f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _open_notice(home: Home, settings: Settings, model: str) -> str | None:
    """The notice that must be accepted before a switch to a model, None where there is none."""
    from moondream_station.core.activation.models import accepted_notices  # noqa: PLC0415  on terminals
    from moondream_station.core.backends.manifest_loader import open_manifest  # noqa: PLC0415
    from moondream_station.core.views.overview import notice_shape  # noqa: PLC0415
    from moondream_station.http.client import StationClient  # noqa: PLC0415

    if (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        async with StationClient(record.address, token=record.token) as client:
            models = (await client.models())["models"]
        notice = next((shown["notice"] for shown in models if shown["id"] == model), None)
    else:
        manifest = await open_manifest(home, settings, os.environ)
        notice = notice_shape(manifest.models.get(model), accepted_notices(home))
    if notice is None or notice["accepted"]:
        return None
    return "\n".join(filter(None, (notice["text"], notice["url"])))


async def _switch(home: Home, settings: Settings, options: _Options, presenter: Presenter) -> int:
    def request_here(station: Station) -> None:
        with suppress(UnknownModel):  # published, and so presented
            station.request_switch(options.model, **options.flags)

    async def request_there(client: StationClient) -> Accepted | None:
        try:
            return await client.switch(options.model, options.strategy, **options.flags)
        except UnknownModel:
            return None  # published, and so presented

    if (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        return await activate_there(home, record, options.model, request_there, presenter)
    code = await activate_here(home, settings, request_here, presenter)
    if code == DONE and (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        await _hand_over(home, record, options)
    return code


async def _hand_over(home: Home, record: StationRecord, options: _Options) -> None:
    """Let a station that began to serve while this command switched serve the model now.

    The environment exists, so this costs the station one worker start, which is not waited for.
    """
    active = await anyio.to_thread.run_sync(read_active, home)
    if active.model != options.model:
        return  # another command has switched since
    result = "was not notified: interrupted."
    with anyio.CancelScope() as scope, cancel_on_signal(lambda _: scope.cancel()):
        result = await _tell(record, options, environment=active.models[options.model].environment)
    if result:
        print_progress(f"The station at {record.address} {result}")


async def _tell(record: StationRecord, options: _Options, *, environment: str) -> str:
    """Tell a station to serve a model from its environment; returns what to report, "" for nothing."""
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    try:
        async with StationClient(record.address, token=record.token) as client:
            status = await client.status()
            served = status["active"]["environment"] if status["active"] else None
            # A station that is switching was asked for something later than this.
            if status["activation"] is not None or served == environment:
                return ""
            await client.switch(options.model, options.strategy, **replace(options, upgrade=False).flags)
    except StationError as error:
        return f"was not notified: {error.message}"
    return f"was notified, and is switching to {options.model}."


async def activate_here(
    home: Home, settings: Settings, request: Callable[[Station], object], presenter: Presenter
) -> int:
    """Open a station for this command alone, `request` an activation, and show it; returns the exit code.

    No station serves the home. What `request` suppresses must have been published.
    """
    from moondream_station.core.station import open_station  # noqa: PLC0415  a station that serves has its own

    async with open_station(home, settings, os.environ) as station:

        def cancel(reason: events.CancelReason) -> None:
            presenter.cancelling()
            with suppress(NothingToCancel):
                station.request_cancel(reason)

        with cancel_on_signal(cancel):
            async with station.bus.subscribe() as events:
                request(station)
                code = await present(events, presenter)
                ignore_signals()  # the outcome has been shown
    return code


async def activate_there(
    home: Home,
    record: StationRecord,
    model: str,
    request: Callable[[StationClient], Awaitable[Accepted | None]],
    presenter: Presenter,
    *,
    is_all: bool = True,
) -> int:
    """Request an activation of a model from the serving station, and show it; returns the exit code.

    `request` returns None for a refusal that the station has published. Ctrl-C cancels an activation that
    this command began, and leaves one that it joined. Signals are ignored afterwards, unless the command has
    more to do (`is_all` is False). An error comes in a group (`as_raised`).
    """
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    code, cancelled = CANCELLED, None
    interrupted = anyio.Event()
    following, listening = anyio.CancelScope(), anyio.CancelScope()
    sending, published = anyio.create_memory_object_stream[_Message]()

    async def heed_interrupt(begun: str | None) -> None:
        nonlocal cancelled
        await interrupted.wait()
        if begun is None:
            following.cancel()
            return
        presenter.cancelling()
        cancelled = begun
        # By its id: `POST /v1/station/cancel` would cancel another one that has superseded it meanwhile.
        await anyio.to_thread.run_sync(ask_to_cancel, home, begun)

    async def listen(messages: AsyncIterator[_Message]) -> None:
        async with sending:
            with listening, suppress(StationUnreachable):
                async for message in messages:
                    await sending.send(message)

    async def listen_no_longer() -> None:
        await wait_until_gone(home, record)
        listening.cancel()

    async with (
        published,
        StationClient(record.address, token=record.token) as client,
        client.follow() as messages,
        anyio.create_task_group() as tasks,
    ):
        with cancel_on_signal(lambda _: interrupted.set()):
            accepted = await request(client)
            activation = accepted.activation if accepted is not None else None
            with following:
                tasks.start_soon(heed_interrupt, activation if accepted and not accepted.joined else None)
                tasks.start_soon(listen, messages)
                tasks.start_soon(listen_no_longer)
                refused = _refused(published, model)
                shown = _from_the_beginning(home, published, activation) if activation else refused
                code = await present(shown, presenter, activation=activation)
            if is_all:
                ignore_signals()  # the outcome has been shown
        tasks.cancel_scope.cancel()
    if cancelled is not None:
        await anyio.to_thread.run_sync(withdraw, home, cancelled)
    return code


def report_wait(holder: Holder | None) -> None:
    """Print which process is waited for."""
    known = (holder.pid, holder.command, holder.since) if holder else (None, None, None)
    print_progress(waiting_text(*known))


async def wait_until_gone(home: Home, record: StationRecord) -> None:
    """Wait while the station serves; another one may take its place, even at its address."""
    while await anyio.to_thread.run_sync(read_station, home) == record:  # noqa: ASYNC110  of another process
        await anyio.sleep(_POLL_SECONDS)


async def _from_the_beginning(
    home: Home, messages: AsyncIterable[_Message], activation: str
) -> AsyncIterator[events.Event]:
    """An activation's events; what came before a snapshot, or was a station's last, is in its journal."""
    last_seq = 0

    async def news(message: _Message | None) -> list[events.Event]:
        nonlocal last_seq
        if message is None or message["event"] == "Snapshot":
            known = await anyio.to_thread.run_sync(read_activation, home, activation)
        else:
            known = [event_from_json(message)]
        new = [event for event in known if event.seq > last_seq]
        last_seq = new[-1].seq if new else last_seq
        return new

    async for message in messages:
        for event in await news(message):
            yield event
    for event in await news(None):
        yield event
    raise StationUnreachable(
        "The station ended in the middle of the switch.",
        hint="`moondream-station status` shows what is active; run the command again.",
    )


async def _refused(messages: AsyncIterable[_Message], model: str) -> AsyncIterator[events.Event]:
    """The events without requests for other models, which may have come before the refused one."""
    async for message in messages:
        if message["event"] == "Snapshot":
            continue
        event = event_from_json(message)
        if not isinstance(event.fact, events.BackendActivationRequested) or event.fact.model == model:
            yield event
