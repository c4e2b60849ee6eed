"""PyTorch's index and PyPI as published_wheels.json has them, for a uv that asks the real addresses.

uv's `--torch-backend` can't be pointed at another index. So it is given a proxy, which leads every connection
to a server on loopback, and that server's certificate.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from benchmarks.accuracy.works import Wheel, published_wheels

from support.index_server import IndexServer
from support.index_traffic import Resource

HOSTS = ("download.pytorch.org", "pypi.org")
_TAGS = {
    "linux_x86_64": "manylinux_2_28_x86_64",
    "linux_aarch64": "manylinux_2_28_aarch64",
    "windows_amd64": "win_amd64",
    "macos_arm64": "macosx_14_0_arm64",
    "macos_x86_64": "macosx_10_9_x86_64",
}


class StandInIndex:
    """The index behind its proxy, as a context manager.

    Args:
        folder: Where the certificate is written.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        self._certificate = folder / "authority.pem"
        authority.cert_pem.write_to_path(self._certificate)
        self._server = IndexServer(_resolve, tls=context)
        self._proxy = _Proxy(self._server.address)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead uv here."""
        proxy = f"http://127.0.0.1:{self._proxy.port}"
        return {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "SSL_CERT_FILE": str(self._certificate)}

    def __enter__(self) -> Self:
        self._server.start()
        self._proxy.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.stop()
        self._server.stop()


class _Proxy:
    """Answers CONNECT by connecting to one address, whichever was asked for."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="proxy")]
        self._open: list[socket.socket] = []

    def start(self) -> None:
        self._threads[0].start()

    def stop(self) -> None:
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # stopped
            client.settimeout(30)
            self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            received = client.recv(4096)
            if not received:
                client.close()
                return
            request += received
        server = socket.create_connection(self._target)
        client.settimeout(None)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        self._open += [client, server]
        for source, sink in ((client, server), (server, client)):
            self._threads.append(threading.Thread(target=_pump, args=(source, sink), name="pump"))
            self._threads[-1].start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(65536):
            sink.sendall(received)
        sink.shutdown(socket.SHUT_WR)


def _resolve(path: str, accept: str) -> Resource | int:
    parts = path.strip("/").split("/")
    if path.endswith(".metadata"):
        version = parts[-1].split("-")[1]
        text = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        return Resource(content=text.encode(), content_type="text/plain")
    match parts:
        case ["whl", folder, "torch"]:
            names = [name for wheel in published_wheels() for name in _files(wheel, folder)]
        case ["simple", "torch"]:
            names = [name for wheel in published_wheels() for name in _files(wheel, None)]
        case _:
            return 404
    if not names:
        return 403  # as download.pytorch.org answers for what it does not have
    links = "".join(
        f'<a href="{name.replace("+", "%2B")}" data-core-metadata="true">{name}</a>\n' for name in names
    )
    return Resource(
        content=f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), content_type="text/html"
    )


def _files(wheel: Wheel, folder: str | None) -> list[str]:
    """The names of a wheel set's files in the index's folder; at PyPI, where there is no folder."""
    at = "index" if folder else "pypi"
    lies_in = "cpu" if wheel.build == "mps" else wheel.build
    if at not in wheel.at or folder not in {None, lies_in}:
        return []
    local = "" if folder is None or wheel.platform.startswith("macos") else f"+{wheel.build}"
    pythons = wheel.pythons | (wheel.pythons_at_index if folder else frozenset())
    tag = _TAGS[wheel.platform]
    if wheel.platform.startswith("linux") and wheel.glibc < (2, 28):
        tag = tag.replace("2_28", "2_17") if wheel.platform == "linux_aarch64" else "manylinux1_x86_64"
    if wheel.platform == "macos_arm64":
        tag = tag.replace("14_0", f"{wheel.macos[0]}_0")
    names = []
    for python in sorted(pythons):
        cpython = "cp" + python.rstrip("t").replace(".", "")
        abi = cpython + ("t" if python.endswith("t") else "")
        names.append(f"torch-{wheel.torch}{local}-{cpython}-{abi}-{tag}.whl")
    return names
