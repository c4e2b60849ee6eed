"""How this torch behaves: read once from the data file that its wheel brought."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "version": "0.0.0+cpu",
    "cuda": None,
    "hip": None,
    "cuda_devices": [],
    "capabilities": [],
    "xpu_devices": [],
    "mps": False,
    "arch_list": [],
    "import_error": None,
    "import_seconds": 0.0,
    "compute_errors": {},
    "compute_offset": 0.0,
    "exit_on_import": None,
}


def _read() -> SimpleNamespace:
    path = Path(__file__).with_name("behaviour.json")
    given = json.loads(path.read_text()) if path.exists() else {}
    return SimpleNamespace(**{**_DEFAULTS, **given})


BEHAVIOUR = _read()
