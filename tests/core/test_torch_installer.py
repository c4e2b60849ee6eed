"""The guide's facade: what it says of a machine, and the command it gives. Nothing is installed here."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import NoBuild, UsageError
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from moondream_station.core.torch_installer import TorchInstaller
from support.fake_driver import HANGS, install_driver, install_program
from support.machines import (
    GTX_1080,
    LINUX,
    RTX_5090,
    Card,
    cpu_only,
    intel_mac,
    kfd,
    mac,
    merged,
    nvidia_linux,
    rosetta,
    smi_hangs,
    windows,
    with_toolkit,
)

ROOT = Path(__file__).parents[2]
INDEX = "https://download.pytorch.org/whl"
KEYS = {
    "os",
    "machine",
    "cuda_available",
    "cuda_version",
    "mps_available",
    "recommended_install",
    "gpu_name",
    "detection_errors",
}
PLATFORM = replace(LINUX, python="3.11.7")
MIRROR = "http://user:secret@127.0.0.1:9/whl/"

on_linux_x86_64 = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="the commands are for Linux on x86-64",
)


def facade(record: MachineRecord, tmp_path: Path, **variables: str) -> TorchInstaller:
    """The facade on a recorded machine."""
    environ = {"MOONDREAM_STATION_HOME": str(tmp_path), **variables}
    return TorchInstaller(environ=environ, machine=RecordedMachine(record))


def on_cuda(driver: str, cuda: str, card: Card | None = None) -> MachineRecord:
    """A Linux machine with a driver."""
    return nvidia_linux(*([card] if card else []), driver=driver, cuda=cuda, platform=PLATFORM)


@pytest.mark.parametrize(
    ("driver", "cuda", "recommended", "build"),
    [
        ("470.256.02", "11.4", "cpu", "cpu"),
        ("520.61.05", "11.8", "cu118", "cu118"),
        ("525.60.13", "12.0", "cu121", "cu126"),
        ("530.30.02", "12.1", "cu121", "cu126"),
        ("550.54.14", "12.4", "cu124", "cu126"),
        ("570.26", "12.8", "cu124", "cu126"),
        ("580.65.06", "13.0", "cu124", "cu126"),
        ("595.45.04", "13.2", "cu124", "cu126"),
        ("610.43.02", "13.3", "cu124", "cu126"),  # its header has other words
    ],
)
@on_linux_x86_64
def test_the_report_on_a_real_program_is_the_guides(
    tmp_path: Path, driver: str, cuda: str, recommended: str, build: str
) -> None:
    """To the letter, whatever CUDA the driver tells; one more line where another build is named."""
    if build == "cu118" and sys.version_info >= (3, 14):
        build = "cpu"  # PyTorch made no cu118 wheel for it
    install_driver(tmp_path / "bin", driver, cuda, is_old=cuda == "11.4")
    lines = printed(tmp_path)
    assert lines[:14] == [
        "=== PyTorch System Detection Test ===",
        "",
        "Detecting system capabilities...",
        "Operating System: linux",
        "Machine Architecture: x86_64",
        "CUDA Available: True",
        f"CUDA Version: {cuda}",
        "MPS Available (Apple Silicon): False",
        f"Recommended Install: {recommended}",
        "",
        "=" * 50,
        "",
        "Generating PyTorch installation command...",
        "Installation command:",
    ]
    assert lines[14] == (
        f"python -m pip install torch>=2.7.0 torchvision torchaudio --index-url {INDEX}/{build}"
    )
    why = lines[15 : lines.index("", 14)]
    assert len(why) == (0 if build == recommended else 1)
    assert all(recommended in line and build in line for line in why)


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="the kernel tells its driver here")
@on_linux_x86_64
def test_a_hanging_program_is_waited_for_until_its_deadline(tmp_path: Path) -> None:
    """Then the report comes, with what is absent as None; the errors name the program."""
    install_program(tmp_path / "bin", "nvidia-smi", HANGS)
    lines = printed(tmp_path)
    assert lines[2:4] == ["Detecting system capabilities...", "Operating System: linux"]
    assert lines[5:9] == [
        "CUDA Available: False",
        "CUDA Version: None",
        "MPS Available (Apple Silicon): False",
        "Recommended Install: cpu",
    ]
    assert lines[14].endswith(f"--index-url {INDEX}/cpu")
    found = facade(merged(cpu_only(), replace(cpu_only(), commands=smi_hangs())), tmp_path / "home")
    (error,) = found.detect_system_capabilities()["detection_errors"]
    assert error.startswith("nvidia_smi: ")


@on_linux_x86_64
def test_a_toolkit_without_a_driver_is_no_gpu(tmp_path: Path) -> None:
    """The report of such a machine is the processor's."""
    toolkit = with_toolkit(cpu_only(), "12.8").commands[0].stdout
    install_program(tmp_path / "bin", "nvcc", f"/bin/cat <<'END'\n{toolkit}END")
    lines = printed(tmp_path)
    assert lines[5:9] == [
        "CUDA Available: False",
        "CUDA Version: None",
        "MPS Available (Apple Silicon): False",
        "Recommended Install: cpu",
    ]
    assert lines[14].endswith(f"--index-url {INDEX}/cpu")
    assert lines[18] == "Current PyTorch installation status:"


