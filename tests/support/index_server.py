"""A package index's HTTP side on loopback: pages, files, ranges, and every way a server can fail."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from support.index_traffic import Fault, Request, Resource

_CHUNK_BYTES = 64 * 1024


Resolver = Callable[[str, str], Resource | int]
"""From the decoded path and the `Accept` header to what is there, or to the status that says why not."""


class IndexServer:
    """Serves what a resolver gives on 127.0.0.1, from a thread, between `start` and `stop`."""

    def __init__(
        self,
        resolve: Resolver,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        authorization: str | None = None,
    ) -> None:
        self.resolve = resolve
        self.authorization = authorization
        self.faults: list[Fault] = []
        self.link: Link | None = None
        self.closing = threading.Event()
        self._log: list[Request] = []
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="index")

    @property
    def address(self) -> str:
        """Scheme, host and port ("http://127.0.0.1:40321")."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Self:
        """Begins to answer."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends every connection and every thread."""
        self.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, oldest first."""
        with self._changed:
            return tuple(self._log)

    def clear_requests(self) -> None:
        """Forgets the requests so far."""
        with self._changed:
            self._log.clear()

    def wait_for(self, wanted: Callable[[Request], bool], *, timeout_seconds: float = 30.0) -> Request:
        """Waits in this thread until a request is as wanted, and gives it.

        Raises:
            TimeoutError: When none was in that time.
        """

        def found() -> Request | None:
            return next((request for request in self._log if wanted(request)), None)

        with self._changed:
            request = self._changed.wait_for(found, timeout_seconds)
        if request is None:
            raise TimeoutError("no such request came")
        return request

    def note(self, request: Request, *, status: int | None = None, sent: int = 0) -> None:
        """Records a request, or what has become of one."""
        with self._changed:
            if status is None and not sent:
                self._log.append(request)
            request.status = status or request.status
            request.bytes_sent += sent
            self._changed.notify_all()

    def faults_of(self, path: str) -> Fault:
        """Every fault that holds for this request, as one."""
        merged = Fault(match=path)
        with self._changed:
            for fault in self.faults:
                if fnmatchcase(path, fault.match) and fault.is_due():
                    merged.add(fault)
        return merged


class Link:
    """A line that all connections share: what goes through it takes its time.

    Args:
        bytes_per_second: How much it carries.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def pause(self, size_bytes: int) -> float:
        """How long whoever has sent so many bytes must wait until they are through."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size_bytes / self._bytes_per_second
            return self._free_at - now


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # stop() joins every thread, once their connections are shut
    request_queue_size = 128
    owner: IndexServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the other side was quicker
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that goes away in the middle is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *_: object) -> None:
        """The request log is kept by the server."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_CONNECT(self) -> None:
        self._note().status = HTTPStatus.METHOD_NOT_ALLOWED
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    @property
    def _owner(self) -> IndexServer:
        return self.server.owner

    def _note(self) -> Request:
        request = Request(
            method=self.command,
            path=unquote(urlsplit(self.path).path),
            target=self.path,
            range=self.headers.get("Range"),
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        self._owner.note(request)
        return request

    def _answer(self) -> None:
        request = self._note()
        fault = self._owner.faults_of(request.path)
        if fault.redirect is not None:
            self._refuse(request, HTTPStatus.FOUND, {"Location": fault.redirect})
        elif fault.status is not None:
            self._refuse(request, fault.status, fault.headers)
        elif self._owner.authorization not in {None, self.headers.get("Authorization")}:
            self._refuse(request, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="index"'})
        else:
            found = self._owner.resolve(request.path, self.headers.get("Accept", ""))
            if isinstance(found, int):
                self._refuse(request, found, {})
            else:
                self._serve(request, found, fault)

    def _refuse(self, request: Request, status: int, headers: Mapping[str, str]) -> None:
        self._owner.note(request, status=status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, request: Request, resource: Resource, fault: Fault) -> None:
        if resource.etag is not None and self.headers.get("If-None-Match") == resource.etag:
            self._refuse(request, HTTPStatus.NOT_MODIFIED, {"ETag": resource.etag})
            return
        size = len(resource.content)
        part = None if fault.ignore_range or not resource.ranges else self._part(resource, fault)
        if part is not None and part.start >= size:
            headers = {"Content-Range": f"bytes */{size}"}
            self._refuse(request, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
            return
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        part = part or range(size)
        self._owner.note(request, status=status)
        self.send_response(status)
        self.send_header("Content-Type", resource.content_type)
        self.send_header("Content-Length", str(len(part) + fault.size_delta))
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
        if resource.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if resource.etag is not None:
            self.send_header("ETag", resource.etag)
        for name, value in resource.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        if self.command == "GET":
            self._send_body(request, _spoilt(resource.content, fault), part, fault)

    def _part(self, resource: Resource, fault: Fault) -> range | None:
        header = self.headers.get("Range", "")
        if not header.startswith("bytes=") or "," in header:
            return None
        if self.headers.get("If-Range") not in {None, resource.etag} and not fault.ignore_if_range:
            return None
        first, _, last = header.removeprefix("bytes=").partition("-")
        size = len(resource.content)
        if not first:
            return range(max(0, size - int(last)), size)
        return range(int(first), min(size, int(last) + 1 if last else size))

    def _send_body(self, request: Request, content: bytes, part: range, fault: Fault) -> None:
        limits = (fault.hang_after_bytes, fault.reset_after_bytes, fault.close_after_bytes)
        limit = min((count for count in limits if count is not None), default=len(part))
        pause = _pauses(fault.bytes_per_second)
        chunk_bytes = min(_CHUNK_BYTES, max(1, (fault.bytes_per_second or _CHUNK_BYTES * 20) // 20))
        end = part.start + min(limit, len(part))
        for start in range(part.start, end, chunk_bytes):
            chunk = content[start : min(start + chunk_bytes, end)]
            self.wfile.write(chunk)
            self.wfile.flush()
            self._owner.note(request, sent=len(chunk))
            link = self._owner.link
            if self._owner.closing.wait(max(pause(len(chunk)), link.pause(len(chunk)) if link else 0.0)):
                self.close_connection = True
                return
        if fault.hang_after_bytes is not None:
            self._owner.closing.wait()
        if limit < len(part) or fault.size_delta or fault.hang_after_bytes is not None:
            self.close_connection = True
        if fault.reset_after_bytes is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _spoilt(content: bytes, fault: Fault) -> bytes:
    if fault.corrupt_byte is None:
        return content
    position = fault.corrupt_byte
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def _pauses(bytes_per_second: int | None) -> Callable[[int], float]:
    """How long to wait after each chunk, so that the pace holds over the whole body."""
    if bytes_per_second is None:
        return lambda _sent: 0.0

    began, total = time.monotonic(), 0

    def pause(sent: int) -> float:
        nonlocal total
        total += sent
        return max(0.0, began + total / bytes_per_second - time.monotonic())

    return pause
