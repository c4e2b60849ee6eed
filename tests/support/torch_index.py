"""A PyTorch-like index and an ordinary one on loopback, for the whole suite.

In a test::

    with TorchIndex() as index:
        index.add_usual()
        index.faults.append(Fault(match="/whl/cu128/*.whl", reset_after_bytes=1000, times=1))
        ... MOONDREAM_STATION_TORCH_INDEX=index.torch_url, PIP_INDEX_URL=index.simple_url ...
        index.requests

As a program, for processes that are no tests: `python tests/support/torch_index.py --help`. It prints its
address as the first line and serves until its stdin ends. The ordinary index stands at ADDRESS/simple, the
PyTorch one at ADDRESS/whl; ADDRESS/_requests gives the log of requests as JSON.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import ssl
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from support.index_server import IndexServer, Link
from support.index_traffic import Fault, Request, Resource
from support.wheels import (
    Sources,
    TorchBehaviour,
    Wheel,
    behaviour_of,
    module_wheel,
    native_tags,
    torch_wheel,
)

__all__ = [
    "Fault",
    "Request",
    "TorchBehaviour",
    "TorchIndex",
    "Wheel",
    "module_wheel",
    "native_tags",
    "torch_wheel",
]

_HTML = "text/html"
_JSON = "application/vnd.pypi.simple.v1+json"
_BUILDS = {
    "2.8.0": ("cpu", "cu126", "cu128"),
    "2.9.0": ("cpu", "cu126", "cu128", "cu130", "xpu", "rocm6.4"),
    "2.9.1": ("cpu", "cu126", "cu128", "cu130"),
}
_VISION = {"2.8.0": "0.23.0", "2.9.0": "0.24.0", "2.9.1": "0.24.1"}
"""torchvision by torch; facts: the release table of PyTorch."""


class TorchIndex:
    """The index, as a context manager; everything may be changed while it serves.

    Args:
        port: 0 takes any.
        metadata: Whether METADATA files stand beside the wheels (PEP 658), on the PyTorch index.
        hashes: Whether its links carry `#sha256=`.
        json: Whether it also speaks PEP 691; the ordinary index always does.
        ranges: Whether the server knows `Range`.
        etags: Whether it sends `ETag`.
        tls: Serve https with this context.
        credentials: User and password that every request must bring.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        metadata: bool = True,
        hashes: bool = True,
        json: bool = False,
        ranges: bool = True,
        etags: bool = True,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.metadata, self.hashes, self.json = metadata, hashes, json
        self.ranges, self.etags = ranges, etags
        self._builds: dict[str, dict[str, list[Wheel]]] = {}
        self._simple: dict[str, list[Wheel]] = {}
        self._amd: dict[str, list[Wheel]] = {}
        self._replaced: dict[str, bytes] = {}
        self.claimed_bytes: dict[str, int] = {}
        """Sizes that the ordinary index's listings give instead of the true ones, by file name."""
        authorization = None
        if credentials is not None:
            authorization = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
        self._server = IndexServer(self._resolve, port=port, tls=tls, authorization=authorization)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    @property
    def address(self) -> str:
        """Scheme, host and port."""
        return self._server.address

    @property
    def torch_url(self) -> str:
        """What stands in for https://download.pytorch.org/whl."""
        return f"{self.address}/whl"

    @property
    def simple_url(self) -> str:
        """What stands in for https://pypi.org/simple."""
        return f"{self.address}/simple"

    @property
    def amd_url(self) -> str:
        """What stands in for AMD's own index."""
        return f"{self.address}/amd"

    @property
    def faults(self) -> list[Fault]:
        """How the server misbehaves; the later ones win."""
        return self._server.faults

    def limit(self, bytes_per_second: float | None) -> None:
        """From now on all bodies together go out no faster than this; None: as fast as can be."""
        self._server.link = Link(bytes_per_second) if bytes_per_second else None

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, oldest first."""
        return self._server.requests

    def clear_requests(self) -> None:
        """Forgets the requests so far."""
        self._server.clear_requests()

    def wait_for(self, match: str, *, bytes_sent: int = 0, timeout_seconds: float = 30.0) -> Request:
        """Waits (in this thread) for a GET whose path ends so and that was sent so many bytes."""

        def wanted(request: Request) -> bool:
            return (
                request.method == "GET" and request.path.endswith(match) and request.bytes_sent >= bytes_sent
            )

        return self._server.wait_for(wanted, timeout_seconds=timeout_seconds)

    def add(self, build: str, wheel: Wheel) -> Wheel:
        """Puts a wheel on the PyTorch index, under a build's tag."""
        self._builds.setdefault(build, {}).setdefault(wheel.project, []).append(wheel)
        return wheel

    def add_torch(self, version: str, build: str, **options: Any) -> Wheel:
        """Puts a torch there; options as in `torch_wheel`."""
        return self.add(build, torch_wheel(version, build, **options))

    def add_simple(self, wheel: Wheel) -> Wheel:
        """Puts a wheel on the ordinary index."""
        self._simple.setdefault(wheel.project, []).append(wheel)
        return wheel

    def add_amd(self, torch: str, rocm: str, *gfx: str, **options: Any) -> None:
        """Puts a torch on AMD's index, with what it needs there, for these GPUs.

        As AMD's is: torch itself has no code for GPUs, its extras bring that; `rocm` is a source package; a
        trap, a numpy from the future, stands beside them.
        """
        local, version = f"rocm{rocm}", f"{torch}+rocm{rocm}"
        vision = f"{_VISION.get(torch, '0.30.0')}+{local}"
        extras = [f"device-{name}" for name in gfx]

        def by_extra(prefix: str, version: str) -> list[str]:
            return [f'{prefix}{name}=={version} ; extra == "device-{name}"' for name in gfx]

        devices = by_extra("amd-torch-device-", version)
        needs = ["numpy", f"rocm[libraries]=={rocm}", *devices]
        self._put(torch_wheel(torch, local, requires=needs, extras=extras, **options))
        needs = [f"torch=={version}", "numpy", "pillow>=5.3", *by_extra("amd-torchvision-device-", vision)]
        tags = native_tags()
        self._put(
            Wheel(
                name="torchvision",
                version=vision,
                requires=needs,
                extras=extras,
                files={"torchvision/__init__.py": b""},
                python=tags["python"],
                abi=tags["abi"],
                platform=tags["platform"],
            )
        )
        libraries = f'rocm-sdk-libraries=={rocm} ; extra == "libraries"'
        needs = [f"rocm-sdk-core=={rocm}", libraries, *by_extra("rocm-sdk-device-", rocm)]
        provided = ["libraries", *extras]
        files = {"rocm_sdk/__init__.py": b""}
        variable = "ROCM_SDK_TARGET_FAMILY"
        self._put(
            Sources(
                name="rocm", version=rocm, requires=needs, extras=provided, files=files, variable=variable
            )
        )
        for name in ("rocm-sdk-core", "rocm-sdk-libraries"):
            self._put(module_wheel(name, rocm))
        for name in gfx:
            self._put(module_wheel(f"rocm-sdk-device-{name}", rocm, requires=[f"rocm-sdk-libraries=={rocm}"]))
            needs = [f"rocm-sdk-device-{name}=={rocm}"]
            self._put(module_wheel(f"amd-torch-device-{name}", version, requires=needs))
            self._put(module_wheel(f"amd-torchvision-device-{name}", vision))
        self._put(module_wheel("numpy", "99.0.0"))

    def _put(self, wheel: Wheel) -> None:
        same = self._amd.setdefault(wheel.project, [])
        if wheel.filename not in {other.filename for other in same}:
            same.append(wheel)

    def add_usual(self, *, torch_filler_bytes: int = 0) -> Self:
        """Three torch versions on several builds with their torchvision, a trap, and the ordinary packages.

        The trap is a newer pillow on the PyTorch index, which nobody may take. `wrapstorch` on the ordinary
        index needs torch, so that torch comes in through it; the ordinary index has a torch of its own. Every
        torch is for this interpreter and machine.
        """
        for version, builds in _BUILDS.items():
            for build in builds:
                self.add_torch(version, build, filler_bytes=torch_filler_bytes)
                vision = f"{_VISION[version]}+{build}"
                needs = [f"torch=={version}", "numpy", "pillow>=5.3"]
                self.add(build, module_wheel("torchvision", vision, requires=needs))
        for build in _BUILDS["2.9.0"]:
            self.add(build, module_wheel("pillow", "99.0.0", module="PIL"))
        self.add_simple(module_wheel("pillow", "11.3.0", module="PIL"))
        self.add_simple(module_wheel("pillow", "12.0.0", module="PIL"))
        self.add_simple(module_wheel("numpy", "2.3.4"))
        self.add_simple(module_wheel("wrapstorch", "1.0.0", requires=["torch>=2.8", "numpy"]))
        self.add_simple(torch_wheel("2.9.1", None, behaviour=behaviour_of("cu128")))
        return self

    def replace(self, filename: str, content: bytes) -> None:
        """Gives other bytes (and another ETag) under a wheel's name from now on; listings stay."""
        self._replaced[filename] = content

    def wheels(self) -> tuple[Wheel, ...]:
        """Every wheel of both indexes."""
        built = [
            wheel for projects in self._builds.values() for found in projects.values() for wheel in found
        ]
        others = (*self._simple.values(), *self._amd.values())
        return (*built, *(wheel for found in others for wheel in found))

    def _resolve(self, path: str, accept: str) -> Resource | int:
        root, *rest = path.strip("/").split("/")
        if root == "_requests":
            content = json.dumps([request.as_dict() for request in self.requests])
            return Resource(content=content.encode(), content_type="application/json")
        if root == "whl":
            return self._torch_page(rest, accept) or HTTPStatus.FORBIDDEN  # as the real one answers
        if root == "amd":
            return self._amd_page(rest) or HTTPStatus.FORBIDDEN  # as the real one answers
        if root == "simple":
            return self._simple_page(rest, accept) or HTTPStatus.NOT_FOUND
        return HTTPStatus.NOT_FOUND

    def _torch_page(self, parts: list[str], accept: str) -> Resource | None:
        json_wanted = self.json and _JSON in accept
        match parts:
            case []:
                projects = sorted({name for found in self._builds.values() for name in found})
                return self._names([*sorted(self._builds), *projects], json_wanted=json_wanted)
            case [build] if build in self._builds:
                return self._names(sorted(self._builds[build]), json_wanted=json_wanted)
            case [project]:  # every build's wheels on one page
                found = [
                    (build, wheel) for build in self._builds for wheel in self._builds[build].get(project, ())
                ]
                return self._listing(project, self._links(found), json_wanted=json_wanted) if found else None
            case [build, project] if project in self._builds.get(build, {}):
                links = self._links([(build, wheel) for wheel in self._builds[build][project]])
                return self._listing(project, links, json_wanted=json_wanted)
            case [build, name]:
                wheels = [wheel for wheels in self._builds.get(build, {}).values() for wheel in wheels]
                return self._file(wheels, name, metadata=self.metadata)
            case _:
                return None

    def _amd_page(self, parts: list[str]) -> Resource | None:
        match parts:
            case [project] if project in self._amd:
                links = [_link(f"/amd/{project}/", wheel, hashes=self.hashes) for wheel in self._amd[project]]
                return self._listing(project, links, json_wanted=False)
            case [project, name]:
                return self._file(self._amd.get(project, []), name, metadata=self.metadata)
            case _:
                return None

    def _links(self, wheels: list[tuple[str, Wheel]]) -> list[dict[str, Any]]:
        return [
            _link(f"/whl/{build}/", wheel, metadata=self.metadata, hashes=self.hashes)
            for build, wheel in wheels
        ]

    def _simple_page(self, parts: list[str], accept: str) -> Resource | None:
        json_wanted = _JSON in accept
        match parts:
            case []:
                return self._names(sorted(self._simple), json_wanted=json_wanted)
            case ["files", name]:
                return self._file([wheel for wheels in self._simple.values() for wheel in wheels], name)
            case [project] if project in self._simple:
                links = [
                    {**_link("/simple/files/", wheel), "size": self._claimed(wheel)}
                    for wheel in self._simple[project]
                ]
                return self._listing(project, links, json_wanted=json_wanted)
            case _:
                return None

    def _claimed(self, wheel: Wheel) -> int:
        return self.claimed_bytes.get(wheel.filename, len(wheel.data))

    def _file(self, wheels: Sequence[Wheel], name: str, *, metadata: bool = True) -> Resource | None:
        for wheel in wheels:
            if name == wheel.filename:
                content = self._replaced.get(name, wheel.data)
                return self._resource(content, "application/octet-stream", ranges=self.ranges)
            if metadata and name == f"{wheel.filename}.metadata":
                return self._resource(wheel.metadata, "application/octet-stream")
        return None

    def _names(self, names: list[str], *, json_wanted: bool) -> Resource:
        if json_wanted:
            page: dict[str, Any] = {
                "meta": {"api-version": "1.1"},
                "projects": [{"name": name} for name in names],
            }
            return self._resource(json.dumps(page).encode(), _JSON)
        return self._page([f'<a href="{quote(name)}/">{html.escape(name)}</a><br/>' for name in names])

    def _listing(self, project: str, links: list[dict[str, Any]], *, json_wanted: bool) -> Resource:
        if json_wanted:
            page = {"meta": {"api-version": "1.1"}, "name": project, "files": links}
            return self._resource(json.dumps(page).encode(), _JSON)
        return self._page([_anchor(link) for link in links])

    def _page(self, lines: list[str]) -> Resource:
        text = "\n".join(["<!DOCTYPE html>", "<html>", "  <body>", *lines, "  </body>", "</html>", ""])
        return self._resource(text.encode(), _HTML)

    def _resource(self, content: bytes, content_type: str, *, ranges: bool = False) -> Resource:
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"' if self.etags else None
        return Resource(content=content, content_type=content_type, etag=etag, ranges=ranges)