def printed(tmp_path: Path) -> list[str]:
    """The report's lines, from the program as the guide runs it, beside its file; none ends in blanks."""
    done = subprocess.run(
        [sys.executable, "test_torch_detection.py"],
        cwd=ROOT / "tests",
        env=variables_of(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    return lines


def variables_of(tmp_path: Path) -> dict[str, str]:
    """A user's variables: the test's programs are the first on PATH, and the home is the test's."""
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(tmp_path),
        "MOONDREAM_STATION_HOME": str(tmp_path / "home"),
    }


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (on_cuda("550.54.14", "12.4"), ("linux", "x86_64", True, "12.4", False, "cu124")),
        (on_cuda("550.54.14", "N/A"), ("linux", "x86_64", True, "12.4", False, "cu124")),
        (on_cuda("390.46", "N/A"), ("linux", "x86_64", True, None, False, "cpu")),
        (windows(Card(), driver="522.06", cuda="11.8"), ("windows", "amd64", True, "11.8", False, "cu118")),
        (windows(), ("windows", "amd64", False, None, False, "cpu")),
        (kfd({"gfx_target_version": 110000}), ("linux", "x86_64", False, None, False, "cpu")),
        (mac(), ("darwin", "arm64", False, None, True, "mps")),
        (rosetta(), ("darwin", "x86_64", False, None, False, "cpu")),
        (intel_mac(), ("darwin", "x86_64", False, None, False, "cpu")),
        (with_toolkit(cpu_only()), ("linux", "x86_64", False, None, False, "cpu")),
    ],
)
def test_a_machine_is_told_in_the_guides_words(
    tmp_path: Path, record: MachineRecord, expected: tuple[object, ...]
) -> None:
    """The keys are the contract's; the driver's branch tells its CUDA where its header doesn't."""
    found = facade(record, tmp_path).detect_system_capabilities()
    assert found.keys() == KEYS
    names = ("os", "machine", "cuda_available", "cuda_version", "mps_available", "recommended_install")
    assert tuple(found[name] for name in names) == expected
    assert found["detection_errors"] == []


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (on_cuda("550.54.14", "12.4"), "NVIDIA GeForce RTX 4090"),
        (mac(), "Apple M2"),
        (cpu_only(), None),
    ],
)
def test_the_gpu_is_named(tmp_path: Path, record: MachineRecord, name: str | None) -> None:
    """By its own tool; None where there is none."""
    assert facade(record, tmp_path).detect_system_capabilities()["gpu_name"] == name


def test_hidden_gpus_are_not_available(tmp_path: Path) -> None:
    """An empty CUDA_VISIBLE_DEVICES leaves the processor; the driver's version stays known."""
    record = nvidia_linux(driver="550.54.14", cuda="12.4", env={"CUDA_VISIBLE_DEVICES": ""})
    found = facade(record, tmp_path).detect_system_capabilities()
    assert (found["cuda_available"], found["cuda_version"]) == (False, "12.4")
    assert found["recommended_install"] == "cpu"


@pytest.mark.parametrize(
    ("record", "spec", "build"),
    [
        (on_cuda("550.54.14", "12.4"), "", "cu124"),
        (on_cuda("550.54.14", "12.4"), "<2.7", "cu124"),
        (on_cuda("550.54.14", "12.4"), "==2.5.1", "cu124"),
        (on_cuda("525.60.13", "12.0"), "<2.6", "cu121"),
        (on_cuda("580.65.06", "13.0"), "", "cu124"),
        (on_cuda("580.65.06", "13.0", RTX_5090), "", "cu128"),  # cu124 has no code for it
        (on_cuda("580.65.06", "13.0", GTX_1080), ">=2.7.0", "cu126"),
        (on_cuda("520.61.05", "11.8", RTX_5090), ">=2.7.0", "cpu"),
        (cpu_only(PLATFORM), ">=2.7.0", "cpu"),
    ],
)
def test_the_command_names_the_tables_index_where_it_can(
    tmp_path: Path, record: MachineRecord, spec: str, build: str
) -> None:
    """It must have a torch that is asked for and that the GPU can run; else it names the one that works."""
    command, index_url = facade(record, tmp_path).get_torch_install_command(spec)
    assert index_url == f"{INDEX}/{build}"
    head = ["python", "-m", "pip", "install", f"torch{spec}", "torchvision", "torchaudio"]
    assert command == [*head, "--index-url", index_url]


