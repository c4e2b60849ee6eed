"""`caption`, `query`, `detect`, `point`, `segment`, `infer`: the active model's answers on the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from moondream_station.asking.answers import answer_lines, save_answer
from moondream_station.asking.batch import Batch, Question
from moondream_station.asking.images import ImageSource, data_url, image_sources, is_url
from moondream_station.console.interrupts import CANCELLED, DONE, FAILED, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import print_error, print_json, print_progress, print_result, write
from moondream_station.console.presenting import Told, presenter_for_people
from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    BackendError,
    NoActiveModel,
    StationError,
    StationRunning,
    StationUnreachable,
    UsageError,
    WorkerBusy,
    WorkerFailed,
    WorkerLoading,
    WorkerReplaced,
    WorkerTimeout,
)
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home, absolute
from moondream_station.core.home.locks import StationRecord, read_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.client import StationClient

if TYPE_CHECKING:
    from moondream_station.core.station import Station

_STREAMED: Final = frozenset({"caption", "query"})
_ARGUMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_IMAGE_ARGUMENTS: Final = ("image_url", "image")
_OF_ONE_IMAGE = (BackendError, WorkerTimeout, WorkerFailed, WorkerReplaced)
"""What may go wrong with one image and right with the next; anything else ends the command."""
_BUSY_SECONDS: Final = 1.0
_END_SECONDS: Final = 5.0
_IN_EVENTS: Final = frozenset({"chunk", "progress", "stats", "completed"})


def run_caption(*, images: Sequence[str], length: str | None, **options: Any) -> int:
    """Describe images; returns the exit code, as all of these."""
    return _run("caption", images, {} if length is None else {"length": length}, **options)


def run_query(*, words: Sequence[str], **options: Any) -> int:
    """Ask a question, the last word, about images."""
    *images, question = _with_text("query", words, "the question")
    return _run("query", images, {"question": question}, **options)


def run_detect(*, words: Sequence[str], **options: Any) -> int:
    """Find objects, named by the last word."""
    return _look_for("detect", words, options)


def run_point(*, words: Sequence[str], **options: Any) -> int:
    """Point at objects, named by the last word."""
    return _look_for("point", words, options)


def run_segment(*, words: Sequence[str], **options: Any) -> int:
    """Outline an object, named by the last word."""
    return _look_for("segment", words, options)


def run_infer(*, function: str, words: Sequence[str] | None, **options: Any) -> int:
    """Call a function; words are images, and arguments as `NAME=VALUE`."""
    if not function.isidentifier():  # "station/cancel" would be another route of the station
        raise UsageError(
            f"{function!r} can't be the name of a function.",
            hint="For example: caption, query, detect, point.",
        )
    images, arguments = _split(words or ())
    arguments.pop("stream", None)  # how an answer arrives is this command's choice
    return _run(function, images, arguments, **options)


def _look_for(function: str, words: Sequence[str], options: Mapping[str, Any]) -> int:
    *images, what = _with_text(function, words, "what to find")
    return _run(function, images, {"object": what}, **options)


def _with_text(function: str, words: Sequence[str], text: str) -> Sequence[str]:
    if len(words) > 1:
        return words
    example = {"query": '"How many dogs are there?"'}.get(function, "dog")
    raise UsageError(
        f"{function} needs an image and, last, {text}.",
        hint=f"For example: `moondream-station {function} photo.jpg {example}`.",
    )


def _run(
    function: str,
    words: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    model: str | None,
    goes_on: bool,
    as_json: bool,
    save: Path | None = None,
) -> int:
    """Ask a function about every image that the words name; returns the exit code."""
    _check_text([function, arguments, model])
    question = Question(
        function=function,
        arguments=arguments,
        model=model,
        as_json=as_json,
        save=absolute(save) if save is not None else None,
        goes_on=goes_on,
    )
    home, settings = begin()
    sources = image_sources(words) or [ImageSource("")]  # `infer` may call what needs no image
    batch = Batch(home, question, sources)
    if save is not None:
        batch.taken.update(source.path.resolve() for source in sources if source.path is not None)
    try:
        with as_raised():
            return run_loop(_ask, home, settings, batch)
    except KeyboardInterrupt:
        batch.report(interrupted=True)
        return CANCELLED
    except StationError:
        if batch.answered:
            batch.report(interrupted=True)
        raise


def _check_text(given: object) -> None:
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "What is asked holds bytes that are not UTF-8.", hint="Check the terminal's encoding."
        ) from error


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The images and the arguments among the words of `infer`.

    A value is JSON where it can be read so, else text, as is `NaN`, which JSON has not. `image_url=` and
    `image=` name an image too.
    """
    images: list[str] = []
    arguments: dict[str, Any] = {}
    for word in words:
        match = _ARGUMENT.fullmatch(word)
        if match is None or is_url(word):
            images.append(word)
        elif match[1] in _IMAGE_ARGUMENTS:
            images.append(match[2])
        else:
            try:
                value = json.loads(match[2])
                json.dumps(value, allow_nan=False)
            except (ValueError, RecursionError):
                value = match[2]
            arguments[match[1]] = value
    return images, arguments