def _link(folder: str, wheel: Wheel, *, metadata: bool = True, hashes: bool = True) -> dict[str, Any]:
    """A file as PEP 691 writes it."""
    core: bool | dict[str, str] = False
    if metadata:
        core = {"sha256": hashlib.sha256(wheel.metadata).hexdigest()}
    link: dict[str, Any] = {
        "filename": wheel.filename,
        "url": folder + quote(wheel.filename),
        "hashes": {"sha256": wheel.sha256} if hashes else {},
        "core-metadata": core,
        "size": len(wheel.data),
        "yanked": False,
    }
    if wheel.requires_python is not None:
        link["requires-python"] = wheel.requires_python
    return link


def _anchor(link: dict[str, Any]) -> str:
    """The same file as PEP 503 writes it: without its size."""
    fragment = f"#sha256={link['hashes']['sha256']}" if link["hashes"] else ""
    attributes = [f'href="{html.escape(link["url"] + fragment)}"']
    if "requires-python" in link:
        attributes.append(f'data-requires-python="{html.escape(link["requires-python"])}"')
    if link["core-metadata"]:
        digest = f"sha256={link['core-metadata']['sha256']}"
        attributes += [f'data-dist-info-metadata="{digest}"', f'data-core-metadata="{digest}"']
    return f"<a {' '.join(attributes)}>{html.escape(link['filename'])}</a><br/>"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A PyTorch-like index on loopback, with the usual wheels.")
    parser.add_argument("--port", type=int, default=0, help="0 takes any")
    parser.add_argument("--no-range", action="store_true", help="know no Range")
    parser.add_argument(
        "--no-metadata", action="store_true", help="serve no METADATA files beside the wheels"
    )
    parser.add_argument("--no-hashes", action="store_true", help="no sha256 in the PyTorch index's links")
    parser.add_argument("--json", action="store_true", help="the PyTorch index speaks PEP 691 too")
    parser.add_argument("--filler", type=int, default=0, metavar="BYTES", help="size of every torch wheel")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="JSON",
        help='fields of Fault: {"match": "*", "status": 503}',
    )
    return parser.parse_args()


def main() -> None:
    """Serves until stdin ends."""
    arguments = _arguments()
    index = TorchIndex(
        port=arguments.port,
        ranges=not arguments.no_range,
        metadata=not arguments.no_metadata,
        hashes=not arguments.no_hashes,
        json=arguments.json,
    )
    index.add_usual(torch_filler_bytes=arguments.filler)
    index.faults.extend(Fault(**json.loads(text)) for text in arguments.fault)
    with index:
        sys.stdout.write(f"{index.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
