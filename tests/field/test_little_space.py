"""A disk on which what is needed would fit, were nothing to stay free."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from moondream_station.core.facts.errors import NoSpace
from moondream_station.core.home.storage import Need, check_space


def test_the_sum_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed, what stays free beside it, what there is, and how much is missing."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=67_100_000))
    with pytest.raises(NoSpace) as raised:
        check_space([Need(tmp_path, 85_000)])
    assert "85 kB needed and 67 MB (64 MiB) to stay free, 67 MB free; 94 kB more" in raised.value.message