async def _ask(home: Home, settings: Settings, batch: Batch) -> int:
    question, rest = batch.question, deque(batch.sources)
    while True:
        async with station_for(home, settings, question.model) as record:
            if question.model is not None:
                code = await _switch(home, record, question.model, as_json=question.as_json)
                if code != DONE:
                    return code
            async with StationClient(record.address, token=record.token) as client:
                try:
                    await _begin(client, batch)
                    await _ask_about_all(client, batch, rest)
                except StationUnreachable as error:
                    lost = error
                else:
                    batch.report()
                    return FAILED if batch.failed else DONE
            if record.pid == os.getpid() or not await _has_gone(home, record):
                raise lost
        print_progress("The station that answered has ended.")


async def _has_gone(home: Home, record: StationRecord) -> bool:
    """Whether a station that no longer answers has ended, or does so now."""
    from moondream_station.cli.activate import wait_until_gone  # noqa: PLC0415  rarely needed

    with anyio.move_on_after(_END_SECONDS) as waiting:
        await wait_until_gone(home, record)
    return not waiting.cancelled_caught


async def _begin(client: StationClient, batch: Batch) -> None:
    """Look up what an earlier run has done, with this model."""
    if batch.model is None:
        active = (await client.status())["active"]
        batch.model = active["model"] if active else ""
        await anyio.to_thread.run_sync(batch.begin)


async def _ask_about_all(client: StationClient, batch: Batch, rest: deque[ImageSource]) -> None:
    """Ask about each image that is left; one that could not be asked about stays."""
    while rest:
        if await anyio.to_thread.run_sync(batch.has, rest[0]):
            batch.skipped += 1
        else:
            await _ask_about(client, batch, rest[0])
        rest.popleft()


def active_model(home: Home) -> str:
    """The active model, or `NoActiveModel`."""
    if (model := read_active(home).model) is None:
        raise NoActiveModel(
            "No model is active.",
            hint="`moondream-station switch MODEL` activates one; `moondream-station models` lists them.",
        )
    return model


@asynccontextmanager
async def station_for(home: Home, settings: Settings, model: str | None) -> AsyncIterator[StationRecord]:
    """The station that serves the home, or one for as long as the block runs, and others ask it."""
    record = await anyio.to_thread.run_sync(read_station, home)
    if record is not None:
        yield record
        return
    model = model or await anyio.to_thread.run_sync(active_model, home)
    from moondream_station.cli.serve import serve_here  # noqa: PLC0415  where none serves

    alone = replace(settings, service_host="127.0.0.1", service_port=0, mcp=False)
    serving = serve_here(home, alone, stopping=anyio.Event(), announce=lambda _: None, port_is_explicit=True)
    async with AsyncExitStack() as stack:
        station = None
        with suppress(StationRunning):  # another command has begun to serve since
            station = await stack.enter_async_context(serving)
            print_progress(f"No station is serving; {model} is started for this command alone.")
        record = await anyio.to_thread.run_sync(read_station, home)
        if record is None:
            raise StationUnreachable("The station of another command has just ended.", hint="Run it again.")
        yield record
        while station is not None and _is_asked(station):  # noqa: ASYNC110  by other commands
            await anyio.sleep(_BUSY_SECONDS)


