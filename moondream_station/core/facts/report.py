"""What torch itself says inside an environment, and where that differs from the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Torch's own words, and the result of letting it compute.

    Args:
        torch: `torch.__version__`, with its local part; None for a backend without torch.
        build: The build that this torch is ("cpu", "cu126", "mps").
        device: The device used: "cpu", "cuda", "xpu" or "mps".
        device_name: The device's own name.
        device_count: How many devices of that kind torch sees; 1 for the processor.
        cuda_version: `torch.version.cuda` (or `hip`), None for builds without.
        arch_list: What the build has compiled code for, as torch lists it ("sm_80", …).
        compute_ok: Whether a matrix product on the device agreed with the processor's.
        max_abs_error: Largest absolute difference between the two, None where nothing was computed.
        seconds: Wall-clock seconds from the import of torch to the end of the product.
    """

    torch: str | None = None
    build: str | None = None
    device: str | None = None
    device_name: str | None = None
    device_count: int | None = None
    cuda_version: str | None = None
    arch_list: tuple[str, ...] = ()
    compute_ok: bool | None = None
    max_abs_error: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One field in which the report is not what was planned; both sides as text."""

    field: str
    planned: str | None
    found: str | None
