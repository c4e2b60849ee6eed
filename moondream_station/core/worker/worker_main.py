"""Runs one backend inside its own environment, and answers the station's requests.

Started as `ENV_PYTHON -P worker_main.py THREADS GREETING`: `-P` keeps this folder off `sys.path`, where its
files would shadow the backend's. Nothing but the standard library is imported until the backend is loaded,
and little of that, because every switch waits for this start: with argparse, typing, pathlib, platform and
concurrent.futures it took 42 ms, and takes 22 without. The files beside this one are loaded by path.

Requests arrive on descriptor 0. Frames leave on a duplicate of descriptor 1, which itself points at stderr
from then on: backends print. The worker ends when its requests do, even while it computes. Verification,
`fetch_backend` and `init_backend` run in the main thread (only there may a backend install signal handlers),
calls in threads.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib.util
import os
import queue
import sys
import threading
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def _sibling(name: str) -> ModuleType:
    """Load a file of this folder, which is not on `sys.path`."""
    return _load(f"moondream_station_{name}", os.path.join(os.path.dirname(__file__), f"{name}.py"))


def _load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from moondream_station.core.worker import torch_check, worker_calls, worker_protocol
else:
    worker_protocol = _sibling("worker_protocol")
    worker_calls = _sibling("worker_calls")
    torch_check = _sibling("torch_check")


_PIPE_BYTES = 1 << 20
"""An image passes with few turns between two processes: a pipe has 64 KiB by default."""


def leave() -> NoReturn:
    """End this process now: nobody is left to work for. Its guard ends what the backend has started."""
    os._exit(1)


def sender(descriptor: int) -> worker_calls.Send:
    """What writes frames, one at a time, from whichever thread.

    It raises `FrameUnfit` where one can't be encoded; nothing is written then.
    """
    lock = threading.Lock()

    def send(frame: dict[str, Any]) -> None:
        data = memoryview(worker_protocol.encode(frame))
        with lock:
            while data:
                try:
                    data = data[os.write(descriptor, data) :]
                except OSError:
                    leave()

    return send


class Backend:
    """The backend's module, once it is loaded."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._functions: frozenset[str] = frozenset()

    def fetch(self, request: dict[str, Any], progress: worker_calls.Progress) -> dict[str, Any]:
        """Let the backend bring what it will load, while others may still need the memory.

        A module without `fetch_backend` is not even imported: it may load its model as soon as it is.
        Gives `memory_bytes`, what the model takes, and `args` for loading the same again, as far as it says.
        """
        if not _defines(_path_of(request), "fetch_backend"):
            return {}
        fetch = self._import(request).fetch_backend
        given = {"device": request["device"], "progress": progress} | request["args"]
        answer = fetch(**worker_calls.accepted(fetch, given))
        return answer if isinstance(answer, dict) else {"memory_bytes": answer}

    def load(self, request: dict[str, Any], progress: worker_calls.Progress) -> list[str]:
        """Import the entry module and let it initialise itself; gives the functions that it set to None."""
        module = self._import(request)
        initialise = getattr(module, "init_backend", None)
        if initialise is not None:
            given = {"device": request["device"], "progress": progress}
            initialise(**worker_calls.accepted(initialise, given) | request["args"])
        self._functions = frozenset(request["functions"])
        own = vars(module)  # what is not in it yet may be made in the first call
        return sorted(name for name in self._functions if own.get(name, module) is None)

    def _import(self, request: dict[str, Any]) -> ModuleType:
        if self._module is None:
            path = _path_of(request)
            sys.path.insert(0, request["folder"])
            sys.argv = [path]
            self._module = _load(request["module"], path)
        return self._module

    def function(self, name: str) -> Any:
        """A function of the manifest's list, None where the backend has none of that name."""
        function = getattr(self._module, name, None) if name in self._functions else None
        return function if callable(function) else None


def _path_of(request: dict[str, Any]) -> str:
    return os.path.join(request["folder"], f"{request['module']}.py")


def _defines(path: str, function: str) -> bool:
    """Whether a module defines a function, as far as its text tells."""
    try:
        with open(path, "rb") as file:
            text = file.read()
        if function.encode() not in text:
            return False
        import ast  # noqa: PLC0415  most backends get by without it

        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return False  # importing it says what is wrong
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


class Worker:
    """Takes requests from the reading thread and answers them."""

    def __init__(self, send: worker_calls.Send, threads: int) -> None:
        self._send = send
        self._backend = Backend()
        self._calls = worker_calls.Calls(self._backend.function, send, threads)
        self._main: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def receive(self, descriptor: int) -> None:
        """Hand out requests as they come; in a thread of its own. Ends the process when they end."""
        decoder = worker_protocol.FrameDecoder()
        if sys.platform == "linux":  # alone has larger pipes
            import fcntl  # noqa: PLC0415  not on Windows

            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            while data := os.read(descriptor, _PIPE_BYTES):
                for request in decoder.feed(data):
                    if not self._calls.take(request):
                        self._main.put(request)
        except (OSError, worker_protocol.ProtocolError) as error:
            sys.stderr.write(f"the station's requests can't be read: {error}\n")
        leave()

    def work(self) -> None:
        """Answer `verify`, `fetch` and `init` until `shutdown` comes."""
        while (request := self._main.get()).get("op") != "shutdown":
            try:
                value = self._answer(request)
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a backend raises is an answer
                worker_calls.complain(error)
                self._send(worker_calls.error_frame(request.get("id"), error))
            else:
                self._send({"kind": "result", "id": request.get("id"), "value": value})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request.get("op")
        with worker_calls.Progress(self._send, request["id"]) as progress:
            match op:
                case "verify":
                    build = request["build"]
                    report, detail = torch_check.check_torch(build, progress) if build else ({}, None)
                    driver_cuda = torch_check.cuda_of_driver() if report.get("device") == "cuda" else None
                    return {"report": report, "detail": detail, "driver_cuda": driver_cuda}
                case "fetch":
                    fetched = self._backend.fetch(request, progress)
                    needed = fetched.get("memory_bytes")
                    needed = needed if type(needed) is int and needed >= 0 else None
                    free = None if needed is None else torch_check.free_memory(request["device"])
                    args = dict(fetched.get("args") or {})
                    return {"needed_bytes": needed, "free_bytes": free, "args": args}
                case "init":
                    return {"absent": self._backend.load(request, progress)}
                case _:
                    version = worker_protocol.PROTOCOL_VERSION
                    raise ValueError(f"there is no request {op!r} in protocol {version}")


def claim_descriptors() -> tuple[int, int]:
    """Take the pipes away from backend code: it reads nothing from 0, and what it prints goes to stderr."""
    requests, frames = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    return requests, frames


def main() -> None:
    """Work until `shutdown` or the end of the requests."""
    threads, greeting = sys.argv[1:]
    requests, frames = claim_descriptors()
    faulthandler.enable()
    os.write(frames, greeting.encode())  # a `.pth` file may have printed before
    send = sender(frames)
    hello = {"protocol": worker_protocol.PROTOCOL_VERSION, "pid": os.getpid()}
    send({"kind": "hello", **hello, "python": sys.version.partition(" ")[0]})
    worker = Worker(send, int(threads))
    threading.Thread(target=worker.receive, args=(requests,), name="requests", daemon=True).start()
    worker.work()
    # Tearing the interpreter down with torch in it takes a third of a second and can crash: leave without it.
    atexit._run_exitfuncs()  # noqa: SLF001  what backends registered is run all the same
    with contextlib.suppress(OSError, ValueError):  # a backend may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
