"""Lets torch compute inside a backend's environment, and reports in torch's own words.

Loaded by `worker_main.py` by path, so that it needs nothing but the standard library until torch is imported.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # every worker pays for what is imported here
    from collections.abc import Callable
    from typing import Any

_BUILD = re.compile(r"cpu|cu\d+|rocm\d+(\.\d+)*|xpu")
_SIDE = 256
_LARGEST = 8
"""Entries of the matrices are integers in -8..8: sums stay below 2**24, so that float32 is exact, and so is
TF32, whose ten bits of mantissa hold every entry."""


def check_torch(
    planned_build: str, progress: Callable[[int, int, str], object] = lambda *_: None
) -> tuple[dict[str, Any], str | None]:
    """Import torch, find the device that `planned_build` is for, and compute on it.

    Gives the fields of `VerificationReport`, and one line about what went wrong, None where nothing did.
    """
    began = time.perf_counter()
    report: dict[str, Any] = {}
    detail = None
    try:
        progress(0, 3, "steps")
        import torch  # noqa: PLC0415  the environment may have none, and it takes a second

        cuda, hip = torch.version.cuda, getattr(torch.version, "hip", None)
        build = build_of(str(torch.__version__), cuda, hip, planned_build)
        report.update(torch=str(torch.__version__), build=build, cuda_version=cuda or hip, arch_list=[])
        progress(1, 3, "steps")
        detail = _use_device(torch, report, planned_build)
        progress(2, 3, "steps")
        _compute(torch, report)
        progress(3, 3, "steps")
    except Exception as error:  # noqa: BLE001  whatever torch raises is what is to be reported
        report["compute_ok"] = False
        detail = _in_words(error)
    report["seconds"] = round(time.perf_counter() - began, 3)
    return report, detail


def build_of(version: str, cuda: str | None, hip: str | None, planned: str) -> str:
    """The build that a torch is, by its version's local part, else by what it was compiled for."""
    local = version.partition("+")[2]
    if _BUILD.fullmatch(local):
        return local
    if cuda:
        return "cu" + "".join(cuda.split(".")[:2])
    if hip:
        return "rocm" + ".".join(hip.split(".")[:2])
    if sys.platform == "darwin" and _processor() == "arm64":
        return planned if planned in {"cpu", "mps"} else "mps"
    return "cpu"


def free_memory(device: str | None) -> int | None:
    """How many bytes of a device's own memory are free, None where it has none or does not tell."""
    module = getattr(sys.modules.get("torch"), device, None) if device in {"cuda", "xpu"} else None
    try:
        return int(module.mem_get_info()[0]) if module is not None else None
    except (AttributeError, RuntimeError):  # torch.xpu has it from 2.6 on, and not every driver tells
        return None


def device_of(build: str) -> str:
    """The kind of torch device that a build computes on."""
    if build.startswith(("cu", "rocm")):
        return "cuda"
    return build if build in {"xpu", "mps"} else "cpu"


def cuda_of_driver() -> str | None:
    """The highest CUDA of the driver that torch found ("12.4"), None where it does not tell.

    The driver's own number (cuDriverGetVersion), for which torch has no public name; AMD's runtime
    counts otherwise.
    """
    import torch  # noqa: PLC0415

    ask = getattr(getattr(torch, "_C", None), "_cuda_getDriverVersion", None)
    if ask is None or torch.version.cuda is None:
        return None
    try:
        number = int(ask())
    except Exception:  # noqa: BLE001  it is a remark at most, and torch computes
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else None


def _use_device(torch: Any, report: dict[str, Any], planned_build: str) -> str | None:
    """Choose the device, falling back to the CPU; say why where it is not the planned one."""
    kind = device_of(planned_build)
    report.update(device="cpu", device_name=_cpu_name(), device_count=1)
    if kind == "cpu":
        return None
    if kind == "mps":
        if not torch.backends.mps.is_available():
            return "torch.backends.mps.is_available() is false"
        report.update(device="mps", device_name=None)
        return None
    module = getattr(torch, kind, None)
    if module is None:
        return f"this torch has no torch.{kind}"
    report["arch_list"] = list(module.get_arch_list())
    if not module.is_available():
        return _why_unavailable(torch, kind)
    report.update(device=kind, device_name=module.get_device_name(0), device_count=module.device_count())
    return None


def _cpu_name() -> str:
    """The CPU's name, where Linux tells it, as on no ARM machine; else what `_processor` says."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  pathlib is not imported here
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            if name := next(names, ""):
                return name
    except OSError:
        pass  # not Linux
    return _processor()


def _processor() -> str:
    """What the system calls its CPU; `platform.processor` would start `uname -p` in a process for it."""
    processor = os.environ.get("PROCESSOR_IDENTIFIER", "")  # Windows'
    if sys.platform != "win32":
        processor = os.uname().machine
    return processor


def _why_unavailable(torch: Any, kind: str) -> str:
    """Torch's own reason: `is_available` only answers no, using the device says why."""
    try:
        torch.ones(1, device=kind)
    except Exception as error:  # noqa: BLE001  its message is the result
        return _in_words(error)
    return f"torch.{kind}.is_available() is false, though a tensor can be made there"


def _compute(torch: Any, report: dict[str, Any]) -> None:
    left, right = _entries(torch, 7919), _entries(torch, 6421)
    exact = left.to(torch.float64) @ right.to(torch.float64)
    device = report["device"]
    product = (left.to(device) @ right.to(device)).cpu().to(torch.float64)
    error = float((product - exact).abs().max().item())
    report["compute_ok"] = error == 0.0
    report["max_abs_error"] = error if math.isfinite(error) else None


def _entries(torch: Any, step: int) -> Any:
    """A matrix of whole numbers without a pattern that a wrong kernel could get right by chance."""
    numbers = torch.arange(_SIDE * _SIDE) * step % 10007 % (2 * _LARGEST + 1) - _LARGEST
    return numbers.to(torch.float32).reshape(_SIDE, _SIDE)


def _in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:1000]
