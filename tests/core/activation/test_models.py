"""Whether a model fits: both directions of every bound, on records and on numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from moondream_station.core.activation.models import (
    DISK_RESERVE_BYTES,
    MEMORY_RESERVE_BYTES,
    Surroundings,
    judge,
    list_models,
    surroundings_of,
)
from moondream_station.core.backends.manifest import ModelInfo
from moondream_station.core.backends.manifest_loader import read_built_in
from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.builds.trials import Trial, Trials
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.facts.capabilities import Capabilities, Gpu
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.selection import Fit, FitVerdict
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import Need, write_record
from moondream_station.core.machine.record import RecordedMachine, load_record
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.weights.contents import Weights, WeightsFile
from moondream_station.core.weights.disk import Learned
from support.environments import made_home

FITS, TIGHT, NOT, UNKNOWN = FitVerdict.FITS, FitVerdict.TIGHT, FitVerdict.DOES_NOT_FIT, FitVerdict.UNKNOWN
GB = 10**9
RESERVE = MEMORY_RESERVE_BYTES
MACHINES = Path(__file__).parents[2] / "machines"


def model(args: dict[str, Any] | None = None, **needs: Any) -> ModelInfo:
    """A model with these needs."""
    entry = {"name": "m", "description": "", "backend": "b", "args": args or {}, "needs": needs}
    return ModelInfo.model_validate(entry)


MACHINE = Capabilities(
    system="Linux", release="6.8.0", machine="x86_64", python="3.12.3", libc=("glibc", "2.39")
)
GPU = Gpu(
    vendor="nvidia", index=0, name="GPU 3000", architecture="8.6", memory_bytes=8 * GB, integrated=False
)


Place: TypeAlias = tuple[str, Capabilities, Surroundings]
"""A build, the machine, and what the probes don't ask of it."""


def judged(model: ModelInfo, place: Place) -> Fit:
    """Whether a model fits there."""
    build, capabilities, around = place
    return judge(model, build, capabilities, around=around, catalog=load_catalog())


def on_gpu(gpu: Gpu = GPU, **machine: Any) -> Place:
    """The CUDA build on a machine with one GPU."""
    capabilities = replace(
        MACHINE, gpus=(gpu,), nvidia_driver="580.65.06", nvidia_driver_source="proc", **machine
    )
    return "cu126", capabilities, Surroundings()


def on_cpu(memory_bytes: int | None, free_memory_bytes: int | None = None, **around: Any) -> Place:
    """The CPU build on a machine with so much memory."""
    there = Surroundings(memory_bytes=memory_bytes, free_memory_bytes=free_memory_bytes, **around)
    return "cpu", MACHINE, there


@pytest.mark.parametrize(
    ("memory_bytes", "verdict"),
    [
        (7 * GB + 2 * RESERVE, FITS),
        (7 * GB + 2 * RESERVE - 1, TIGHT),
        (7 * GB + RESERVE, TIGHT),
        (7 * GB + RESERVE - 1, NOT),
        (None, UNKNOWN),
    ],
)
def test_memory(memory_bytes: int | None, verdict: FitVerdict) -> None:
    """Weights and a reserve must fit; where less than the reserve is left beside them, it is tight."""
    seven = model(weights_bytes=7 * GB, weights_dtype="float32")
    assert judged(seven, on_gpu(replace(GPU, memory_bytes=memory_bytes))).verdict == verdict
    assert judged(seven, on_cpu(memory_bytes)).verdict == verdict


def test_the_sum_is_told() -> None:
    """What is needed, of which memory, and what is there."""
    fit = judged(model(weights_bytes=8_200_000_000, weights_dtype="bfloat16"), on_gpu())
    assert fit.verdict is NOT
    assert fit.reason == (
        "needs 9.3 GB of GPU memory; this machine has 8.0 GB"
        " (8.2 GB for weights in bfloat16, 1.1 GB to compute)"
    )


