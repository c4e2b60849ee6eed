"""`mcp`: the real command with the SDK's own client, beside a station that serves and without one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, TextContent, ToolListChangedNotification

from moondream_station.http.client import StationClient
from support.agent_messages import INITIALIZE
from support.commands import call_here, command, run, serving, switch, wait_until
from support.stations import Premises, open_premises

pytestmark = pytest.mark.anyio

BACKEND = '''
import base64, os, pathlib, time

def caption(image_url=None, length="normal", **others):
    print("a backend prints")
    return {"caption": f"{len(base64.b64decode(image_url.partition(',')[2]))} bytes"}

def wait(place: str, cancelled=lambda: False, **others):
    """Wait until nobody does."""
    pathlib.Path(place, "begun").touch()
    while not cancelled():
        time.sleep(0.01)
    pathlib.Path(place, "ended").touch()
'''
OTHER = """
def query(question, image_url=None, **others):
    return {"answer": question}
"""


@pytest.fixture
def anyio_backend() -> str:
    """The SDK's client serves as well on either."""
    return "asyncio"


@contextmanager
def prepared(folder: Path) -> Iterator[Premises]:
    """Premises with two models without torch, the first one active, and an image."""
    with open_premises(folder) as premises:
        premises.add_model("first", requirements="", source=BACKEND)
        premises.add_model("other", requirements="", source=OTHER)
        switch(premises, "first")
        (folder / "photos").mkdir()
        (folder / "photos" / "photo.png").write_bytes(b"an image")
        yield premises


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises where no station serves."""
    with prepared(tmp_path_factory.mktemp("idle")) as premises:
        yield premises


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises where one serves, over HTTP too."""
    with prepared(tmp_path_factory.mktemp("served")) as premises:
        folders = [str(premises.folder / "photos")]
        (premises.home.root / "config.json").write_text(json.dumps({"mcp": True, "mcp_folders": folders}))
        with serving(premises):
            yield premises


@asynccontextmanager
async def agent(premises: Premises, era: str = "auto", **options: Any) -> AsyncIterator[Client]:
    """An agent that has started the command; what that printed to stderr is in `stderr`."""
    program, *arguments = command("mcp", "--folder", "photos")
    parameters = StdioServerParameters(
        command=program, args=arguments, env=dict(premises.environ), cwd=premises.folder
    )
    with (premises.folder / "stderr").open("w") as log, anyio.fail_after(60):
        async with Client(stdio_client(parameters, errlog=log), mode=era, **options) as client:
            yield client


def address_of(premises: Premises) -> str:
    """Where the station serves."""
    return str(json.loads(premises.home.station.read_text())["address"])


def said(premises: Premises) -> str:
    """What the agent's command printed to stderr."""
    return (premises.folder / "stderr").read_text()


def text_of(result: CallToolResult) -> str:
    """The text of a result that is no error."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert not result.is_error, content.text
    return content.text


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_beside_a_station(served: Premises, era: str) -> None:
    """Its model answers, of files by their names too; only the protocol is on stdout."""
    async with agent(served, era) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["caption", "wait"]
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"
        refused = await client.call_tool("caption", {"image": str(served.folder / "manifest.json")})
        assert refused.is_error
    assert said(served) == ""


async def test_without_a_station(idle: Premises) -> None:
    """The active model is started for as long as the agent stays."""
    async with agent(idle) as client:
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"
        assert idle.home.station.exists()
    wait_until(lambda: not idle.home.station.exists())
    assert said(idle).startswith("No station is serving; first is started for this command alone.\n")


async def test_the_tools_follow_a_switch(served: Premises) -> None:
    """The agent hears of it, and finds the other model's functions; and back again."""
    changed = anyio.Semaphore(0)

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            changed.release()

    async with agent(served, "legacy", message_handler=hear) as client:
        await client.list_tools()
        for model, names in (("other", ["query"]), ("first", ["caption", "wait"])):
            async with StationClient(address_of(served)) as station:
                await station.switch(model)
            await changed.acquire()
            assert [tool.name for tool in (await client.list_tools()).tools] == names


