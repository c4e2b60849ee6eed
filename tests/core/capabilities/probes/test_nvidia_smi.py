"""nvidia-smi's words, over its generations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.capabilities.probes.nvidia import (
    NvidiaSmiReading,
    Trouble,
    gpu_of,
    parse_header,
    parse_rows,
    parse_table,
    troubles_of,
    version_of,
)
from moondream_station.core.facts.capabilities import Gpu
from support.machines import GTX_1080, RTX_4090, Card, header, rows, table

FIELDS = ("index", "name", "driver_version", "compute_cap", "memory.total")

OLD_TABLE = """\
Mon Nov 23 10:00:00 2026
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 418.226.00   Driver Version: 418.226.00   CUDA Version: 10.1     |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|===============================+======================+======================|
|   0  Tesla V100-SXM2...  On   | 00000000:3B:00.0 Off |                    0 |
| N/A   41C    P0    45W / 300W |      0MiB / 16130MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+
|   1  Quadro P400         Off  | 00000000:5E:00.0 Off |                  N/A |
| 34%   36C    P8    N/A /  N/A |      0MiB /  2000MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+

+-----------------------------------------------------------------------------+
| Processes:                                                       GPU Memory |
|  GPU       PID   Type   Process name                             Usage      |
|=============================================================================|
|    0   N/A  N/A      4556      G   /usr/bin/Xwayland                 3MiB |
+-----------------------------------------------------------------------------+
"""

MIG_TABLE = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 590.48.01              Driver Version: 590.48.01      CUDA Version: 13.1     |
+-----------------------------------------+------------------------+----------------------+
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:00:09.0 Off |                   On |
| N/A   42C    P0             98W /  700W |      59MiB /  81559MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
| MIG devices:                                                                            |
| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |
|==================+==================================+===========+=======================|
|  0    2   0   0  |              26MiB / 40448MiB    | 60      0 |  3   0    3    0    3 |
|                  |               0MiB / 24739MiB    |           |                       |
+------------------+----------------------------------+-----------+-----------------------+
"""

WINDOWS_ROW = (
    "|   0  NVIDIA GeForce RTX 2080 ...  WDDM  |   00000000:0C:00.0  On |                  N/A |\n"
    "|    0   N/A  N/A            2140    C+G   C:\\Windows\\System32\\dwm.exe           N/A      |\n"
)
ORIN_TABLE = """\
| NVIDIA-SMI 540.3.0                Driver Version: N/A          CUDA Version: 12.2     |
|   0  Orin (nvgpu)                  N/A  | N/A              N/A |                  N/A |
"""


@pytest.mark.parametrize(
    ("text", "driver", "cuda"),
    [
        (header("550.54.14", "12.4"), "550.54.14", "12.4"),
        (header("610.57.04", "13.3"), "610.57.04", "13.3"),
        (header("596.36", "13.2", smi="595.71.01"), "596.36", "13.2"),
        (header("535.183.01", "N/A"), "535.183.01", None),
        (header("535.183.01", "ERR!"), "535.183.01", None),
        (header("580.xx.xx", "12.x"), None, None),
        (ORIN_TABLE, None, "12.2"),
        (f"Defaulted container noise\n{OLD_TABLE}", "418.226.00", "10.1"),
        ("", None, None),
    ],
)
def test_the_header_tells_driver_and_cuda(text: str, driver: str | None, cuda: str | None) -> None:
    """Old and new words are read; the tool's own number is not the driver's; placeholders are unknown."""
    in_header, shown = parse_header(text)
    assert (in_header, NvidiaSmiReading(cuda_shown=shown).cuda) == (driver, cuda)


def test_the_new_words_are_the_ones_of_610() -> None:
    """The sample above really is in the new words."""
    assert "KMD Version: 610.57.04" in header("610.57.04", "13.3")
    assert "CUDA UMD Version: 13.3" in header("610.57.04", "13.3")


@pytest.mark.parametrize("shown", ["N/A", "ERR!"])
def test_what_stands_in_cudas_place_is_told(shown: str) -> None:
    """A missing CUDA library is another thing than a header that nobody understands."""
    assert parse_header(header("535.183.01", shown)) == ("535.183.01", shown)


def test_rows_tell_everything_about_a_gpu() -> None:
    """A csv row becomes a GPU; memory is in mebibytes."""
    (row,) = parse_rows(rows((RTX_4090,), "550.54.14"), FIELDS)
    assert row["driver_version"] == "550.54.14"
    assert gpu_of(row) == Gpu(
        vendor="nvidia",
        index=0,
        name="NVIDIA GeForce RTX 4090",
        architecture="8.9",
        architecture_source="nvidia-smi",
        memory_bytes=24564 << 20,
        integrated=False,
    )


def test_rows_are_found_between_error_lines() -> None:
    """A lost GPU is complained about before, between and after the others."""
    lost = "Unable to determine the device handle for GPU1: 0000:02:00.0: GPU is lost.  Reboot the system\n"
    first, second = rows((RTX_4090, GTX_1080), "550.54.14").splitlines(keepends=True)
    found = parse_rows(lost + first + lost + second + "WARNING: infoROM is corrupted\n", FIELDS)
    assert [gpu_of(row).index for row in found] == [0, 1]


@pytest.mark.parametrize(
    "absent", ["[N/A]", "[Not Supported]", "N/A", "ERR!", "[Requested functionality has been deprecated]", ""]
)
def test_what_a_row_does_not_tell_is_none(absent: str) -> None:
    """Every way of saying nothing is unknown, not zero."""
    (row,) = parse_rows(f"0, NVIDIA Tegra, {absent}, {absent}, {absent}\n", FIELDS)
    gpu = gpu_of(row)
    assert version_of(row["driver_version"]) is None
    assert (gpu.architecture, gpu.memory_bytes) == (None, None)


