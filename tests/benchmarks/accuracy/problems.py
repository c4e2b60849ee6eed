"""What every participant is asked, and what each of them would see of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.accuracy.works import Reality

from support.gallery import RecordedCase, recorded_cases

Choice = tuple[str, str] | None
"""Build and torch; None for "nothing can be installed"."""

NOT_ASKED = ("", "")
"""Stands for a choice where a participant can't be put the question."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One machine with one requirement."""

    case: RecordedCase
    record: Mapping[str, Any]
    reality: Reality
    requirement: str

    @property
    def system(self) -> str:
        """As `platform.system()` has it."""
        return str(self.record["platform"]["system"])

    def answer_of(self, *start: str) -> Mapping[str, Any] | None:
        """The first recorded answer to a command line that begins so."""
        found = (one for one in self.record["commands"] if one["argv"][: len(start)] == list(start))
        return next(found, None)

    @property
    def driver_by_smi(self) -> str | None:
        """The driver that nvidia-smi tells when it is asked for nothing else."""
        for answer in self.record["commands"]:
            if answer["argv"][0] == "nvidia-smi" and not answer["returncode"] and not answer["timed_out"]:
                row = re.search(r"(?m)^\d+, [^,\r\n]+, ([\d.]+),", answer["stdout"])
                if row:
                    return row[1]
        return None

    @property
    def driver_by_kernel(self) -> str | None:
        """The driver that the kernel's own file tells."""
        text = self.record["files"].get("/sys/module/nvidia/version")
        return text.strip() if text else None

    @property
    def displays(self) -> list[tuple[str, str]]:
        """PCI ids of the display devices."""
        found = []
        for path, kind in self.record["files"].items():
            if (
                path.startswith("/sys/bus/pci/devices/")
                and path.endswith("/class")
                and kind.startswith("0x03")
            ):
                folder = path.removesuffix("class")
                vendor, device = (
                    self.record["files"][folder + name].strip()[2:] for name in ("vendor", "device")
                )
                found.append((vendor, device))
        windows = self.answer_of("powershell")
        if windows:
            ids = re.findall(r"VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", windows["stdout"])
            found += [(vendor.lower(), device.lower()) for vendor, device in ids]
        return found


def problems() -> list[Problem]:
    """Every machine with every requirement."""
    found = []
    for case in recorded_cases():
        record = json.loads(case.record.read_text("utf-8"))
        reality = Reality.of(record, case.truth)
        found += [Problem(case, record, reality, answer.requirement) for answer in case.answers]
    return found
