"""File systems of a test's own, small or made read-only; for root on Linux alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.posix import is_root

_BLOCK = 1 << 16


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)  # noqa: S607  wherever it is


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)  # noqa: S607  wherever it is


def need_mounts(folder: Path) -> None:
    """Skip the test where nothing can be mounted: not root, not Linux, or a container that may not."""
    if not is_root():
        pytest.skip("mounting takes root")
    folder.mkdir(exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    _unmount(folder)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A folder on a file system of that size, while the block runs."""
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    try:
        yield
    finally:
        _unmount(folder)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more fits on the folder's file system, while the block runs."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        size = _BLOCK << 8
        while size:
            try:
                os.write(descriptor, bytes(size))
            except OSError:
                size >>= 1
        yield
    finally:
        os.close(descriptor)
        filler.unlink()


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """No file can be opened for writing below these folders, while the block runs; not even by root.

    Nobody may be writing by way of a mount that is made read-only. So that is done aside, where nobody comes;
    a mount that is bound from it is read-only from its first instant.
    """
    with ExitStack() as stack:
        for folder in folders:
            with TemporaryDirectory() as aside:
                _mount("--bind", str(folder), aside)
                try:
                    _mount("-o", "remount,bind,ro", aside)
                    _mount("--bind", aside, str(folder))
                    stack.callback(_unmount, folder)
                finally:
                    _unmount(Path(aside))
        yield
