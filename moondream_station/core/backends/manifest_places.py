"""Where manifests lie on this computer; reads none, and so loads nothing that checks them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from moondream_station.core.facts.errors import ManifestInvalid
from moondream_station.core.home.layout import Home, expanded

BUILT_IN: Final = Path(__file__).parents[2] / "bundled" / "manifest.json"


def is_on_network(source: str | Path) -> bool:
    """Whether a manifest must be fetched from another place than this computer's disk."""
    return str(source).startswith(("http://", "https://"))


def local_path(source: str | Path) -> Path:
    """The path of a manifest on this computer's disk, named by a path or a `file:` URL."""
    return path_of(text) if (text := str(source)).startswith("file:") else expanded(text)


def path_of(url: str) -> Path:
    """The path that a `file:` URL names."""
    from urllib.request import url2pathname  # noqa: PLC0415  which imports an HTTP client

    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise ManifestInvalid(
            f"{url} names a file on {parts.netloc}, not on this computer.",
            hint="A file on this computer is file:///PATH, with three slashes, or a plain path.",
        )
    return Path(url2pathname(parts.path))


def copy_of(url: str, home: Home) -> Path:
    """Where the last good copy of a manifest from the network is kept."""
    return home.cache / "manifests" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"
