"""Small backends for tests, each a folder with `backend.py` and `requirements.txt`, and how to write one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from moondream_station.core.backends.code_store import BackendCode
from moondream_station.core.worker.link import CallStream
from moondream_station.core.worker.worker import Worker, answer

ECHO = '''
"""Gives back what it gets."""
import os, time

def init_backend(**args):
    echo.args = args

def echo(**kwargs):
    return {"kwargs": kwargs, "args": echo.args}

def caption(image_url=None, stream=False, **kwargs):
    words = ["a ", "small ", "caption"]
    return {"caption": (word for word in words) if stream else "".join(words)}

def bare(**kwargs):
    return "no dict"

def refuse(**kwargs):
    raise ValueError("image_url is missing: give one")

def slow(seconds=0.3, **kwargs):
    time.sleep(seconds)
    return {"slept": seconds}

def gate(path, **kwargs):
    while not os.path.exists(path):
        time.sleep(0.005)
    return {"opened": True}

def pid(**kwargs):
    return {"pid": os.getpid()}
'''

STREAMING = '''
"""Streams as long as somebody listens."""
import itertools

closed = []

def count(to=None, stream=True, **kwargs):
    def numbers():
        try:
            yield from itertools.islice(itertools.count(), to)
        finally:
            closed.append(True)
    return {"numbers": numbers()}

def breaking(**kwargs):
    def numbers():
        yield 1
        raise RuntimeError("the third rail")
    return {"numbers": numbers()}

def strange(**kwargs):
    return {"numbers": iter([1, object()])}

def was_closed(**kwargs):
    return {"closed": len(closed)}
'''

HOSTILE = '''
"""Does what a backend must not do."""
import ctypes, os, sys, threading

def segfault(**kwargs):
    print("about to fall", flush=True)
    ctypes.string_at(0)

def leave(**kwargs):
    os._exit(7)

def exit(**kwargs):
    sys.exit("tired")

class Odd(BaseException):
    def __str__(self):
        raise RuntimeError("not even that")

def odd(**kwargs):
    raise Odd

def shout(lines=2000, **kwargs):
    for number in range(lines):
        print("x" * 200, number)
    os.write(1, b"raw \\xff bytes\\n")
    return {"shouted": lines}

def close_stdout(**kwargs):
    os.close(1)
    sys.stdout.close()
    sys.stderr.close()
    return {"closed": True}

def read_stdin(**kwargs):
    return {"read": sys.stdin.read()}

def not_json(**kwargs):
    return {"value": {1, 2}}

def infinite(**kwargs):
    return {"value": float("inf")}

def unasked_generator(**kwargs):
    return {"value": (x for x in ())}

def huge(size=65 << 20, **kwargs):
    return {"value": "x" * size}

def hold_the_lock(**kwargs):
    print("holding", flush=True)
    ctypes.pythonapi.sleep(3600)  # PyDLL: keeps the interpreter's lock

def rubbish(**kwargs):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"GET / HTTP/1.1\\r\\n")
        except OSError:
            pass
    return {}

def child(**kwargs):
    import subprocess
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    return {"pid": process.pid}
'''

SIBLING = '''
"""Imports a module that lies beside it, under a name that the station's folder has too."""
import worker_protocol
import greeting

def init_backend(device=None, **args):
    greeting.device = device

def greet(name="you", **kwargs):
    return {"greeting": greeting.text(name), "device": greeting.device, "own": worker_protocol.OWN}
'''

SIBLING_FILES = {
    "greeting.py": 'device = None\ndef text(name):\n    return f"hello {name}"\n',
    "worker_protocol.py": "OWN = True\n",
}


def write_backend(
    folder: Path,
    source: str,
    *,
    functions: tuple[str, ...] = (),
    requirements: str = "",
    files: dict[str, str] | None = None,
) -> BackendCode:
    """Write a backend's folder and give what the station knows about it.

    Args:
        folder: Where; made.
        source: The content of `backend.py`.
        functions: What may be called; every function that `source` defines by default.
        requirements: The content of `requirements.txt`.
        files: Further files, name to content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backend.py").write_text(source)
    (folder / "requirements.txt").write_text(requirements)
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    defined = tuple(
        line.removeprefix("def ").partition("(")[0] for line in source.splitlines() if line.startswith("def ")
    )
    return BackendCode(
        id=folder.name,
        version="1.0.0",
        folder=folder,
        entry_module="backend",
        functions=functions or defined,
        requirements_text=requirements,
        digest="0" * 64,
    )


async def call(
    worker: Worker, function: str, kwargs: Mapping[str, Any], *, timeout_seconds: float | None = None
) -> dict[str, Any] | CallStream:
    """Call a function of a worker's backend as the station does; the limit is that of each chunk, too."""
    request = worker.begin(function, kwargs)
    return await answer(request, timeout_seconds, chunk_seconds=timeout_seconds)


async def unconnected() -> httpx2.AsyncClient:
    """Opens no client: what is provided is on this computer."""
    raise AssertionError("Nothing is to be fetched")
