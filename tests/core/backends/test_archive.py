"""Archives and folders that hold what they should, and the many ways in which they should not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from moondream_station.core.backends.archive import (
    DEFAULT_LIMITS,
    Limits,
    copy_folder,
    unpack_archive,
)
from moondream_station.core.facts.errors import ArchiveUnsafe, BackendUnavailable
from support.posix import make_fifo

FILES = {"backend/backend.py": b"x = 1\n", "backend/lib/part.py": b"", "backend/requirements.txt": b"torch\n"}


def tar_of(*members: tuple[tarfile.TarInfo, bytes] | tuple[str, bytes]) -> bytes:
    """A plain tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A tar member that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def unpack(tmp_path: Path, data: bytes, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    """What is unpacked from these bytes, path to content."""
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    into = tmp_path / "into"
    into.mkdir()
    unpack_archive(archive, into, origin="archive", limits=limits)
    assert not (tmp_path / "into.tar").exists()
    return contents(into)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tars_are_unpacked_whatever_compresses_them(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Which one it is, the first bytes say, not the name."""
    assert unpack(tmp_path, pack(tar_of(*FILES.items()))) == FILES


def test_zips_are_unpacked(tmp_path: Path) -> None:
    """With and without entries for folders."""
    assert unpack(tmp_path, zip_of(("backend/", b""), *FILES.items())) == FILES


def test_only_the_right_to_run_is_kept_of_the_rights(tmp_path: Path) -> None:
    """Nothing comes out set-uid or writable by everyone."""
    info = tarfile.TarInfo("run.sh")
    info.mode = 0o6777
    unpack(tmp_path, tar_of((info, b"#!/bin/sh\n"), ("plain", b"")))
    assert stat.S_IMODE((tmp_path / "into/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "into/plain").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../evil", "a/../../evil", "a/..", "..", "C:/evil", "a\\b", "nul", "a/CON.txt"),
        *("a\nb", "trailing.", "trailing ", "a/" * 40 + "deep", "x" * 300, "\udcff", "?"),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_names_that_are_no_normal_paths_are_refused(
    tmp_path: Path, name: str, pack: Callable[..., bytes]
) -> None:
    """On no system may an archive write outside its folder, or what another system can't have."""
    if pack is zip_of and name == "\udcff":
        name = "\x7f"  # zipfile itself can't write a name that is no text
    with pytest.raises(ArchiveUnsafe, match="Nothing was unpacked"):
        unpack(tmp_path, pack((name, b"evil")))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """Folders and plain files only, whatever a link points at."""
    data = tar_of(("backend.py", b""), (special("link", kind, "backend.py"), b""))
    with pytest.raises(ArchiveUnsafe, match="neither a folder nor a plain file"):
        unpack(tmp_path, data)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """Unix modes in zips name links too."""
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ArchiveUnsafe, match="neither a folder nor a plain file"):
        unpack(tmp_path, zip_of((info, b"/etc/passwd")))


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a", "A"),
        ("a/b", "A/c"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("./a", "a"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_one_place_is_written_once(tmp_path: Path, names: tuple[str, str]) -> None:
    """Also where only some systems take two spellings for one file."""
    with pytest.raises(ArchiveUnsafe, match="is a duplicate"):
        unpack(tmp_path, tar_of(*((name, b"") for name in names)))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(members=2), "exceeds the limit of 2 files"),
        (Limits(file_bytes=5), "6 bytes; the limit is 5"),
        (Limits(total_bytes=10), "exceeds the limit for all files"),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_limits_hold(tmp_path: Path, limits: Limits, words: str, pack: Callable[..., bytes]) -> None:
    """Members, the size of one file, the size of all."""
    with pytest.raises(ArchiveUnsafe, match=words):
        unpack(tmp_path, pack(*FILES.items()), limits)


@pytest.mark.parametrize(
    "pack", [lambda data: gzip.compress(tar_of(("zeros", data))), lambda data: zip_of(("zeros", data))]
)
def test_what_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """A bomb stops at the limit, not at the end of the disk."""
    limits = Limits(ratio=10, free_bytes=1 << 20, members=10)
    with pytest.raises(ArchiveUnsafe, match=r"(exceeds|more than) the limit"):
        unpack(tmp_path, pack(bytes(8 << 20)), limits)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Extended headers are read whole by tarfile: their size is bounded before."""
    info = special("pax", tarfile.XHDTYPE)
    info.size = 3 << 30
    with pytest.raises((BackendUnavailable, ArchiveUnsafe)):
        unpack(tmp_path, info.tobuf() + bytes(1024))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"<html>404</html>", b"PK\x03\x04 and nothing else"),
        *(gzip.compress(tar_of(*FILES.items()))[:-20], gzip.compress(b"no tar"), b"\x1f\x8b broken"),
        *(b"BZh91 broken", lzma.compress(tar_of(*FILES.items()))[:-9], tar_of(*FILES.items())[:700]),
    ],
    ids=("nothing", "html", "zip", "cut-gzip", "gzip", "broken-gzip", "broken-bz2", "cut-xz", "cut-tar"),
)
def test_what_is_damaged_or_no_archive_says_so(tmp_path: Path, data: bytes) -> None:
    """A page of HTML with status 200 is the commonest of them."""
    with pytest.raises(BackendUnavailable, match="archive can't be unpacked"):
        unpack(tmp_path, data)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """Nobody could be asked for the password."""
    data = bytearray(zip_of(("a", b"secret")))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveUnsafe, match="encrypted"):
        unpack(tmp_path, bytes(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(seed=st.integers(), flips=st.integers(1, 12), pack=st.sampled_from([tar_of, zip_of]))
@example(seed=1, flips=3, pack=tar_of)
def test_a_damaged_archive_never_does_anything_else(
    tmp_path_factory: pytest.TempPathFactory, seed: int, flips: int, pack: Callable[..., bytes]
) -> None:
    """Whatever bytes are wrong: it unpacks inside its folder, or one of the two errors comes."""
    chance = random.Random(seed)  # noqa: S311  no secret
    data = bytearray(pack(*FILES.items(), ("long" * 40 + "/name", b"pax header")))
    for _ in range(flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.suppress(ArchiveUnsafe, BackendUnavailable):
        unpack(folder, bytes(data))
    assert {path.name for path in folder.iterdir()} <= {"archive", "into"}


def copied(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What is taken of a folder."""
    into = tmp_path / "copy"
    into.mkdir()
    copy_folder(source, into, origin="folder")
    return contents(into)


def test_a_folder_is_copied_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    """Compiled files and a version control's folder stay behind; links inside become what they point at."""
    source = tmp_path / "source"
    for name in ("backend.py", "lib/a.py", "__pycache__/backend.pyc", ".git/config"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "same.py").symlink_to("backend.py")
    assert copied(source, tmp_path) == {
        "backend.py": b"backend.py",
        "lib/a.py": b"lib/a.py",
        "same.py": b"backend.py",
    }


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    """What lies elsewhere is no part of a backend."""
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret").write_text("secret")
    (source / "link").symlink_to("../secret")
    with pytest.raises(ArchiveUnsafe, match="leads out of the folder"):
        copied(source, tmp_path)


def test_a_pipe_and_a_circle_in_a_folder_are_refused(tmp_path: Path) -> None:
    """Neither waits for ever."""
    source = tmp_path / "source"
    source.mkdir()
    make_fifo(source / "pipe")
    with pytest.raises(ArchiveUnsafe, match="neither a folder nor a plain file"):
        copied(source, tmp_path)
    (source / "pipe").unlink()
    (source / "again").symlink_to(".")
    (tmp_path / "copy").rename(tmp_path / "copy-before")
    with pytest.raises(ArchiveUnsafe, match="deeper than 32 folders"):
        copied(source, tmp_path)
