"""`torch.cuda` as the behaviour file describes it; AMD's builds use it too."""

from __future__ import annotations

from types import SimpleNamespace

from ._behaviour import BEHAVIOUR
from ._tensor import index_of

_MEMORY_BYTES = 8 << 30


def is_available() -> bool:
    """Whether a device is there."""
    return bool(BEHAVIOUR.cuda_devices)


def device_count() -> int:
    """How many devices are there."""
    return len(BEHAVIOUR.cuda_devices)


def current_device() -> int:
    """The first one, always."""
    return 0


def get_device_name(device: object = 0) -> str:
    """A device's own name."""
    return str(BEHAVIOUR.cuda_devices[index_of(device)])


def get_device_capability(device: object = 0) -> tuple[int, int]:
    """A device's compute capability."""
    capabilities = BEHAVIOUR.capabilities or [(8, 9)] * device_count()
    major, minor = capabilities[index_of(device)]
    return major, minor


def get_device_properties(device: object = 0) -> SimpleNamespace:
    """A device's name, capability and memory."""
    major, minor = get_device_capability(device)
    return SimpleNamespace(name=get_device_name(device), major=major, minor=minor, total_memory=_MEMORY_BYTES)


def get_arch_list() -> list[str]:
    """What the build has code for."""
    return list(BEHAVIOUR.arch_list) if is_available() else []


def mem_get_info(_device: object = 0) -> tuple[int, int]:
    """Free and total memory, in bytes."""
    return _MEMORY_BYTES, _MEMORY_BYTES


def synchronize(_device: object = None) -> None:
    """Waits for nothing: products are computed at once."""


def empty_cache() -> None:
    """Nothing is cached."""
