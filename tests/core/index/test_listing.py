"""Pages of indexes, as the standards write them and as the world does."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.fetch.retry import MAX_PAGE_BYTES
from moondream_station.core.index.listing import ListedFile, ListingInvalid, parse_listing, read_local
from support.posix import make_fifo

_JSON = "application/vnd.pypi.simple.v1+json"
_SHA = "ab" * 32
_NAME = "torch-2.9.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"


def _html(body: str, url: str = "https://index.example/whl/cu128/torch/") -> tuple[ListedFile, ...]:
    return parse_listing(body.encode(), content_type="text/html; charset=utf-8", url=url)


def _json(*files: dict[str, Any], version: str = "1.1") -> tuple[ListedFile, ...]:
    page = {"meta": {"api-version": version}, "name": "torch", "files": list(files)}
    return parse_listing(
        json.dumps(page).encode(), content_type=_JSON, url="https://index.example/simple/torch/"
    )


def test_an_html_page_as_pytorch_writes_it() -> None:
    """Name, address, hash and Python come from the link's attributes."""
    (file,) = _html(
        f'<a href="/whl/cu128/{_NAME.replace("+", "%2B")}#sha256={_SHA}" data-requires-python="&gt;=3.10" '
        f'data-core-metadata="sha256={_SHA}">torch</a>'
    )
    assert file == ListedFile(
        filename=_NAME,
        url=f"https://index.example/whl/cu128/{_NAME.replace('+', '%2B')}",
        sha256=_SHA,
        requires_python=">=3.10",
    )


def test_a_json_page_also_tells_sizes_and_withdrawn_files() -> None:
    """PEP 691 has what HTML has not; a reason for withdrawing is a yes."""
    files = _json(
        {
            "filename": _NAME,
            "url": "../../f.whl",
            "hashes": {"sha256": _SHA},
            "size": 12,
            "core-metadata": True,
        },
        {"filename": "old.whl", "url": "https://cdn.example/old.whl", "hashes": {}, "yanked": "broken"},
    )
    assert files[0].url == "https://index.example/f.whl"
    assert (files[0].size_bytes, files[0].sha256) == (12, _SHA)
    assert (files[1].yanked, files[1].sha256, files[1].size_bytes) == (True, None, None)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "12", 10**400])
def test_a_size_that_no_file_has_is_not_known(size: object) -> None:
    """None of them is a number of bytes; the last would not even fit the arithmetic of progress."""
    (file,) = _json({"filename": _NAME, "url": "f.whl", "size": size})
    assert file.size_bytes is None


def test_addresses_count_from_the_base() -> None:
    """A page's `<base>` says where relative links begin."""
    (file,) = _html('<base href="https://cdn.example/x/"><a href="a-1-py3-none-any.whl">a</a>')
    assert file.url == "https://cdn.example/x/a-1-py3-none-any.whl"


def test_credentials_of_the_page_are_not_handed_on() -> None:
    """Links of a page that was fetched with a password are written without it."""
    (file,) = _html('<a href="a-1-py3-none-any.whl">a</a>', url="https://me:secret@index.example/simple/a/")
    assert file.url == "https://index.example/simple/a/a-1-py3-none-any.whl"


@pytest.mark.parametrize(
    "address",
    [
        "mailto:a@b.example",
        "javascript:x",
        "../",
        "",
        "http://[::1/a.whl",
        "file:///etc/a-1-py3-none-any.whl",
        "#x",
    ],
)
def test_what_is_no_file_to_fetch_is_left_out(address: str) -> None:
    """Other schemes, folders and broken addresses are no files; a server can't name this computer's files."""
    assert _html(f'<a href="{address}">x</a><a>y</a>') == ()


@pytest.mark.parametrize("name", ["../evil.whl", "a/b.whl", "a\\b.whl", "", "..", 7, None])
def test_a_name_with_a_path_in_it_is_left_out(name: object) -> None:
    """A file name never leads out of a folder."""
    assert _json({"filename": name, "url": "x.whl", "hashes": {}}) == ()


def test_hashes_of_another_kind_are_no_hash() -> None:
    """Only a whole sha256 counts."""
    (first, second) = _html('<a href="a.whl#md5=abc">a</a><a href="b.whl#sha256=short">b</a>')
    assert first.sha256 is None
    assert second.sha256 is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b'{"meta": {"api-version": "1.0"}}', b"<html>"]
)
def test_a_page_that_says_json_and_is_none_is_invalid(content: bytes) -> None:
    """It is told apart from an index that has nothing."""
    with pytest.raises(ListingInvalid):
        parse_listing(content, content_type=_JSON, url="https://index.example/")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("content_type", [_JSON, "text/html; charset=utf-16"])
def test_a_page_that_uv_could_not_read_is_invalid(encoding: str, content_type: str) -> None:
    """Uv reads UTF-8 alone, and takes any other page for an empty one: nothing there could be locked."""
    text = '<a href="a-1-py3-none-any.whl">a</a>' if "html" in content_type else '{"meta": {}}'
    with pytest.raises(ListingInvalid, match=r"in UTF-\d+.*, not in UTF-8"):
        parse_listing(text.encode(encoding), content_type=content_type, url="https://index.example/")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "cp1252"])
def test_letters_of_another_charset_do_no_harm(encoding: str) -> None:
    """Addresses are ASCII, whatever else stands on a page."""
    content = '<title>é</title><a href="a-1-py3-none-any.whl">a</a>'.encode(encoding)
    (file,) = parse_listing(content, content_type=f"text/html; charset={encoding}", url="https://i.example/")
    assert file.filename == "a-1-py3-none-any.whl"


def test_a_page_on_disk_has_a_bound(tmp_path: Path) -> None:
    """Neither a file without end nor a pipe that nobody writes to is read to its end."""
    (tmp_path / "zero.html").symlink_to("/dev/zero")
    make_fifo(tmp_path / "pipe.html")
    with (tmp_path / "large.html").open("wb") as file:
        file.truncate(MAX_PAGE_BYTES + 1)
    for name in ("zero.html", "pipe.html", "large.html"):
        with pytest.raises((ListingInvalid, OSError), match=r"not a file|larger than 64 MiB"):
            read_local(tmp_path / name, flat=True)


def test_a_future_version_is_not_guessed_at() -> None:
    """Version 2 of the format may mean anything."""
    with pytest.raises(ListingInvalid, match=r"2\.0"):
        _json(version="2.0")


@given(
    content=st.binary(max_size=400)
    | st.text(alphabet="<>aherf=\"' /:#?[]&;.whl\n", max_size=200).map(str.encode)
)
def test_any_html_gives_files_or_nothing(content: bytes) -> None:
    """Whatever a server sends, what is listed has a plain name and an address to fetch from."""
    files: tuple[ListedFile, ...] = ()
    with suppress(ListingInvalid):
        files = parse_listing(content, content_type="text/html", url="https://index.example/simple/torch/")
    for file in files:
        assert file.filename
        assert "/" not in file.filename
        assert file.url.startswith(("https:", "http:"))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["filename", "url", "hashes", "size", "yanked", "requires-python", "core-metadata"])


@given(files=st.lists(st.dictionaries(_KEYS, _VALUES, max_size=7), max_size=3))
def test_any_json_entries_give_files_or_nothing(files: list[dict[str, Any]]) -> None:
    """An entry of the wrong shape is left out, never an error."""
    for file in _json(*files):
        assert file.filename
        assert file.size_bytes is None or file.size_bytes > 0
