"""Runs beside light-the-torch: the backends it holds for compatible on each machine of standard input.

Its only probe is `nvidia-smi` on PATH, so each machine brings a program of that name.
"""

from __future__ import annotations

import json
import os
import platform
import sys

from light_the_torch._cb import (  # type: ignore[import-not-found]
    CUDABackend,
    detect_compatible_computation_backends,
)


def main() -> None:
    """Answer every machine: backends, the preferred one first."""
    answers = []
    for machine in json.load(sys.stdin):
        os.environ["PATH"] = f"{machine['programs']}:/usr/bin:/bin"
        platform.system = lambda system=machine["system"]: system  # type: ignore[misc]
        found = detect_compatible_computation_backends()
        cuda = sorted((one for one in found if isinstance(one, CUDABackend)), reverse=True)
        answers.append([*(one.local_specifier for one in cuda), "cpu"])
    json.dump(answers, sys.stdout)


main()