def _is_asked(station: Station) -> bool:
    stats = station.stats()
    return bool(stats["processing"] or stats["queue_size"])


async def _switch(home: Home, record: StationRecord, model: str, *, as_json: bool) -> int:
    """Make a model the active one, if it is not; shown on stderr, because stdout is for answers."""
    from moondream_station.cli.activate import activate_there  # noqa: PLC0415

    async with StationClient(record.address, token=record.token) as client:
        active = (await client.status())["active"]
    if active is not None and active["model"] == model:
        return DONE
    with redirect_stdout(sys.stderr):
        presenter = Told(presenter_for_people())
        code = await activate_there(
            home, record, model, lambda client: client.switch(model), presenter, is_all=False
        )
    if as_json and presenter.error is not None:
        print_error(presenter.error, as_json=True)
    return code


async def _ask_about(client: StationClient, batch: Batch, source: ImageSource) -> None:
    """Ask about one image, and show its answer or its error."""
    began = time.monotonic()
    try:
        content = await source.read() if source.name else b""
        image = {"image_url": data_url(content, source.name)} if source.name else {}
        arguments = {**batch.question.arguments, **image}
        answer = await _patiently(client, batch, source, arguments)
        if batch.question.save is not None:
            await anyio.to_thread.run_sync(save_answer, batch, source, content, answer)
    except _OF_ONE_IMAGE as error:
        if isinstance(error, ArgumentInvalid) and error.argument not in {None, *_IMAGE_ARGUMENTS}:
            raise
        batch.failed += 1
        _show_error(batch, source, error)
        return
    batch.answered += 1
    batch.seconds += time.monotonic() - began
    await anyio.to_thread.run_sync(batch.note, source)


async def _patiently(
    client: StationClient, batch: Batch, source: ImageSource, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Ask, and again for as long as the model is still loading, or others have filled the station's queue."""
    while True:
        try:
            return await _show(client, batch, source, arguments)
        except WorkerLoading:  # a large one takes minutes; the station has waited one
            print_progress("The model is still loading.")
        except WorkerBusy:
            pass
        await anyio.sleep(_BUSY_SECONDS)


def _show_error(batch: Batch, source: ImageSource, error: StationError) -> None:
    if batch.question.as_json:
        print_json({"image": source.public_name, "error": asdict(error.info)})
        return
    # The argument is the image that was named here, and how it is sent is the command's own affair.
    text = error.message.removeprefix("image_url ").replace(" as a data: URL or base64", "")
    if error.message.startswith("image_url "):
        text = f"{source.shown if source.name else 'image'} {text}"
    elif source.name and len(batch.sources) > 1 and not text.startswith(source.shown):
        text = f"{source.shown}: {text}"
    print_error(replace(error.info, message=text), as_json=False)


async def _show(
    client: StationClient, batch: Batch, source: ImageSource, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Print an answer, for people a text as it comes; gives the answer."""
    function = batch.question.function
    if batch.question.as_json:
        answer = _own(await client.call(function, arguments))
        print_json({"image": source.public_name, **answer, "error": None})
        return answer
    begun = _heading(batch, source)
    if function not in _STREAMED:
        answer = _own(await client.call(function, arguments))
        write(sys.stdout, begun)
        for line in answer_lines(function, answer):
            print_result(line)
        return answer
    answer = {}
    text = ""
    async with client.stream(function, arguments) as messages:
        async for message in messages:
            if "chunk" in message:
                chunk = str(message["chunk"])
                write(sys.stdout, chunk if text else begun + chunk.lstrip())
                text += chunk
            else:
                answer |= {name: value for name, value in _own(message).items() if name not in _IN_EVENTS}
    if text:
        print_result("")
        return answer | {"caption" if function == "caption" else "answer": text}
    write(sys.stdout, begun)  # the whole answer at once, from a backend that does not stream
    for line in answer_lines(function, answer):
        print_result(line)
    return answer


def _heading(batch: Batch, source: ImageSource) -> str:
    """What stands before an answer, where there are several."""
    if len(batch.sources) == 1:
        return ""
    return f"[{batch.progress()}] {source.shown}: " if sys.stdout.isatty() else f"{source.shown}: "


def _own(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without what the station says about it."""
    return {name: value for name, value in answer.items() if name != "_stats"}
