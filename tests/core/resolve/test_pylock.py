"""Locks in their standard form: read for one interpreter, written, read again, and distrusted."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag

from moondream_station.core.facts.errors import ResolutionConflict
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.resolve.pylock import read_pylock, read_stored_pylock, write_pylock

MARKERS: Mapping[str, str] = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.7",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "6.8.0",
    "platform_system": "Linux",
    "platform_version": "#1",
    "python_full_version": "3.11.7",
    "python_version": "3.11",
    "sys_platform": "linux",
}
TAGS = (
    Tag("cp311", "cp311", "manylinux_2_28_x86_64"),
    Tag("cp311", "cp311", "manylinux_2_17_x86_64"),
    Tag("py3", "none", "any"),
)
HASH = "0123456789abcdef" * 4


def pylock(*packages: str) -> str:
    """A lock with these packages, each one's table."""
    head = 'lock-version = "1.0"\ncreated-by = "uv"\nrequires-python = "==3.11.*"\n'
    return head + "".join(f"[[packages]]\n{package}\n" for package in packages)


def wheel(
    name: str, version: str, *tags: str, url: str = "https://h/f/", extra: str = "", sha: str = HASH
) -> str:
    """One package's table with a wheel for each tag."""
    wheels = ", ".join(
        f'{{ url = "{url}{name}-{version}-{tag}.whl", hashes = {{ sha256 = "{sha}" }}{extra} }}'
        for tag in tags
    )
    return f'name = "{name}"\nversion = "{version}"\nindex = "https://h/simple"\nwheels = [{wheels}]'


def read(text: str) -> Lock:
    """Read for the interpreter above."""
    return read_pylock(text, markers=MARKERS, tags=TAGS)


def test_the_wheel_that_fits_best_is_taken() -> None:
    """Of several wheels of a package the one whose tag comes first for the interpreter is locked."""
    lock = read(
        pylock(
            wheel("numpy", "2.0", "cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_28_x86_64")
        )
    )
    assert [file.filename for file in lock.files] == ["numpy-2.0-cp311-cp311-manylinux_2_28_x86_64.whl"]


def test_a_plus_in_a_url_is_part_of_the_version() -> None:
    """A local version is escaped in URLs and plain in the lock."""
    lock = read(
        pylock(
            wheel("torch", "2.9.0%2Bcu128", "py3-none-any").replace(
                'version = "2.9.0%2Bcu128"', 'version = "2.9.0+cu128"'
            )
        )
    )
    assert lock.torch == "2.9.0+cu128"
    assert lock.files[0].filename == "torch-2.9.0+cu128-py3-none-any.whl"


def test_packages_of_other_platforms_are_left_out() -> None:
    """A marker that is false for the interpreter takes its package out of the lock."""
    other = wheel("winonly", "1.0", "py3-none-any") + "\nmarker = \"sys_platform == 'win32'\""
    assert read(pylock(other)).files == ()


def test_a_lock_survives_being_written_and_read() -> None:
    """What was written with URLs is read back the same, and has the same digest."""
    lock = read(
        pylock(wheel("a", "1.0", "py3-none-any", extra=", size = 7"), wheel("b", "2", "py3-none-any"))
    )
    again = read_stored_pylock(write_pylock(lock))
    assert (again.files, again.digest, again.requires_python) == (lock.files, lock.digest, "==3.11.*")
    assert lock.total_bytes is None


def test_the_installed_lock_names_paths_alone() -> None:
    """The lock that uv installs from names files on disk, with sizes and hashes, and no URL."""
    lock = read(pylock(wheel("a", "1.0", "py3-none-any", extra=", size = 7")))
    text = write_pylock(lock, sources={"a-1.0-py3-none-any.whl": Path("/dl/ä b.whl")})
    assert 'path = "/dl/ä b.whl"' in text
    assert "https://" not in text
    assert f'size = 7, hashes = {{ sha256 = "{HASH}" }}' in text


