"""Runs beside torchruntime: what it would install on each machine of standard input, as JSON."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from typing import Any

import torchruntime.device_db as devices  # type: ignore[import-not-found]
import torchruntime.platform_detection as detection  # type: ignore[import-not-found]


def choose(machine: dict[str, Any]) -> str | None:
    """Its platform for a machine; None where it refuses."""
    detection.os_name, detection.arch = machine["system"], machine["machine"].lower()
    detection.py_version = tuple(machine["python"])
    gpus = devices.get_device_infos([tuple(pair) for pair in machine["pci"]])
    try:
        return str(detection.get_torch_platform(gpus, packages=[machine["requirement"]]))
    except (NotImplementedError, KeyError, AttributeError):
        return None  # its own refusal, and what its unfinished branches raise


def main() -> None:
    """Answer every machine."""
    with redirect_stdout(io.StringIO()):  # it prints warnings there
        answers = [choose(machine) for machine in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


main()
