"""What a package index's page lists: PEP 503 (HTML) and PEP 691 (JSON)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.fetch.retry import MAX_PAGE_BYTES
from moondream_station.core.home.storage import open_file

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
"""What to ask an index for: JSON where it has it, because only that has sizes."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ListingInvalid(ValueError):
    """A page that is not a listing, or not one that uv could read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One file that a page lists; None where it does not say, as HTML never says a size.

    The name is decoded ("torch-2.9.0+cu128-…"), and the URL (`https:`, `http:` or `file:`) has neither
    credentials nor a fragment.
    """

    filename: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    size_bytes: int | None = None
    yanked: bool = False


def parse_listing(content: bytes, *, content_type: str, url: str) -> tuple[ListedFile, ...]:
    """The files that a page links to, in its order; `url` is its own after redirects."""
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        raise ListingInvalid(f"the page is in {encoding.upper()}, not in UTF-8")
    if "json" in content_type.lower():
        return _parse_json(content, url)
    page = _Page(url)
    page.feed(content.decode(errors="replace"))
    page.close()
    return tuple(page.files)


def read_local(path: Path, *, flat: bool) -> tuple[ListedFile, ...]:
    """The files of an index's page on disk; where it is `flat`, of a page or a folder of files."""
    page = path if flat else path / "index.html"
    if page.is_dir():
        return tuple(
            ListedFile(filename=entry.name, url=entry.as_uri(), size_bytes=entry.stat().st_size)
            for entry in sorted(page.iterdir())
            if entry.suffix == ".whl" and entry.is_file()
        )
    with open_file(page) as file:
        content = file.read(MAX_PAGE_BYTES + 1)
    if len(content) > MAX_PAGE_BYTES:
        raise ListingInvalid(f"it is larger than {MAX_PAGE_BYTES >> 20} MiB")
    return parse_listing(content, content_type="text/html", url=page.as_uri())


def _parse_json(content: bytes, url: str) -> tuple[ListedFile, ...]:
    try:
        page = json.loads(content)
        version = str(page["meta"]["api-version"])
        entries = [entry for entry in page["files"] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ListingInvalid("the page is not a listing as PEP 691 describes it") from error
    if not version.startswith("1."):
        raise ListingInvalid(f"the page is a listing of version {version}, only 1.x is supported")
    files = (_from_json(entry, url) for entry in entries)
    return tuple(file for file in files if file is not None)


def _from_json(entry: Mapping[str, Any], base: str) -> ListedFile | None:
    filename, address, size = entry.get("filename"), entry.get("url"), entry.get("size")
    hashes, requires_python = entry.get("hashes"), entry.get("requires-python")
    if not isinstance(filename, str) or not isinstance(address, str) or not _is_filename(filename):
        return None
    located = _locate(base, address)
    if located is None:
        return None
    return ListedFile(
        filename=filename,
        url=located,
        sha256=_sha256(hashes.get("sha256")) if isinstance(hashes, dict) else None,
        requires_python=requires_python if isinstance(requires_python, str) else None,
        size_bytes=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None,
        yanked=entry.get("yanked", False) is not False,
    )


class _Page(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.files: list[ListedFile] = []
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get("href")
        if address is None:
            return
        if tag == "base":
            self._base = _locate(self._base, address) or self._base
        elif tag == "a":
            file = self._from_anchor(address, attributes)
            if file is not None:
                self.files.append(file)

    def _from_anchor(self, address: str, attributes: Mapping[str, str | None]) -> ListedFile | None:
        located = _locate(self._base, address)
        if located is None:
            return None
        filename = unquote(PurePosixPath(urlsplit(located).path).name)
        if not _is_filename(filename) or urlsplit(located).path.endswith("/"):
            return None
        algorithm, _, digest = urldefrag(address).fragment.partition("=")
        return ListedFile(
            filename=filename,
            url=located,
            sha256=_sha256(digest.partition("&")[0]) if algorithm == "sha256" else None,
            requires_python=attributes.get("data-requires-python") or None,
            yanked="data-yanked" in attributes,
        )


def _locate(base: str, address: str) -> str | None:
    """The absolute URL, None for what can't be fetched (`mailto:`, `javascript:`, a broken address)."""
    try:
        located = urldefrag(urljoin(base, address.strip())).url
        scheme = urlsplit(located).scheme
    except ValueError:
        return None
    if scheme not in {"https", "http", "file"}:
        return None
    if scheme == "file" and not base.startswith("file:"):
        return None  # a page from elsewhere has no say about this computer's files
    return without_credentials(located)


def _is_filename(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and not set(name) & set("/\\\0")


def _sha256(digest: object) -> str | None:
    text = digest.lower() if isinstance(digest, str) else ""
    return text if _SHA256.fullmatch(text) else None
