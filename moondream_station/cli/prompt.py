"""The interactive prompt: serves while it runs, shows the status panel, and takes a few commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import CompleteStyle, clear
from prompt_toolkit.styles import Style

from moondream_station.asking.last_image import FUNCTIONS, images_in, with_images
from moondream_station.cli.serve import serve_here
from moondream_station.cli.status import news_lines
from moondream_station.console.interrupts import (
    CANCELLED,
    USAGE,
    cancel_on_signal,
    ignore_signals,
    own_receivers,
    run_loop,
)
from moondream_station.console.logging import begin, configure_logging
from moondream_station.console.output import folded, print_error, print_result, terminal_width, write
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import NothingToCancel, StationError, UnknownModel, UsageError
from moondream_station.core.facts.events import CancelReason, DownloadProgressed, ProbeFinished
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import SETTINGS
from moondream_station.core.home.storage import write_atomically
from moondream_station.core.home.task_groups import accompanied
from moondream_station.core.station import Station
from moondream_station.core.views.overview import news_shape
from moondream_station.panel.rendering import render, render_summary
from moondream_station.panel.terminal import Terminal
from moondream_station.panel.words import PlainLines

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "switch": ("MODEL [--strategy S]", "activate a model"),
    "rollback": ("MODEL", "go back to the environment it had before"),
    "cancel": ("", "cancel the running switch (also Ctrl-C)"),
    "stop": ("", "end the worker; the next request starts it"),
    "models": ("", "list the models"),
    "status": ("", "show the active model and the running switch"),
    "plan": ("[REQUIREMENT...]", "show which build would be installed, and why"),
    "caption": ("IMAGE...", "describe images: files, folders, patterns, URLs"),
    "query": ("IMAGE... QUESTION", "ask about images"),
    "detect": ("IMAGE... OBJECT", "find objects, as boxes"),
    "point": ("IMAGE... OBJECT", "point at objects"),
    "segment": ("IMAGE... OBJECT", "outline an object"),
    "infer": ("FUNCTION [ARG=VALUE...]", "call any function of the model"),
    "doctor": ("[--offline]", "check this machine, with remedies"),
    "settings": ("[set KEY VALUE]", "show the settings, or change one"),
    "logs": ("[MODEL]", "show the last switch, and what the worker wrote"),
    "remove": ("MODEL", "remove a model's environments"),
    "prune": ("[--dry-run]", "remove what nothing refers to"),
    "history": ("", "list the lines that were typed"),
    "clear": ("", "clear the screen"),
    "help": ("[COMMAND]", "show this list, or a command's options"),
    "quit": ("", "stop the station (also Ctrl-D)"),
}
"""What follows a command, and what it does."""
_OWN_HELP: Final[Mapping[str, str]] = {
    "cancel": "Cancel the running switch, or the command that runs.",
    "history": "List the lines that were typed, also before this session; Up and Ctrl-R find them again.",
    "clear": "Clear the screen. The history stays.",
    "help": "List the commands, or show a command's options.",
    "quit": "Stop the station. A running switch is cancelled; what it has downloaded is kept.",
}
_FLAGS: Final = ("--anyway", "--accept-notice")
_ASKING: Final = frozenset({*FUNCTIONS, "infer"})
_OF_THE_COMMAND_LINE: Final = frozenset(
    {*_ASKING, "stop", "models", "status", "plan", "doctor", "settings", "logs", "remove", "prune"}
)
_HISTORY_BYTES: Final = 128 << 10
_STRATEGIES: Final = ("auto", "guide", "cpu")
_REDRAW_SECONDS: Final = 0.25
_PROMPT: Final = "moondream> "


def run_prompt(run_command: Callable[[Sequence[str]], int], names: frozenset[str]) -> int:
    """Serve, and take commands until `quit`, Ctrl-D or a signal; returns the exit code.

    `run_command` runs a command of the command line, which has `names`, and prints its result or its error.
    """
    return run_loop(_run, run_command, names)


async def _run(run_command: Callable[[Sequence[str]], int], names: frozenset[str]) -> int:
    home, settings = begin(log="error")
    check_strategy(settings.strategy)
    stopping = anyio.Event()
    async with serve_here(home, settings, stopping=stopping, announce=_announce) as station:
        for line in news_lines(news_shape(station.manifest)):
            print_result(folded(line, terminal_width()))
        prompt = Prompt(station, Terminal(sys.stdout), run_command, names)

        def heed(signal: CancelReason) -> None:
            if signal is CancelReason.USER:
                prompt.interrupt()
            else:
                stopping.set()

        async def end_with_station() -> None:
            await stopping.wait()
            scope.cancel()

        with cancel_on_signal(heed), anyio.CancelScope() as scope:
            await accompanied(partial(accompanied, prompt.take_commands, prompt.report), end_with_station)
        ignore_signals()  # the station is stopping
    return 0


def _announce(address: str) -> None:
    print_result(f"Moondream Station is serving on {address}\n`help` lists the commands.")


class Prompt:
    """Commands above, the panel below."""

    def __init__(
        self,
        station: Station,
        terminal: Terminal,
        run_command: Callable[[Sequence[str]], int],
        names: frozenset[str],
    ) -> None:
        self._station = station
        self._terminal = terminal
        self._run_command = run_command
        self._outside = names
        self._running_command: anyio.CancelScope | None = None
        self._cancelled: str | None = None
        self._is_waiting = False
        self._last_images: list[str] = []
        self._history = _history(station.home)

    async def take_commands(self) -> None:
        """Take commands until the last one."""
        session: PromptSession[str] = PromptSession(
            completer=_Words(self._words()),
            bottom_toolbar=self.panel,
            complete_style=CompleteStyle.READLINE_LIKE,  # a menu would need lines between prompt and panel
            reserve_space_for_menu=0,
            refresh_interval=_REDRAW_SECONDS,
            style=Style.from_dict({"bottom-toolbar": "noreverse"}),
            history=self._history,
        )
        with patch_stdout(raw=True):
            while await self._take_line(session):
                pass
            if (activation := self._station.bus.state.activation) is not None:
                kept = " What was downloaded is kept." if activation.overall_received_bytes else ""
                print_result(f"The switch to {activation.model} is cancelled.{kept}")

    async def _take_line(self, session: PromptSession[str]) -> bool:
        """Read and run one line; returns whether another one may follow."""
        await anyio.lowlevel.checkpoint()
        try:
            self._is_waiting = True
            line = await session.prompt_async(_PROMPT, handle_sigint=False)
        except KeyboardInterrupt:  # the key, not the signal: as in a shell, it discards a line that was begun
            if not session.default_buffer.text:
                self.interrupt()
            return True
        except EOFError:
            return False
        finally:
            self._is_waiting = False
        if line.split() in (["quit"], ["exit"]):
            return False
        try:
            await self.run_line(line)
        except StationError as error:
            print_error(error.info, as_json=False)
        return True

    def interrupt(self) -> None:
        """Ctrl-C: cancel the command that runs, else the running switch."""
        if self._running_command is not None:
            self._running_command.cancel()
        elif self._station.bus.state.activation is not None:
            with suppress(NothingToCancel):  # it has just ended
                self._cancel()

    async def report(self) -> None:
        """Print events above the prompt, except for those that the panel shows."""
        plain = PlainLines()
        async with self._station.bus.subscribe() as events:
            async for event in events:
                if not isinstance(event.fact, DownloadProgressed | ProbeFinished):
                    self._print_above([folded(line, terminal_width()) for line in plain.lines(event)])

    def _print_above(self, lines: Sequence[str]) -> None:
        """Print lines above the prompt; where the terminal can't, after it, and the prompt again."""
        if lines and self._is_waiting and not self._terminal.can_draw:
            write(sys.stdout, "\n".join(["", *lines, _PROMPT]))
        elif lines:
            print_result("\n".join(lines))

    async def run_line(self, line: str) -> None:  # noqa: C901, PLR0912  one case a command, flat
        """Run a command; one that there is not is a `UsageError`."""
        await anyio.lowlevel.checkpoint()
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"Can't parse {line!r}: {error}.", hint="Close the quotes.") from error
        if words[:1] == ["moondream-station"]:  # as hints say it
            del words[0]
        match words:
            case []:
                return
            case ["switch", model, *options]:
                self._switch(model, options)
            case ["rollback", model]:
                self._station.request_rollback(model)
            case ["cancel"]:
                self._cancel()
            case [name, *_] if name in _ASKING:
                await self._ask(words)
            case [name, *_] if name in _OF_THE_COMMAND_LINE:
                await self._run_as_outside(words)
            case ["history"]:
                print_result("\n".join(reversed(list(self._history.load_history_strings()))))
            case ["clear"]:
                clear()
            case ["help", name] | [name, "--help" | "-h"] if name in COMMANDS:
                await self._help(name)
            case ["help"]:
                print_result(_list_of_commands())
            case ["help", name]:
                raise UsageError(f"There is no command {name!r}.", hint="`help` lists the commands.")
            case [name, *_] if name in COMMANDS:
                raise UsageError(f"{name} can't be run like this.", hint=f"Run `{_usage(name)}`.")
            case [name, *_] if name in self._outside:
                hint = f"Run `moondream-station {shlex.join(words)}` in another terminal."
                raise UsageError(f"{name} is not a command of the prompt.", hint=hint)
            case _:
                near = get_close_matches(words[0], COMMANDS, 1)
                meant = f"Did you mean `{shlex.join([near[0], *words[1:]])}`? " if near else ""
                hint = f"{meant}`help` lists the commands."
                raise UsageError(f"Unknown command {line.strip()!r}.", hint=hint)

    async def _ask(self, words: list[str]) -> None:
        """Ask the model; a line without an image is about the last ones."""
        images = images_in(words)
        if not images and self._last_images and (line := with_images(words, self._last_images)) is not None:
            words, images = line, self._last_images
            print_result(f"About {shlex.join(images)}:")
        if await self._run_as_outside(words) != USAGE and images:
            self._last_images = images

    async def _help(self, name: str) -> None:
        if name in _OWN_HELP:
            print_result(f"{_usage(name)}\n\n{_OWN_HELP[name]}")
        else:
            await self._run_as_outside([name, "--help"])

    def panel(self) -> ANSI:
        """The running activation, in at most half of the terminal, and the active model."""
        state, frame = self._station.bus.state, self._terminal.frame
        lines = [render_summary(state, frame)]
        if state.activation is not None:
            is_cancelling = state.activation.id == self._cancelled
            height = self._terminal.size.lines // 2
            lines[:0] = render(state, frame, height=height, cancelling=is_cancelling)
        return ANSI("\n".join(map(self._terminal.styled, lines)))

    def _words(self) -> Mapping[str, Mapping[str, Any] | None]:
        """Completions, nested by position."""
        models = self._station.manifest.models
        options = {"--strategy": dict.fromkeys(_STRATEGIES), "--anyway": None, "--accept-notice": None}
        return {
            **dict.fromkeys(COMMANDS),
            "switch": dict.fromkeys(models, options),
            **dict.fromkeys(("rollback", "remove", "logs"), dict.fromkeys(models)),
            "settings": dict.fromkeys(("set", "unset"), dict.fromkeys(SETTINGS)),
            "help": dict.fromkeys(COMMANDS),
        }

    def _switch(self, model: str, options: Sequence[str]) -> None:
        match [option for option in options if option not in _FLAGS]:
            case []:
                strategy = None
            case ["--strategy" | "-s", name]:
                strategy = check_strategy(name)
            case _:
                raise UsageError("switch can't be run like this.", hint=f"Run `{_usage('switch')}`.")
        anyway, accept_notice = (flag in options for flag in _FLAGS)
        with suppress(UnknownModel):  # published, and so printed
            self._station.request_switch(model, strategy, anyway=anyway, accept_notice=accept_notice)

    def _cancel(self) -> None:
        self._cancelled = self._station.request_cancel()

    async def _run_as_outside(self, words: list[str]) -> int:
        """Run a command as the command line does, with all its options and its own way to report errors."""
        code = CANCELLED
        with own_receivers(), anyio.CancelScope() as scope:
            self._running_command = scope
            try:
                # Its event loop is this one (`run_loop`), so that cancelling the scope ends it.
                code = await anyio.to_thread.run_sync(self._run_command, words)
            finally:
                self._running_command = None
                configure_logging(self._station.settings.log, default="error")  # it has set up its own
        if scope.cancel_called:
            print_result("Cancelled.")
        return code


