"""`torch.xpu` as the behaviour file describes it."""

from __future__ import annotations

from ._behaviour import BEHAVIOUR
from ._tensor import index_of


def is_available() -> bool:
    """Whether a device is there."""
    return bool(BEHAVIOUR.xpu_devices)


def device_count() -> int:
    """How many devices are there."""
    return len(BEHAVIOUR.xpu_devices)


def get_device_name(device: object = 0) -> str:
    """A device's own name."""
    return str(BEHAVIOUR.xpu_devices[index_of(device)])


def get_arch_list() -> list[str]:
    """Nothing is listed for these devices."""
    return []


def synchronize(_device: object = None) -> None:
    """Waits for nothing: products are computed at once."""