def test_units_and_headers_do_no_harm() -> None:
    """A row with its unit is read, a line of headings is none."""
    text = "index, name, driver_version, compute_cap, memory.total [MiB]\n0, Card, 550.54, 8.9, 24564 MiB\n"
    (row,) = parse_rows(text, FIELDS)
    assert gpu_of(row).memory_bytes == 24564 << 20


def test_a_name_may_hold_a_comma() -> None:
    """The cells after the name are counted from the end."""
    (row,) = parse_rows("0, Card, the second, 550.54.14, 8.9, 24564\n", FIELDS)
    assert (row["name"], row["compute_cap"]) == ("Card, the second", "8.9")


def test_windows_line_ends_do_no_harm() -> None:
    """A carriage return is no part of a value."""
    (row,) = parse_rows(rows((RTX_4090,), "560.94").replace("\n", "\r\n"), FIELDS)
    assert gpu_of(row).memory_bytes == 24564 << 20


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (OLD_TABLE, [("Tesla V100-SXM2", True), ("Quadro P400", False)]),
        (MIG_TABLE, [("NVIDIA H100 80GB HBM3", False)]),
        (WINDOWS_ROW, [("NVIDIA GeForce RTX 2080", True)]),
        (ORIN_TABLE, [("Orin (nvgpu)", False)]),
        (
            table((RTX_4090, Card(name="NVIDIA GeForce RTX 2080 SUPER")), "550.54.14", "12.4"),
            [("NVIDIA GeForce RTX 4090", False), ("NVIDIA GeForce RTX 2080", True)],
        ),
        ("", []),
    ],
)
def test_the_table_tells_the_gpus(text: str, names: list[tuple[str, bool]]) -> None:
    """GPUs are found in every layout, MIG slices and processes are none, and a cut name is known as one."""
    found = [(gpu_of(row).name, row["name"].endswith("...")) for row in parse_table(text)]
    assert found == names


@pytest.mark.parametrize(
    ("text", "returncode", "troubles"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", 18, [Trouble.MISMATCH]),
        ("Failed to initialize NVML: Unknown Error", 255, [Trouble.NVML]),
        ("Failed to initialize NVML: Insufficient Permissions", 4, [Trouble.NO_PERMISSION]),
        ("Failed to initialize NVML: GPU access blocked by the operating system", 17, [Trouble.BLOCKED]),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that",
            9,
            [Trouble.NOT_LOADED],
        ),
        ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", 12, [Trouble.NO_LIBRARY]),
        ("Unable to determine the device handle for GPU 0000:05:00.0: GPU is lost.", 15, [Trouble.LOST]),
        ("Unable to determine the device handle for GPU0: Unknown Error", 255, [Trouble.UNREACHABLE]),
        ("No devices were found", 6, [Trouble.NO_DEVICES]),
        (
            "Unable to determine the device handle for GPU0: Unknown Error\nNo devices were found",
            6,
            [Trouble.UNREACHABLE, Trouble.NO_DEVICES],
        ),
        ("", 9, [Trouble.NOT_LOADED]),
        ("", 15, [Trouble.LOST]),
        ("WARNING: infoROM is corrupted at gpu 0000:0B:00.0", 14, []),
        ("", 0, []),
    ],
)
def test_complaints_are_understood(text: str, returncode: int, troubles: list[Trouble]) -> None:
    """Each known message, and the exit status where it says nothing, has its meaning."""
    assert list(troubles_of(text, returncode)) == troubles


REAL = st.sampled_from(
    [
        OLD_TABLE,
        MIG_TABLE,
        WINDOWS_ROW,
        ORIN_TABLE,
        table((RTX_4090, GTX_1080), "610.57.04", "13.3"),
        rows((RTX_4090, GTX_1080), "550.54.14"),
        "Unable to determine the device handle for GPU1: 0000:02:00.0: GPU is lost.\n",
        'Field "compute_cap" is not a valid field to query.\n',
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Real output cut, interleaved with other output, and with anything put in the middle of it."""
    first, second, noise = draw(REAL), draw(REAL), draw(st.text(max_size=40))
    cut, into = draw(st.integers(0, len(first))), draw(st.integers(0, len(second)))
    return second[:into] + first[:cut] + noise + second[into:]


@given(st.one_of(st.text(), damaged()), st.integers(-64, 255))
def test_no_output_breaks_a_parser(text: str, returncode: int) -> None:
    """Whatever is printed, every parser gives an answer, and what it gives is well formed."""
    cuda = NvidiaSmiReading(cuda_shown=parse_header(text)[1]).cuda
    assert cuda is None or float(cuda) >= 0
    for gpu in map(gpu_of, (*parse_rows(text, FIELDS), *parse_table(text))):
        assert gpu.index is not None
        assert gpu.index >= 0
        assert gpu.architecture is None or float(gpu.architecture) >= 0
        assert gpu.memory_bytes is None or gpu.memory_bytes >= 0
    assert set(troubles_of(text, returncode)) <= set(Trouble)


@pytest.mark.parametrize(
    "line", ["|" + " " * 5000, "| 0 " + "A " * 5000, "," * 5000, "0" * 5000, "Driver Version: " * 5000]
)
def test_long_lines_take_no_time(line: str) -> None:
    """No pattern goes back and forth over a line without end: the suite would not come to its own."""
    text = (line + "\n") * 200
    assert parse_table(text) == ()
    assert parse_rows(text, FIELDS) == ()
    assert parse_header(text)[1] is None
