"""The Python that runs this process: what it imports from, and whether packages may be installed into it."""

from __future__ import annotations

import configparser
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moondream_station.core.facts.errors import PythonUnsuitable

_MARKER = "EXTERNALLY-MANAGED"
_REMEDY = (
    "Create a virtual environment (`python3 -m venv .venv`), install moondream-station into it, and run this "
    "with its Python."
)


@dataclass(frozen=True, kw_only=True)
class RunningPython:
    """The interpreter of this process.

    Args:
        executable: As it was started: a virtual environment's own, where it is in one.
        prefix: Its virtual environment, or its installation.
        paths: Where it imports from, first wins.
        home: Where `PYTHONHOME` moves the interpreter to, None where it does not.
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
        """As it is now.

        Raises:
            PythonUnsuitable: Python is embedded in another program, without an interpreter.
        """
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
        """Check that packages may be installed.

        Raises:
            PythonUnsuitable: The system's package manager owns this Python (PEP 668), its packages can't be
                written, or an installer would see another interpreter.
        """
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
                f"PYTHONHOME changes which Python {self.executable} is, but not for an installer.",
                hint="Unset it.",
            )
        if not _is_writable(self.site_packages):
            raise PythonUnsuitable(
                f"This Python's packages in {self.site_packages} can't be written.", hint=_REMEDY
            )

    def imported_of(self, packages: Iterable[str]) -> list[str]:
        """The packages that this process has imported, sorted, as far as their modules have the same name."""
        return sorted(name for name in packages if name.replace("-", "_") in self.imported)

    def check_replaceable(self, packages: Iterable[str]) -> None:
        """Check that packages whose modules have the same name can be replaced under this process.

        Raises:
            PythonUnsuitable: One of them is imported: a process that has imported torch keeps that one.
        """
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


def _is_writable(folder: Path) -> bool:
    """Whether files can be created there; an installer creates a missing folder."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