def _usage(name: str) -> str:
    return f"{name} {COMMANDS[name][0]}".rstrip()


def _list_of_commands() -> str:
    width = max(len(_usage(name)) for name in COMMANDS)
    lines = (f"{_usage(name):<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(folded(line, terminal_width()) for line in lines)


class _History(FileHistory):
    """Lines that were typed, in a file of the home; where that can't be used, those of this session."""

    def load_history_strings(self) -> Iterable[str]:
        """The lines, the newest first."""
        with suppress(OSError):
            return super().load_history_strings()
        return ()

    def store_string(self, string: str) -> None:
        """Keep a line."""
        with suppress(OSError):
            super().store_string(string)


def _history(home: Home) -> FileHistory:
    """The history, cut to its last part where it has grown long, and readable by its user alone."""
    with suppress(OSError):
        content = home.history.read_bytes() if home.history.exists() else b""
        if len(content) > 2 * _HISTORY_BYTES:
            content = content[content.find(b"\n#", -_HISTORY_BYTES) :]
        write_atomically(home.history, content, mode=0o600)
    return _History(home.history)


_FILES: Final = PathCompleter(expanduser=True)


class _Words(Completer):
    """Completes a word by those before it: from a tree of words, which end at spaces alone, or from files."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        """The words that may stand here; none on an empty line, below which a list would stay."""
        *before, begun = document.text_before_cursor.split(" ")
        if before and before[0] in _ASKING:
            for name in _FILES.get_completions(Document(begun), event):
                if " " not in name.text:  # which would be two words
                    yield name
            return
        tree: Mapping[str, Any] | None = self._tree if before or begun else None
        for word in filter(None, before):
            tree = (tree or {}).get(word)
        yield from (Completion(word, -len(begun)) for word in tree or () if word.startswith(begun))
