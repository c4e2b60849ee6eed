"""Whether what uv waits for will come: uv itself would read a listing that trickles for hours.

Uv's log is its only word on what it waits for. Measured with uv 0.13.9; where another words it differently,
its own time limits are what is left.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.facts.redact import redact_url, without_credentials
from moondream_station.core.fetch.retry import AttemptFailed, Patience, ask
from moondream_station.core.home.task_groups import accompanied, together
from moondream_station.core.processes.run import CompletedProcess

if TYPE_CHECKING:
    import httpx2

LOG_VARIABLES = {"RUST_LOG": "uv_client::cached_client=debug"}
_ASKED_FOR = re.compile(r"DEBUG Sending (?:fresh GET|revalidation) request for: (\S+)")
_ARCHIVES = (".whl", ".tar.gz", ".zip")


async def watched(
    run: Callable[..., Awaitable[CompletedProcess]],
    client: httpx2.AsyncClient,
    patience: Patience,
    *,
    quiet_seconds: float = 10.0,
) -> CompletedProcess:
    """Run uv with `LOG_VARIABLES`; once it is quiet, ask for what it waits for. The log is taken out."""
    waiting, heard_at = set[str](), anyio.current_time()
    # The minute for an address: what uv waited for, and the time that it may have had for its offers.
    rest = replace(patience, silence_seconds=patience.silence_seconds - 2 * quiet_seconds)
    completed: CompletedProcess

    def hear(line: str) -> None:
        nonlocal heard_at
        heard_at = anyio.current_time()
        if (asked := _ASKED_FOR.match(line)) and not asked[1].endswith(_ARCHIVES):
            waiting.add(without_credentials(asked[1]))

    async def call() -> None:
        nonlocal completed
        completed = await run(on_stderr_line=hear)

    async def look(url: str) -> None:
        try:
            await ask(client, url, rest)
        except AttemptFailed as failure:
            raise IndexUnreachable(
                f"The index at {redact_url(url)} can't be reached: {failure}.",
                hint=failure.hint or "Check the network, the proxy and the index's address.",
            ) from failure
        waiting.discard(url)

    async def watch() -> None:
        while True:
            await anyio.sleep(quiet_seconds / 10)
            if anyio.current_time() - heard_at >= quiet_seconds:
                await together(*(partial(look, url) for url in waiting))

    await accompanied(call, watch)
    kept = (line for line in completed.stderr.splitlines(keepends=True) if not line.startswith(b"DEBUG "))
    return replace(completed, stderr=b"".join(kept))