def test_memory_that_others_use_is_tight_and_no_more() -> None:
    """What is not free now may be by then."""
    seven = model(weights_bytes=7 * GB, weights_dtype="float32")
    assert judged(seven, on_cpu(16 * GB, 7 * GB + RESERVE)).verdict is FITS
    fit = judged(seven, on_cpu(16 * GB, 7 * GB + RESERVE - 1))
    assert fit.verdict is TIGHT
    assert "this machine has 16.0 GB, 8.1 GB of them free now" in fit.reason


@pytest.mark.parametrize(
    ("memory_bytes", "verdict"),
    [
        (8 * GB + 2 * RESERVE, FITS),
        (8 * GB + RESERVE, TIGHT),
        (8 * GB + RESERVE - 1, TIGHT),
        (4 * GB + RESERVE, TIGHT),
        (4 * GB + RESERVE - 1, NOT),
    ],
)
def test_a_cpu_may_need_twice_the_memory(memory_bytes: int, verdict: FitVerdict) -> None:
    """Weights in bfloat16 become float32 on a CPU that can't multiply it; which one this is, shows later."""
    four = model(weights_bytes=4 * GB, weights_dtype="bfloat16")
    fit = judged(four, on_cpu(memory_bytes))
    assert fit.verdict == verdict
    if verdict is TIGHT and memory_bytes < 8 * GB + RESERVE:
        assert "a CPU that can't multiply bfloat16 needs 9.1 GB" in fit.reason


def test_the_type_that_the_manifest_names_counts() -> None:
    """`dtype` in the args decides, on a CPU too."""
    needs: dict[str, Any] = {"weights_bytes": 4 * GB, "weights_dtype": "bfloat16"}
    assert judged(model({"dtype": "bfloat16"}, **needs), on_cpu(4 * GB + 2 * RESERVE)).verdict is FITS
    assert judged(model({"dtype": "float32"}, **needs), on_gpu()).verdict is NOT
    assert judged(model({"dtype": "float16"}, **needs), on_gpu()).verdict is FITS
    assert judged(model({"dtype": "a type of their own"}, **needs), on_gpu()).verdict is UNKNOWN


def test_weights_say_what_the_manifest_does_not() -> None:
    """By what they hold, in the type that they are used in; what the manifest says goes first."""
    file = WeightsFile(name="model.safetensors", size_bytes=8_200_000_000)
    held = {"bfloat16": 8_000_000_000, "float32": 199_000_000}
    learned = Learned(weights=Weights(files=(file,), by_dtype=held))
    gpu, machine, _ = on_gpu(replace(GPU, memory_bytes=24 * GB))
    room = gpu, machine, Surroundings(learned=learned)
    fit = judged(model(), room)
    assert fit.verdict is FITS
    assert "8.1 GB for weights in bfloat16" in fit.reason
    wide = judged(model({"dtype": "float32"}), room)
    assert "16.2 GB for weights in float32" in wide.reason
    assert "30.0 GB for weights" in judged(model(weights_bytes=30 * GB), room).reason
    silent = judged(model(), (gpu, machine, Surroundings(learned=Learned(reason="the hub is silent"))))
    assert silent.verdict is UNKNOWN
    assert silent.reason.endswith("does not say how much memory it needs, and the hub is silent")


def test_memory_by_type_goes_before_the_size_of_the_weights() -> None:
    """What somebody measured is better than what follows from a file."""
    measured: dict[str, Any] = {
        "weights_bytes": 1,
        "weights_dtype": "bfloat16",
        "memory_bytes": {"bfloat16": 9 * GB},
    }
    assert judged(model(**measured), on_gpu()).verdict is NOT
    assert judged(model(memory_bytes={"bfloat16": 4 * GB, "float32": 8 * GB}), on_gpu()).verdict is FITS
    alone = model(memory_bytes={"bfloat16": 4 * GB})
    assert judged(alone, on_cpu(4 * GB + 2 * RESERVE)).verdict is FITS  # nothing says what float32 would need


