"""The guide's report: which PyTorch this machine should have, and which it has.

`python tests/test_torch_detection.py` prints it; pytest is not needed for that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from moondream_station.console.output import write_line
from moondream_station.core.torch_installer import TorchInstaller

REQUIREMENT = ">=2.7.0"
RULE = "=" * 50
SAMPLE = f"""\
=== PyTorch System Detection Test ===

Detecting system capabilities...
Operating System: windows
Machine Architecture: amd64
CUDA Available: True
CUDA Version: 11.8
MPS Available (Apple Silicon): False
Recommended Install: cu118

{RULE}

Generating PyTorch installation command...
Installation command:
python -m pip install torch>=2.7.0 torchvision torchaudio --index-url https://download.pytorch.org/whl/cu118
"""
"""The guide's, without the blanks at the end of one of its lines."""


def report(installer: TorchInstaller) -> Iterator[str]:
    """The guide's sample for this machine, why where it names another build, and what is installed.

    Line by line, as it becomes known: a driver that hangs is waited for.
    """
    yield from ("=== PyTorch System Detection Test ===", "", "Detecting system capabilities...")
    found = installer.detect_system_capabilities()
    yield f"Operating System: {found['os']}"
    yield f"Machine Architecture: {found['machine']}"
    yield f"CUDA Available: {found['cuda_available']}"
    yield f"CUDA Version: {found['cuda_version']}"
    yield f"MPS Available (Apple Silicon): {found['mps_available']}"
    yield f"Recommended Install: {found['recommended_install']}"
    yield from ("", RULE, "", "Generating PyTorch installation command...", "Installation command:")
    yield from _command(installer, found["recommended_install"])
    yield from ("", RULE, "", "Current PyTorch installation status:")
    yield from _status(installer)


def _command(installer: TorchInstaller, recommended: str) -> list[str]:
    """The command, and one line on why where it is not for the recommended build, or there is none."""
    plan = installer.plan_torch_install(REQUIREMENT)
    command = " ".join(plan.command) if plan.build is not None else "None"
    return [command] if plan.build == recommended else [command, plan.reason]


def _status(installer: TorchInstaller) -> list[str]:
    status = installer.verify_torch_installation()
    lines = [
        f"PyTorch Version: {status['torch_version']}",
        f"PyTorch Build: {status['build']}",
        f"PyTorch Device: {status['device']}",
        f"Computes Correctly: {status['compute_ok']}",
    ]
    return [*lines, f"Error: {status['error']}"] if status["error"] is not None else lines


def test_the_guides_sample_is_printed_to_the_letter(tmp_path: Path) -> None:
    """On a machine such as the guide's."""
    from moondream_station.core.machine.record import RecordedMachine  # noqa: PLC0415  the program needs neither
    from support.machines import RTX_4090, windows  # noqa: PLC0415

    machine = RecordedMachine(windows(RTX_4090, driver="522.06", cuda="11.8"))
    installer = TorchInstaller(environ={"MOONDREAM_STATION_HOME": str(tmp_path)}, machine=machine)
    assert "\n".join(report(installer)).startswith(SAMPLE)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # whoever read it has seen enough
        for line in report(TorchInstaller()):
            write_line(sys.stdout, line)
