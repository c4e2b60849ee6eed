"""What a failed verification means: whether another build can cure it, and what a user can do."""

from __future__ import annotations

import re

from moondream_station.core.facts.errors import VerificationFailed
from moondream_station.core.worker.verification import Verification

# Texts of the CUDA runtime (cudaGetErrorString and its numbers, CUDA Runtime API reference, Error Handling),
# of NVML and of the HIP runtime, as torch repeats them. No build cures any of these.
_OF_THE_SYSTEM: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"driver/library version mismatch|error 803|unsupported display driver", re.IGNORECASE),
        "The NVIDIA driver and its libraries are of different versions: restart the computer.",
    ),
    (
        re.compile(r"error 802|system not yet initialized", re.IGNORECASE),
        "NVIDIA's fabric manager is not running: start it (`systemctl start nvidia-fabricmanager`).",
    ),
    (
        re.compile(r"busy or unavailable|exclusive.*(thread|process)", re.IGNORECASE),
        "Another program has the GPU to itself: end it, or wait for it.",
    ),
    (
        re.compile(r"out of memory", re.IGNORECASE),
        "The GPU's memory is full: end what uses it (`nvidia-smi` lists it).",
    ),
    (
        re.compile(r"permission denied|operation not permitted|insufficient permission", re.IGNORECASE),
        "This user may not use the GPU: on Linux, join the groups `video` and `render`, and log in again.",
    ),
    (
        re.compile(r"error 999|cuda unknown error", re.IGNORECASE),
        "The driver is in a bad state, often after a suspend: restart the computer.",
    ),
)


def checked(verification: Verification) -> Verification:
    """The verification, where everything is as planned.

    Raises:
        VerificationFailed: It is not.
    """
    if not verification.is_ok:
        raise verification_failure(verification)
    return verification


def verification_failure(verification: Verification) -> VerificationFailed:
    """The error for a verification that is not as planned.

    Args:
        verification: The worker's report, the mismatches, and what torch said.
    """
    said = verification.detail or ""
    wrong = "; ".join(
        f"{mismatch.field} should be {mismatch.planned}, is {mismatch.found}"
        for mismatch in verification.failures
    )
    message = f"Torch does not work as planned: {wrong}." + (f" It said: {said}" if said else "")
    for pattern, remedy in _OF_THE_SYSTEM:
        if pattern.search(said):
            return VerificationFailed(message, hint=remedy, is_curable=False)
    return VerificationFailed(message, hint="`moondream-station logs` shows what the worker wrote.")