def test_what_the_manifest_does_not_say_is_unknown() -> None:
    """Nothing is guessed."""
    fit = judged(model(), on_gpu())
    assert (fit.verdict, fit.reason) == (UNKNOWN, "the manifest does not say how much memory it needs")
    assert judged(model(weights_bytes=4 * GB), on_gpu()).verdict is FITS  # as they are stored
    assert judged(model({"dtype": "float32"}, weights_bytes=4 * GB), on_gpu()).verdict is UNKNOWN


@pytest.mark.parametrize(
    ("free_bytes", "verdict"),
    [
        (2 * GB + (1 << 30), FITS),
        (2 * GB + (1 << 30) - 1, TIGHT),
        (2 * GB + DISK_RESERVE_BYTES, TIGHT),
        (2 * GB + DISK_RESERVE_BYTES - 1, NOT),
        (None, FITS),
    ],
)
def test_disk(free_bytes: int | None, verdict: FitVerdict) -> None:
    """Weights that are not there yet must fit on their disk."""
    two = model(weights_bytes=2 * GB, weights_dtype="float32")
    weights = Need(Path("/"), 2 * GB)
    fit = judged(two, on_cpu(64 * GB, free_disk_bytes=free_bytes, weights=weights))
    assert fit.verdict == verdict
    assert ("2.1 GB on the disk; " in fit.reason) == (verdict in {TIGHT, NOT})
    assert judged(two, on_cpu(64 * GB, free_disk_bytes=0, weights=Need(Path("/"), 0))).verdict is FITS


@pytest.mark.parametrize(
    ("architecture", "verdict"), [("8.0", FITS), ("9.0", FITS), ("7.5", NOT), ("11.0", FITS), (None, UNKNOWN)]
)
def test_compute_capability(architecture: str | None, verdict: FitVerdict) -> None:
    """As two numbers; where no CUDA build is used it does not matter."""
    needs = model(weights_bytes=0, compute_capability="8.0")
    fit = judged(needs, on_gpu(replace(GPU, architecture=architecture)))
    assert fit.verdict == verdict
    if verdict is NOT:
        assert "needs compute capability 8.0; GPU 3000 has 7.5" in fit.reason
    assert judged(needs, on_cpu(64 * GB)).verdict is FITS


@pytest.mark.parametrize(
    ("libc", "verdict"),
    [(("glibc", "2.35"), FITS), (("glibc", "2.40"), FITS), (("glibc", "2.34"), NOT), (("", ""), NOT)],
)
def test_glibc(libc: tuple[str, str], verdict: FitVerdict) -> None:
    """As two numbers; another C library is none. Other systems have no glibc to be too old."""
    needs = model(weights_bytes=0, glibc="2.35")
    assert judged(needs, on_gpu(libc=libc)).verdict == verdict
    windows = replace(MACHINE, system="Windows", machine="AMD64", libc=("", ""))
    room = "cpu", windows, Surroundings(memory_bytes=64 * GB)
    assert judged(needs, room).verdict is FITS


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("record", "build", "memory"),
    [
        ("linux-ada-rtx4090-560", "cu126", "GPU memory; this machine has 25.8 GB"),
        (
            "linux-ada-rtx4090-560",
            "cpu",
            "of memory (7.7 GB for weights in float32, 1.1 GB to compute); how much this machine has is",
        ),
        ("linux-cvd-unordered-of-two", "cu126", "GPU memory; "),
        ("amd-rx7600-gfx1102", "rocm6.4", "GPU memory (3.9 GB"),
        ("mac-m2-ventura", "mps", " of memory; "),
        (
            "jetson-orin-540",
            "cu126",
            "of memory (3.9 GB for weights in bfloat16, 1.1 GB to compute); how much this machine has is",
        ),
    ],
)
async def test_on_records(record: str, build: str, memory: str) -> None:
    """Of a record, the GPU's memory is known; on a Mac and where a GPU shares it, the main memory counts."""
    capabilities = await detect(
        RecordedMachine(load_record(MACHINES / f"{record}.json")), on_probe=lambda _: None
    )
    room = build, capabilities, Surroundings()
    fit = judged(model(weights_bytes=3_850_000_000, weights_dtype="bfloat16"), room)
    assert memory in fit.reason, fit


