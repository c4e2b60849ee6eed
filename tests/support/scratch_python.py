"""A Python of a test's own, into which the facade may install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

INSTALL = """
import json, sys
from dataclasses import asdict
from moondream_station.core.torch_installer import TorchInstaller
print(json.dumps(asdict(TorchInstaller().install_torch_requirements(sys.argv[1]))))
"""
"""Installs what its argument asks for, and prints the result as JSON."""

VERIFY = """
import json, sys
from moondream_station.core.torch_installer import TorchInstaller
print(json.dumps(TorchInstaller().verify_torch_installation()))
"""
"""Prints what verification tells, as JSON."""


@dataclass(frozen=True)
class ScratchPython:
    """A virtual environment that can import the station, and has no package of its own at first.

    Args:
        folder: Where it is.
        environ: The variables that its programs get.
        executable: The interpreter.
    """

    folder: Path
    environ: Mapping[str, str]
    executable: Path

    @classmethod
    def make(cls, folder: Path, environ: Mapping[str, str]) -> ScratchPython:
        """Make one in a folder that is not there yet."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        is_windows = os.name == "nt"
        executable = folder / ("Scripts/python.exe" if is_windows else "bin/python")
        scratch = cls(folder, environ, executable)
        importable = [str(ROOT), sysconfig.get_path("purelib")]
        (scratch.site_packages / "station.pth").write_text("\n".join(importable), encoding="utf-8")
        return scratch

    @property
    def site_packages(self) -> Path:
        """Where its own packages are."""
        if os.name == "nt":
            return self.folder / "Lib" / "site-packages"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.folder / "lib" / version / "site-packages"

    def run(self, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program text to its end."""
        return subprocess.run(
            [self.executable, "-c", program, *arguments],
            env={**self.environ, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    @contextmanager
    def started(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A program text that runs; at the end it is ended."""
        with subprocess.Popen(
            [self.executable, "-c", program, *arguments],
            env=dict(self.environ),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def install(self, requirements: str, *, before: str = "", **variables: str) -> dict[str, Any]:
        """What `install_torch_requirements` answers there, as a dictionary; stdout has nothing else.

        Args:
            requirements: What to install.
            before: Program text that runs first.
            variables: Further variables.
        """
        done = self.run(f"{before}\n{INSTALL}", requirements, **variables)
        assert done.returncode == 0, done
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def packages(self) -> dict[str, str]:
        """Its own packages, version by name as its metadata writes it."""
        names = [path.name.removesuffix(".dist-info") for path in self.site_packages.glob("*.dist-info")]
        return dict(name.split("-", 1) for name in names)