async def test_a_cancelled_call_frees_the_worker(served: Premises, tmp_path: Path) -> None:
    """The only one there is answers the next call."""
    async with agent(served, "legacy") as client:
        async with anyio.create_task_group() as calls:
            calls.start_soon(partial(client.call_tool, "wait", {"place": str(tmp_path)}))
            await anyio.to_thread.run_sync(wait_until, (tmp_path / "begun").exists)
            calls.cancel_scope.cancel()
        await anyio.to_thread.run_sync(wait_until, (tmp_path / "ended").exists)
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"


async def test_a_session_outlives_the_station(idle: Premises) -> None:
    """The next call goes to the next station; where none serves, to one of the command's own."""
    with ExitStack() as station:
        station.enter_context(serving(idle))
        async with agent(idle) as client:
            assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"
            await anyio.to_thread.run_sync(station.close)
            assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"


@pytest.mark.parametrize("how", ["stdin", "SIGINT"])
def test_the_end(idle: Premises, how: str) -> None:
    """When stdin closes, or by a signal while nothing comes; nothing but messages was on stdout."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command("mcp"),
            env=idle.environ,
            cwd=idle.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "moondream-station"
        wait_until(idle.home.station.exists)
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(20) == (0 if how == "stdin" else 130)
        assert process.stdout.read() == ""
        log.seek(0)
        # Alone but on Python 3.13.0, whose asyncio may complain of a connection that was just being made.
        first, *others = log.read().splitlines()
        assert first == "No station is serving; first is started for this command alone."
        assert not others or sys.version_info[:3] == (3, 13, 0)
    assert not idle.home.station.exists()


async def test_over_http(served: Premises) -> None:
    """The same, where the settings allow it."""
    async with Client(f"{address_of(served)}/mcp") as client:
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "8 bytes"


def test_a_station_ends_in_the_middle_of_a_call(idle: Premises, tmp_path: Path) -> None:
    """At once, and cleanly: the agent is told."""
    (idle.home.root / "config.json").write_text('{"mcp": true}')

    async def call(address: str) -> None:
        async def wait() -> None:
            result = await client.call_tool("wait", {"place": str(tmp_path)})
            assert result.is_error
            assert result.content == [TextContent(text="The station is stopping.")]

        async with Client(f"{address}/mcp", mode="legacy") as client, anyio.create_task_group() as calls:
            calls.start_soon(wait)
            await anyio.to_thread.run_sync(wait_until, (tmp_path / "begun").exists)
            process.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(partial(process.wait, 20))

    try:
        with serving(idle) as station:
            process = station.process
            anyio.run(call, station.address)
            assert process.returncode == 0
    finally:
        (idle.home.root / "config.json").unlink()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--folder", "nope"), 2, "nope is not a folder"),
        ((), 1, "`moondream-station switch MODEL`"),
    ],
)
def test_what_can_not_be_served(premises: Premises, arguments: tuple[str, ...], code: int, text: str) -> None:
    """It says why, on stderr."""
    done = run(premises, "mcp", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


@pytest.mark.parametrize("folder", ["nope", "/no/such/folder"])
def test_folders_in_the_settings_must_be_there(premises: Premises, folder: str) -> None:
    """As whole paths: a station has no folder of its own."""
    premises.home.create()
    premises.home.config.write_text(json.dumps({"mcp": True, "mcp_folders": [folder]}))
    done = run(premises, "serve", "--port", "0")
    assert done.returncode == 1
    assert f"The setting `mcp_folders` has {folder!r}" in done.stderr


@pytest.mark.parametrize("arguments", [("mcp",), ("serve", "--port", "0")])
@pytest.mark.parametrize("installed", [None, "1.28.2"])
def test_without_the_extra(
    premises: Premises, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], installed: str | None
) -> None:
    """It says what to install; an older SDK is as good as none."""

    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    premises.home.create()
    premises.home.config.write_text('{"mcp": true}')
    done = call_here(premises, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'moondream-station[mcp]'" in done.stderr
    assert "uv tool install 'moondream-station[mcp]'" in done.stderr
