"""Machine records of which nothing can be expected: real answers in the wrong places, and any text at all."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from moondream_station.core.capabilities.probes import adapters, nvidia, probe
from moondream_station.core.capabilities.probes.adapters import QUERY
from moondream_station.core.machine.machine import CommandResult
from moondream_station.core.machine.record import MachineRecord
from support.machines import LINUX, MACOS, WINDOWS

_JETSON = replace(LINUX, machine="aarch64", release="6.8.12-tegra")
_ANYTHING = st.text(max_size=60) | st.sampled_from(
    [
        "gfx906\n",
        "simd_count 8\ngfx_target_version 99999999999999999999\n",
        "0x030000\n",
        "0x8086\n",
        '{"Name": 3}',
        "0, NVIDIA GeForce GTX 1080, 580.95.05, 6.1, 8192\n",
        "0, Tesla K80, 470.256.02, 11441\n",
        "| NVIDIA-SMI 610.57.04  KMD Version: 610.57.04  CUDA UMD Version: 13.3 |\n",
        "Failed to initialize NVML: Driver/library version mismatch\n",
        "[null, {}]",
        "release 13.0, V13.0.88",
        "1\n",
        "10.15.7\n",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  x\n",
    ]
)
_ANSWERS = st.builds(
    CommandResult,
    argv=st.sampled_from(
        [
            nvidia.QUERY,
            nvidia.OLD_QUERY,
            nvidia.PLAIN,
            ("nvcc", "--version"),
            probe.BRAND,
            probe.ARM64,
            probe.TRANSLATED,
            probe.MEMORY,
            ("sw_vers", "-productVersion"),
            ("rocm_agent_enumerator",),
            ("powershell", "-NoProfile", "-Command", QUERY),
        ]
    ),
    returncode=st.integers(-64, 255),
    stdout=_ANYTHING,
    stderr=_ANYTHING,
    timed_out=st.booleans(),
)
RECORDS = st.builds(
    MachineRecord,
    platform=st.sampled_from(
        [LINUX, WINDOWS, MACOS, replace(LINUX, machine="aarch64", release="6.8.12-tegra")]
    ),
    commands=st.lists(_ANSWERS, max_size=6).map(tuple),
    files=st.dictionaries(
        st.sampled_from(
            [
                nvidia.PROC,
                nvidia.SYS,
                f"{adapters.NODES}/1/properties",
                f"{adapters.DEVICES}/a/class",
                f"{adapters.DEVICES}/a/vendor",
                f"{adapters.DEVICES}/a/device",
            ]
        ),
        _ANYTHING,
    ),
    directories=st.dictionaries(
        st.sampled_from([adapters.NODES, adapters.DEVICES]),
        st.lists(st.sampled_from(["1", "a", "é"])).map(tuple),
    ),
    unreadable=st.dictionaries(st.sampled_from([adapters.NODES, adapters.DEVICES, nvidia.PROC]), _ANYTHING),
)
"""With the questions that probes put, so that the answers are read."""
