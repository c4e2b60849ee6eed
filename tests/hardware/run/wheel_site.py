"""An index of wheels as a folder of pages, served on loopback: PyTorch's beside an ordinary one."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

from hardware.run.installed_wheels import pack
from moondream_station.core.builds.requirements import FAMILY
from moondream_station.core.environments.packages import Package


def publish(packages: list[Package], site: Path) -> list[Path]:
    """Pack packages into the places where the indexes have their likes; gives the wheels.

    A torch whose version names its build ("2.13.0+cpu") stands on PyTorch's index, with its companions;
    without that it came from PyPI, as they did.
    """
    build = next(package.version.local for package in packages if package.name == "torch")
    wheels = []
    for package in packages:
        is_theirs = build is not None and package.name in FAMILY
        folder = site / (f"whl/{build}" if is_theirs else "simple") / package.name
        folder.mkdir(parents=True)
        wheel = pack(package, folder)
        metadata = (package.metadata / "METADATA").read_bytes()
        wheel.with_name(f"{wheel.name}.metadata").write_bytes(metadata)
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        core = f"sha256={hashlib.sha256(metadata).hexdigest()}"
        attributes = {
            "href": f"{quote(f'/{wheel.relative_to(site).as_posix()}')}#sha256={digest}",
            "data-requires-python": str(package.python),
            "data-dist-info-metadata": core,
            "data-core-metadata": core,
        }
        anchor = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items() if value)
        text = f"<!DOCTYPE html>\n<html><body>\n<a {anchor}>{html.escape(wheel.name)}</a>\n</body></html>\n"
        (folder / "index.html").write_text(text, encoding="utf-8")
        if is_theirs:
            all_builds = site / "whl" / package.name
            all_builds.mkdir()
            (all_builds / "index.html").write_text(text, encoding="utf-8")
        wheels.append(wheel)
    return wheels


class _Pages(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing: the station's own log tells what it asked."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address under which a folder is served, until the block is left."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(site))) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
