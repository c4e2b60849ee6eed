"""How this torch behaves: read once from the data file that its wheel brought."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:  # every worker of the suite imports this
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
    path = os.path.join(os.path.dirname(__file__), "behaviour.json")
    given = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            given = json.load(file)
    return SimpleNamespace(**{**_DEFAULTS, **given})


BEHAVIOUR = _read()
