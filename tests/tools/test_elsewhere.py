"""Collecting the tests as where there is no POSIX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="there is nothing to take away")
def test_a_name_of_posix_at_import_is_found(tmp_path: Path) -> None:
    """The file that can't be imported without it is named, with the name."""
    (tmp_path / "test_it.py").write_text("import signal\nNUMBER = signal.SIGKILL\ndef test_it(): pass\n")
    words = [sys.executable, "-m", "tools.elsewhere", f"--rootdir={tmp_path}", "--noconftest", str(tmp_path)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "test_it.py" in done.stdout
    assert "module 'signal' has no attribute 'SIGKILL'" in done.stdout
