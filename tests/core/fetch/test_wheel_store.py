"""A file that is being fetched, and who gives it its name."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moondream_station.core.fetch.wheel_store import PartialFile


def test_another_process_may_be_quicker_at_any_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the look at the file and its new name: then it has that name, and nothing failed."""
    final = tmp_path / "final"
    part = PartialFile(tmp_path / "file.partial")
    part.write([b"content"])

    def replace_late(self: Path, target: Path) -> None:
        os.replace(self, final)  # noqa: PTH105  the other process
        os.replace(self, target)  # noqa: PTH105

    monkeypatch.setattr(Path, "replace", replace_late)
    assert part.finish(final) is False
    assert final.read_bytes() == b"content"


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """Another process began anew: what it has of the file is its own."""
    part = PartialFile(tmp_path / "file.partial")
    part.write([b"content"])
    part.path.unlink()
    part.path.write_bytes(b"another")
    assert part.finish(tmp_path / "final") is False
    assert part.path.read_bytes() == b"another"


def test_a_write_that_was_abandoned_closes_the_file_itself(tmp_path: Path) -> None:
    """Else it would go on into whatever file gets the descriptor next."""
    part = PartialFile(tmp_path / "file.partial")
    pieces = [b"x" * (1 << 20)] * 200
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(part.write, pieces)
        while not part.size:
            pass
        part.close()
        writing.result()
    assert part.path.stat().st_size == 200 << 20
    part.close()
