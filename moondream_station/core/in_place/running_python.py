"""The Python that runs this process: whether it may be changed, and what of its packages may stay."""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.builds.requirements import FAMILY, Requirements, parse_requirement_args
from moondream_station.core.environments.packages import Package
from moondream_station.core.facts.errors import PythonUnsuitable
from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.processes.child_process import child_environment, run
from moondream_station.core.selection.request import COMPANIONS
from moondream_station.core.worker import torch_check
from moondream_station.core.worker.verification import Verification, WorkerPlan, compare, read_verification

_MARKER = "EXTERNALLY-MANAGED"
_REMEDY = (
    "Create a virtual environment (`python3 -m venv .venv`), install moondream-station into it, and run this "
    "with its Python."
)
_VERIFY_SECONDS = 300.0

# Torch, and what it loads, may print: the answer is the last line.
_PROGRAM = """
import json, runpy, sys
report, detail = runpy.run_path(sys.argv[1])["check_torch"](sys.argv[2])
print()
print(json.dumps({"report": report, "detail": detail}))
"""


@dataclass(frozen=True, kw_only=True)
class RunningPython:
    """The interpreter of this process, by its virtual environment where it is in one.

    `paths` is where it imports from, first wins; `home` where `PYTHONHOME` moves it to.
    """

    executable: Path
    prefix: Path
    is_virtual: bool
    stdlib: Path
    site_packages: Path
    paths: tuple[str, ...]
    imported: frozenset[str] = frozenset()
    home: str | None = None

    @classmethod
    def here(cls) -> RunningPython:
        """As it is now; not where Python is embedded in another program, without an interpreter."""
        if not sys.executable:
            raise PythonUnsuitable(
                "This Python is embedded in another program and has no interpreter.", hint=_REMEDY
            )
        return cls(
            executable=Path(sys.executable),
            prefix=Path(sys.prefix),
            is_virtual=sys.prefix != sys.base_prefix,
            stdlib=Path(sysconfig.get_path("stdlib")),
            site_packages=Path(sysconfig.get_path("purelib")),
            paths=tuple(path for path in sys.path if path),
            imported=frozenset(sys.modules),
            home=None if sys.flags.ignore_environment else os.environ.get("PYTHONHOME") or None,
        )

    def check_changeable(self) -> None:
        """Refuse a Python that the system's package manager owns (PEP 668), or that can't be written."""
        marker = self.stdlib / _MARKER
        if not self.is_virtual and marker.is_file():
            raise PythonUnsuitable(
                f"The system's package manager owns this Python ({self.executable}); nothing is installed "
                "into it.",
                hint=_REMEDY,
                log=_words_of(marker),
            )
        if self.home is not None:
            raise PythonUnsuitable(
                f"PYTHONHOME gives {self.executable} another Python's files; installers don't see them.",
                hint="Unset it.",
            )
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PythonUnsuitable(
                f"This Python's packages in {self.site_packages} can't be written.", hint=_REMEDY
            )

    @property
    def folder(self) -> Path:
        """Where its packages are, or the folder that an installer would create that one in."""
        places = (self.site_packages, *self.site_packages.parents)
        return next(place for place in places if place.exists())

    def imported_of(self, packages: Iterable[str]) -> list[str]:
        """The packages that this process has imported, sorted, as far as their modules have the same name."""
        return sorted(name for name in packages if name.replace("-", "_") in self.imported)

    def check_replaceable(self, packages: Iterable[str]) -> None:
        """Refuse where one of them is imported: a process that has imported torch keeps that one."""
        if imported := self.imported_of(packages):
            names = " and ".join(imported)
            raise PythonUnsuitable(
                f"{names} must be replaced, but this process has imported it already.",
                hint=f"Restart Python, and install before anything imports {names}.",
            )