def test_the_digest_says_what_not_whence() -> None:
    """Another URL or index is the same lock; another hash or version is another one."""

    def lock(**changes: str) -> Lock:
        plain = {
            "name": "a",
            "version": "1",
            "filename": "a-1-py3-none-any.whl",
            "url": "https://h/a",
            "sha256": HASH,
        }
        fields = plain | changes
        return Lock(
            files=(LockedFile(index=fields.pop("index", None), size_bytes=None, **fields),),
            requires_python="",
        )

    assert lock().digest == lock(url="https://mirror/a", index="https://mirror").digest
    assert len({lock().digest, lock(sha256="f" * 64).digest, lock(version="2").digest}) == 3


def test_credentials_do_not_enter_a_lock() -> None:
    """User names and passwords in URLs and indexes are taken out while the lock is read."""
    text = pylock(wheel("a", "1", "py3-none-any", url="https://me:secret@h/f/")).replace(
        "//h/simple", "//me:secret@h/simple"
    )
    lock = read(text)
    assert "secret" not in repr(lock)
    assert "secret" not in write_pylock(lock)


@pytest.mark.parametrize(
    "package",
    [
        wheel("a", "1", "py3-none-any", sha="0" * 63),
        wheel("a", "1", "py3-none-any").replace("sha256", "md5"),
        wheel("a", "1", "py3-none-any", extra=", size = 0"),
        wheel("a", "1", "py3-none-any", url="ftp://h/"),
        wheel("a", "1", "py3-none-any", url="https://h/x/../"),
        wheel("a", "1", "py3-none-any", url="https://h/%2e%2e/"),
        wheel("a", "1", "py3-none-any", url="https://[h/"),
        'name = "a"\nversion = "1"\nsdist = { url = "https://h/a-1.tar.gz", hashes = { sha256 = "'
        + HASH
        + '" } }',
        'name = "a"\nversion = "1"\narchive = { url = "https://h/a.zip", hashes = { sha256 = "'
        + HASH
        + '" } }',
        'name = "a"\nversion = "1"\ndirectory = { path = "../a", editable = true }',
        'name = "a"\nversion = "1"\nvcs = { type = "git", url = "https://h/a", commit-id = "1" }',
        'name = "A_b"\nversion = "1"',
        "name = [",
    ],
)
def test_a_lock_that_can_t_be_trusted_is_refused(package: str) -> None:
    """No sha256, no size, a foreign scheme, a way up, or anything but a wheel: refused as a whole."""
    with pytest.raises(ResolutionConflict):
        read(pylock(package))


def test_no_wheel_for_this_system_is_said_in_one_sentence() -> None:
    """A package with wheels for others only is refused, naming the package, the Python and the machine."""
    with pytest.raises(ResolutionConflict) as caught:
        read(pylock(wheel("torch", "2.9.0", "cp311-cp311-manylinux_2_99_x86_64")))
    assert "torch" in caught.value.message
    assert "Python 3.11.7 on Linux x86_64" in caught.value.message
    assert "\n" not in caught.value.message


@given(st.text(max_size=200))
def test_nonsense_is_refused_and_nothing_else_happens(text: str) -> None:
    """Whatever stands in a lock's file, reading it gives a lock or the one error."""
    for reader in (read, read_stored_pylock):
        with pytest.raises(ResolutionConflict):
            reader(text)


@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_any_text_survives_as_toml(path: str, index: str) -> None:
    """Quotes, line ends, control characters and every script come back from the TOML as they went in."""
    file = LockedFile(
        name="a",
        version="1",
        filename="a-1-py3-none-any.whl",
        url="https://h/a",
        index=index,
        sha256=HASH,
        size_bytes=1,
    )
    lock = Lock(files=(file,), requires_python="")
    written = tomllib.loads(write_pylock(lock, sources={file.filename: Path(path)}))
    assert written["packages"][0]["wheels"][0]["path"] == str(Path(path))


def test_an_address_that_does_not_parse_is_named_by_its_package() -> None:
    """No other flaw is made of it."""
    with pytest.raises(ResolutionConflict, match=r"Invalid IPv6 URL|no usable URL"):
        read(pylock(wheel("a", "1", "py3-none-any", url="https://[h/")))