@pytest.mark.parametrize(
    ("name", "gigabytes", "verdict"),
    [
        ("moondream-2", 8, FITS),
        ("moondream-2", 6, FITS),
        ("moondream-2", 5, TIGHT),
        ("moondream-2", 4, NOT),
        ("moondream-3-preview", 24, FITS),
        ("moondream-3-preview", 16, NOT),
    ],
)
def test_the_built_in_models(name: str, gigabytes: int, verdict: FitVerdict) -> None:
    """On graphics cards of the usual sizes."""
    room = on_gpu(replace(GPU, memory_bytes=gigabytes << 30))
    assert judged(read_built_in().models[name], room).verdict == verdict


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({}, ".cache/huggingface/hub"),
        ({"HF_HOME": "{folder}/weights"}, "weights/hub"),
        ({"HF_HOME": "{folder}/weights", "HF_HUB_CACHE": "{folder}/hub"}, "hub"),
    ],
)
def test_weights_that_are_there_need_no_disk(tmp_path: Path, variables: dict[str, str], cache: str) -> None:
    """What the hub's cache has of the repository counts, also where it was put by somebody else."""
    environ = {"HOME": str(tmp_path)} | {
        name: value.format(folder=tmp_path) for name, value in variables.items()
    }
    needing = model({"model_id": "me/large"}, weights_bytes=10 * 4096)
    before = surroundings_of(needing, environ)
    assert before.weights == Need(tmp_path, 10 * 4096)
    assert before.free_disk_bytes
    assert 0 < (before.free_memory_bytes or 0) <= (before.memory_bytes or 0)
    blobs = tmp_path / cache / "models--me--large" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123").write_bytes(b"x" * 3 * 4096)
    (blobs.parents[1] / "models--me--other").mkdir()
    (blobs.parents[1] / "models--me--other" / "4567").write_bytes(b"x" * 4096)
    assert surroundings_of(needing, environ).weights == Need(tmp_path / cache, 7 * 4096)


def test_a_model_in_a_folder_downloads_nothing(tmp_path: Path) -> None:
    """Its weights are there, wherever that is."""
    local = model({"model_id": str(tmp_path)}, weights_bytes=10**15)
    weights = surroundings_of(local, {"HOME": str(tmp_path)}).weights
    assert weights is not None
    assert weights.size_bytes == 0


@pytest.mark.anyio
async def test_the_list_judges_by_what_a_switch_would_use(tmp_path: Path) -> None:
    """AMD's build only where its index may be asked, and none that failed here while nothing has changed."""
    record = load_record(MACHINES / "amd-rx6700xt-gfx1031.json")
    capabilities = await detect(RecordedMachine(record), on_probe=lambda _: None)
    home, manifest, catalog = made_home(tmp_path), read_built_in(), load_catalog()

    def reasons(vendor_indexes: int) -> str:
        settings = Settings(vendor_indexes=vendor_indexes)
        listed = list_models(manifest, home, capabilities, {"HOME": str(tmp_path)}, catalog, settings)
        return "\n".join(entry["fit"]["reason"] for entry in listed["models"])

    assert "of GPU memory" in reasons(1)
    assert "of GPU memory" not in reasons(0)
    request = BuildRequest(
        capabilities=capabilities,
        requirements=parse_requirement_args(["torch"]),
        python=own_interpreter().name,
        catalog=catalog,
    )
    failures = [
        Trial(
            build=offer.build,
            torch=offer.torch,
            at="2026-11-20T10:00:00Z",
            failure="HIP error: invalid device function",
            device=None,
            arch_list=(),
            mismatches=(),
            circumstances=request.circumstances,
        )
        for offer in request.catalog_offers()
        if offer.build.startswith("rocm")
    ]
    write_record(home, home.trials, json.dumps(to_json(Trials(trials=tuple(failures)))))
    assert "of GPU memory" not in reasons(1)