def _words_of(marker: Path) -> str | None:
    """The message of the system's packagers, if there is one (PEP 668)."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(marker, encoding="utf-8")
        return parser.get("externally-managed", "Error", fallback=None)
    except (configparser.Error, UnicodeDecodeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The packages of an interpreter, by normalized name, in the light of a chosen build."""

    packages: Mapping[str, Package]
    offer: Offer | None
    """The chosen torch, None where no torch may come in."""
    keeps_torch: bool
    """Whether the installed torch is of the chosen build, and works here."""
    markers: Mapping[str, str]

    def missing(self, requirements: Requirements) -> Requirements:
        """Those requirements that the packages do not satisfy with all that they need in turn."""

        def is_met(item: Requirement, seen: set[tuple[str, frozenset[str]]]) -> bool:
            name = canonicalize_name(item.name)
            package = self.packages.get(name)
            if package is None or not item.specifier.contains(package.version, prereleases=True):
                return False
            key = (name, frozenset(item.extras))
            if key in seen:  # packages need each other in circles
                return True
            seen.add(key)
            return (
                self._may_stay(package)
                and not package.damage
                and all(is_met(needed, seen) for needed in package.needs(self.markers, item.extras))
            )

        return requirements.where(lambda item: not is_met(item, set()))

    def pins(self) -> dict[str, str]:
        """The versions that a lock should leave as they are, by normalized name."""
        # The family's only where torch itself stays, since each is made for one torch.
        torch_stays = self.offer is None or (
            self.keeps_torch and self.packages["torch"].version == self.offer.full_version
        )
        return {
            name: str(package.version)
            for name, package in self.packages.items()
            if (name not in FAMILY or torch_stays) and self._may_stay(package) and not package.damage
        }

    def orphans(self, lock: Lock) -> Requirements:
        """Companions of torch that the lock does not name, though it changes the torch they belong to."""
        is_changed = any(file.name == "torch" and not self.has(file) for file in lock.files)
        names = [name for name in COMPANIONS if name in self.packages and name not in lock.packages]
        return parse_requirement_args(names if is_changed else [])

    def has(self, file: LockedFile) -> bool:
        """Whether a locked package is installed already, whole and of that very version."""
        package = self.packages.get(file.name)
        return (
            package is not None
            and package.version == Version(file.version)
            and self._may_stay(package)
            and not package.damage
        )

    def _may_stay(self, package: Package) -> bool:
        """Torch and its companions only where they are of the chosen build."""
        if self.offer is None or package.name not in FAMILY:
            return True
        if package.name == "torch":
            return self.keeps_torch
        local = package.version.local
        return local is None or parse_build(local) is None or local == (self.offer.local or self.offer.build)


def offer_of(torch: Package, catalog: Catalog) -> Offer | None:
    """An installed torch as the wheel it came from; None where its build is not known.

    A version without a local part is PyPI's wheel only if torch's own file names the same CUDA: conda's and
    home-made ones have such versions too.
    """
    offer = offer_from_wheel(torch.wheel or "", catalog=catalog, source="default")
    if offer is None or offer.local is not None:
        return offer
    build = parse_build(offer.build)
    toolkit = build.toolkit if build is not None and build.kind is Kind.CUDA else None
    return offer if _cuda_of(torch) in {None, toolkit or "None"} else None


def _cuda_of(torch: Package) -> str | None:
    """The CUDA that an installed torch was built with, as its version.py has it; None where it doesn't."""
    try:
        text = (torch.metadata.parent / "torch" / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*(?:'([^']*)'|(None))", text, re.MULTILINE)
    return (match[1] or match[2]) if match else None


async def verify_here(python: RunningPython, plan: WorkerPlan, *, environ: Mapping[str, str]) -> Verification:
    """Let torch compute in a process of its own, so that this one stays free to change torch."""
    env = child_environment(environ, PYTHONPATH=os.pathsep.join(python.paths))
    argv = [str(python.executable), "-P", "-c", _PROGRAM, torch_check.__file__, plan.build or "cpu"]
    completed = await run(argv, env=env, timeout_seconds=_VERIFY_SECONDS)
    try:
        return read_verification(plan, json.loads(completed.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        ending = f"did not end within {_VERIFY_SECONDS:.0f} s" if completed.timed_out else "ended its process"
        last_line = f": {lines[-1]}" if lines else ""
        detail = f"Importing torch {ending} (exit code {completed.returncode}){last_line}"
        nothing = VerificationReport()
        return Verification(report=nothing, mismatches=compare(plan, nothing), detail=detail)
