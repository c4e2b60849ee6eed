"""What uv waits for is looked at: a listing that will not come ends it, one that is only slow does not."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.processes.child_process import CompletedProcess
from moondream_station.core.resolve.uv_program import LOG_VARIABLES, find_uv, watched
from support.environments import HASTY, loopback_config
from support.index_traffic import Fault
from support.torch_index import TorchIndex

pytestmark = pytest.mark.anyio

_PATIENCE = replace(HASTY, silence_seconds=2.0)
_PROJECT = '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["pillow"]\n'


async def _lock(index: TorchIndex, folder: Path) -> CompletedProcess:
    """Lock pillow from the index, with little patience."""
    (folder / "pyproject.toml").write_text(_PROJECT)
    config = loopback_config(index)
    uv = await find_uv(os.environ)
    variables = {**config.to_uv_environment(torch_index=index.torch_url), **LOG_VARIABLES}
    options = ("lock", "-q", "--cache-dir", str(folder / "cache"))
    async with open_client(config) as client:
        run = partial(uv.run, *options, cwd=folder, variables=variables)
        with anyio.fail_after(30):
            return await watched(run, client, _PATIENCE, quiet_seconds=0.5)


@pytest.mark.parametrize("kind", ["bytes_per_second", "hang_after_bytes"])
async def test_a_listing_that_trickles_or_hangs_is_given_up(tmp_path: Path, kind: str) -> None:
    """Uv reads on for hours where a byte comes now and then. The error names the page."""
    with TorchIndex() as index:
        index.add_usual()
        fault = Fault(match="/simple/pillow/")
        setattr(fault, kind, 10)
        index.faults.append(fault)
        with pytest.raises(IndexUnreachable, match=f"{index.simple_url}/pillow/"):
            await _lock(index, tmp_path)


async def test_a_listing_that_is_slow_is_waited_for(tmp_path: Path) -> None:
    """What comes when it is asked for is not given up, and the log is not in what uv has written."""
    with TorchIndex() as index:
        index.add_usual()
        index.faults.append(Fault(match="/simple/pillow/", times=1, bytes_per_second=200))
        completed = await _lock(index, tmp_path)
    assert (completed.returncode, completed.stderr) == (0, b"")
