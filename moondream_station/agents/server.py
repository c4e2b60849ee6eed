"""The MCP server: the SDK's, with the active model's functions as its tools."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import anyio
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, NotificationParams, Tool

from moondream_station.agents.folders import Folders
from moondream_station.agents.tools import arguments_for, failure_of, result_of, tools_of
from moondream_station.core.facts.errors import (
    StationError,
    UnknownFunction,
    WorkerBusy,
    WorkerLoading,
    WorkerReplaced,
)
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.task_groups import accompanied
from moondream_station.http.api import StationStopping

_PROGRESS_SECONDS: Final = 5.0
_MOST_SESSIONS: Final = 256
_NOTIFY_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 1.0
_GOODBYE_SECONDS: Final = 0.1
_ABOUT: Final = """\
Looks at images with a vision-language model on the user's own computer: describes them, answers questions \
about them, finds things in them. Which tools there are depends on the model that is active. Coordinates are \
fractions of an image's width and height, from the top left."""
_NO_MODEL: Final = "No model is active; the user can activate one: `moondream-station switch MODEL`."


class Model(Protocol):
    """The active model, as agents see it. What can't be done is a `StationError`."""

    async def describe(self) -> Mapping[str, Any]:
        """The station's OpenAPI document."""

    async def ask(self, function: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The whole answer of a function; being cancelled cancels the call."""

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` at first, and whenever the functions may have become others."""


class AgentServer:
    """Answers agents, however many, over whichever transport."""

    def __init__(self, model: Model, folders: Folders) -> None:
        self._model = model
        self._folders = folders
        self._bus = InMemorySubscriptionBus()
        self._tools: list[Tool] | None = None
        """As of the last look."""
        self._calls: set[anyio.CancelScope] = set()
        self._sessions: deque[ServerSession] = deque(maxlen=_MOST_SESSIONS)
        self.server: Server[Any] = _Server(
            "moondream-station",
            version=VERSION,
            title="Moondream Station",
            instructions=_ABOUT,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_subscriptions_listen=ListenHandler(self._bus),
        )
        self.server.add_notification_handler("notifications/initialized", NotificationParams, self._remember)

    async def follow(self) -> None:
        """Tell the agents whenever the tools have become others."""
        await self._model.follow(self._look)

    async def _look(self) -> None:
        tools = tools_of(await self._model.describe(), self._folders)
        before, self._tools = self._tools, tools
        if before is not None and tools != before:
            await self._tell()

    async def _tell(self) -> None:
        await self._bus.publish(ToolsListChanged())
        with anyio.move_on_after(_NOTIFY_SECONDS):  # sessions that have ended take it without a word
            async with anyio.create_task_group() as tasks:
                for session in self._sessions:
                    tasks.start_soon(session.send_tool_list_changed)

    async def _remember(self, context: Any, _: NotificationParams | None) -> None:
        self._sessions.append(context.session)

    async def _list_tools(self, _context: Any, _: object) -> ListToolsResult:
        return ListToolsResult(tools=tools_of(await self._model.describe(), self._folders))

    async def _call_tool(self, context: Any, called: CallToolRequestParams) -> CallToolResult:
        result = failure_of(StationStopping("The station is stopping"))

        async def call() -> None:
            nonlocal result
            result = await self._call(called)

        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                await accompanied(call, by=partial(_show_time, context.session))
            except StationError as error:
                result = failure_of(error)
            finally:
                self._calls.discard(scope)
        return result

    async def stop(self) -> None:
        """End the calls, each with an answer that says why."""
        if self._calls:
            for scope in self._calls:
                scope.cancel()
            await anyio.sleep(_GOODBYE_SECONDS)  # the SDK does not say when it has sent them

    async def _call(self, called: CallToolRequestParams) -> CallToolResult:
        document = await self._model.describe()
        tools = {tool.name: tool for tool in tools_of(document, self._folders)}
        tool = tools.get(called.name)
        if tool is None:
            raise UnknownFunction(
                f"The active model has no function {called.name!r}",
                hint=f"It has: {', '.join(tools)}." if tools else _NO_MODEL,
            )
        arguments = await arguments_for(document, tool, called.arguments or {}, self._folders)
        while True:
            try:
                return result_of(tool, await self._model.ask(tool.name, arguments))
            except (WorkerBusy, WorkerLoading, WorkerReplaced):  # over soon; the agent may cancel
                await anyio.sleep(_PAUSE_SECONDS)


class _Server(Server[Any]):
    """Says that its tools change, whichever transport asks: the SDK's own say so of none over HTTP."""

    def create_initialization_options(
        self, notification_options: NotificationOptions | None = None, *others: Any, **named: Any
    ) -> InitializationOptions:
        changing = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(changing, *others, **named)


async def _show_time(session: ServerSession) -> None:
    """Tell how long it takes, now and then: on a CPU an answer takes minutes, and clients lose patience."""
    began = time.monotonic()
    while True:
        await anyio.sleep(_PROGRESS_SECONDS)
        seconds = time.monotonic() - began
        await session.report_progress(seconds, message=f"Computing for {seconds:.0f} s")
