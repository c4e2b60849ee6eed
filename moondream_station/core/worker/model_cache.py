"""Where backends keep the weights that they download, and how much is there: growth is a sign of life."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_BLOCK_BYTES = 512
"""The unit of `st_blocks` (POSIX leaves it open; Linux and macOS agree)."""


def model_cache(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that Hugging Face's hub and torch's hub download to, as their variables say.

    In the order of huggingface_hub's constants.py, where HF_HUB_CACHE goes before HF_HOME, and HF_HOME before
    XDG_CACHE_HOME.
    """
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or "~").expanduser()
    caches = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    hugging_face = Path(environ.get("HF_HOME") or caches / "huggingface")
    named = (environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE"))
    torch = Path(environ.get("TORCH_HOME") or caches / "torch")
    return (hugging_face, *(Path(folder) for folder in named if folder), torch)


def disk_usage(folders: Iterable[Path]) -> int:
    """How many bytes the files below some folders take; what can't be read counts as nothing.

    Downloads that are written at several places at once have their full size from the beginning, with holes.
    So the blocks are counted where the system tells them.
    """
    total = 0
    waiting = [os.fspath(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        found = entry.stat(follow_symlinks=False)
                        blocks = getattr(found, "st_blocks", None)
                        total += found.st_size if blocks is None else blocks * _BLOCK_BYTES
        except OSError:  # not there, not ours, or gone meanwhile
            continue
    return total