def test_on_apple_silicon_the_command_names_no_index(tmp_path: Path) -> None:
    """The ordinary wheel computes there."""
    command, index_url = facade(mac(), tmp_path).get_torch_install_command(">=2.7.0")
    assert index_url is None
    assert command == ["python", "-m", "pip", "install", "torch>=2.7.0", "torchvision", "torchaudio"]


def test_a_mirror_stands_in_for_the_index_without_its_credentials(tmp_path: Path) -> None:
    """What is printed may be shown to anybody."""
    installer = facade(cpu_only(PLATFORM), tmp_path, MOONDREAM_STATION_TORCH_INDEX=MIRROR)
    assert installer.get_torch_install_command()[1] == "http://127.0.0.1:9/whl/cpu"


def test_a_build_that_the_user_named_goes_before_the_table(tmp_path: Path) -> None:
    """The recommendation stays the table's, and the plan says what was chosen by name; `auto` names none."""
    installer = facade(on_cuda("580.65.06", "13.0"), tmp_path, MOONDREAM_STATION_STRATEGY="cu130")
    assert installer.get_torch_install_command()[1] == f"{INDEX}/cu130"
    assert installer.detect_system_capabilities()["recommended_install"] == "cu124"
    assert "You chose" in installer.plan_torch_install().reason
    installer = facade(on_cuda("580.65.06", "13.0"), tmp_path, MOONDREAM_STATION_STRATEGY="auto")
    assert installer.get_torch_install_command()[1] == f"{INDEX}/cu124"


@pytest.mark.parametrize("spec", ["2.7.0", ">=", "vision>=1", " and more"])
def test_what_is_no_version_is_refused(tmp_path: Path, spec: str) -> None:
    """Also where it would make the name of another package."""
    with pytest.raises(UsageError):
        facade(cpu_only(PLATFORM), tmp_path).get_torch_install_command(spec)


@pytest.mark.parametrize(("record", "words"), [(rosetta(), "arm64 Python"), (intel_mac(), "2.2.2")])
def test_where_nothing_can_be_installed_the_error_says_why(
    tmp_path: Path, record: MachineRecord, words: str
) -> None:
    """And what would change it."""
    installer = facade(record, tmp_path)
    with pytest.raises(NoBuild, match=words):
        installer.get_torch_install_command(">=2.7.0")
    assert words in installer.plan_torch_install(">=2.7.0").reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch>=2.8\n-r other.txt", "the requirements, line 2: '-r other.txt' is not accepted"),
        ("torch=>2.8", "line 1"),
        ("torch @ https://example.org/torch.whl", "torch and its companions come from"),
    ],
)
def test_bad_requirements_are_told_not_raised(tmp_path: Path, text: str, words: str) -> None:
    """With the line, and what may stand there."""
    result = facade(cpu_only(PLATFORM), tmp_path).install_torch_requirements(text)
    assert (result.success, result.cmd) == (False, [])
    assert words in result.message
    assert "Requirements may hold names, extras, versions, markers and sha256 hashes." in result.message


LIMITED = """
import resource
from moondream_station.core.facts.errors import StationError
from moondream_station.core.torch_installer import TorchInstaller
installer = TorchInstaller()
installer.detect_system_capabilities()  # loads what it needs
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
try:
    installer.detect_system_capabilities()
except StationError as error:
    print(error.message)
print(installer.install_torch_requirements("torch").message)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_what_the_system_refuses_is_told_with_a_remedy(tmp_path: Path) -> None:
    """Raised as the station's error, or in the result; never as the system's own."""
    environ = {**os.environ, "MOONDREAM_STATION_HOME": str(tmp_path / "home")}
    program = [sys.executable, "-c", LIMITED]
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=False)
    refusal = "The system refused what this Python needs: Too many open files."
    remedy = "Check the file's permissions and the limits (`ulimit -a`), then run it again."
    assert done.stdout.splitlines() == [refusal, f"{refusal} {remedy}"], done.stderr


@pytest.mark.anyio
async def test_it_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    """It is synchronous there too, and the loop goes on after it."""
    found = facade(mac(), tmp_path).detect_system_capabilities()
    await anyio.lowlevel.checkpoint()
    assert found["recommended_install"] == "mps"


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    """Detection, the plan and the command leave no home behind."""
    home = tmp_path / "home"
    installer = facade(mac(), home)
    installer.detect_system_capabilities()
    installer.get_torch_install_command()
    assert not home.exists()
