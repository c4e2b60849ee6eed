"""Which GPUs count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.visibility import InUse, amd_in_use, intel_in_use, nvidia_in_use
from moondream_station.core.facts.capabilities import BUS_ALONE, Capabilities, Gpu, Outcome, ProbeReport
from support.snapshots import amd, intel, linux, nvidia

OLD = nvidia("6.1", "GTX 1080", index=0)
NEW = nvidia("8.9", "RTX 4090", index=1)
ALIKE = (nvidia("8.9", "RTX 4090", index=0), nvidia("8.9", "RTX 4090", index=1))


@pytest.mark.parametrize("value", ["", " ", "-1", "-1,0", "NoDevFiles", "all", "none,0"])
def test_a_list_that_begins_with_no_gpu_is_none(value: str) -> None:
    """CUDA ends the list at the first entry that names none."""
    in_use = nvidia_in_use(
        linux(OLD, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": value}), load_catalog()
    )
    assert in_use.gpus == ()
    assert "CUDA_VISIBLE_DEVICES" in (in_use.absence or "")


def amd_seen(capabilities: Capabilities) -> InUse:
    """The AMD GPUs in use, by the bundled catalog."""
    return amd_in_use(capabilities, load_catalog())


def test_positions_count_where_all_gpus_are_alike() -> None:
    """Whichever order CUDA has, the chosen one has the same capability."""
    in_use = nvidia_in_use(
        linux(*ALIKE, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": "1"}), load_catalog()
    )
    assert in_use.gpus == (ALIKE[1],)
    assert in_use.warnings == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", (OLD,)),
        ("1", (NEW,)),
        ("1,0", (NEW, OLD)),
        ("1,7,0", (NEW,)),
        ("0,-1,1", (OLD,)),
        ("1,x,0", (NEW,)),
    ],
)
def test_positions_count_in_nvidia_smis_order(value: str, expected: tuple[Gpu, ...]) -> None:
    """CUDA_DEVICE_ORDER=PCI_BUS_ID makes them the same."""
    variables = {"CUDA_VISIBLE_DEVICES": value, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert (
        nvidia_in_use(linux(OLD, NEW, driver="580.65", variables=variables), load_catalog()).gpus == expected
    )


@pytest.mark.parametrize("value", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-1", "0,GPU-1"])
def test_otherwise_every_gpu_counts_and_a_warning_says_so(value: str) -> None:
    """CUDA's own order is another than nvidia-smi's, and UUIDs are not recorded."""
    in_use = nvidia_in_use(
        linux(OLD, NEW, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": value}), load_catalog()
    )
    assert in_use.gpus == (OLD, NEW)
    assert len(in_use.warnings) == 1
    assert value in in_use.warnings[0]


@pytest.mark.parametrize(("value", "gpus"), [("0", (NEW,)), ("1", (OLD,)), ("1,0", (OLD, NEW))])
def test_positions_without_an_order_count_the_fastest_first(value: str, gpus: tuple[Gpu, ...]) -> None:
    """As CUDA does, and other than nvidia-smi: "1" hides the newer GPU. The warning says which is meant."""
    in_use = nvidia_in_use(
        linux(OLD, NEW, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": value}), load_catalog()
    )
    assert in_use.gpus == gpus
    assert "because CUDA counts the fastest GPU first" in in_use.warnings[0]


def test_the_warning_says_how_to_choose_so_that_it_counts() -> None:
    """A UUID has to become a position first."""
    variables = {"CUDA_VISIBLE_DEVICES": "GPU-1"}
    (warning,) = nvidia_in_use(linux(OLD, NEW, driver="580.65", variables=variables), load_catalog()).warnings
    assert "(name them by position, with CUDA_DEVICE_ORDER=PCI_BUS_ID" in warning


@pytest.mark.parametrize("value", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-1,MIG-2"])
def test_a_uuid_is_nothing_to_tell_where_all_gpus_are_alike(value: str) -> None:
    """Whichever it names has the same capability."""
    in_use = nvidia_in_use(
        linux(*ALIKE, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": value}), load_catalog()
    )
    assert (in_use.gpus, in_use.warnings) == (ALIKE, ())


def test_positions_beyond_the_list_hide_every_gpu() -> None:
    """As CUDA does."""
    variables = {"CUDA_VISIBLE_DEVICES": "5"}
    assert nvidia_in_use(linux(*ALIKE, driver="580.65", variables=variables), load_catalog()).absence


def test_an_unreadable_capability_is_named_and_the_gpu_still_counts() -> None:
    """The list becomes unknown, not shorter."""
    unknown = nvidia(None, "Mystery", index=1)
    in_use = nvidia_in_use(linux(OLD, unknown, driver="580.65"), load_catalog())
    assert in_use.gpus == (OLD, unknown)
    assert "Mystery" in in_use.warnings[0]


def test_a_jetson_of_unknown_capability_counts_as_orin() -> None:
    """The ordinary wheels have nothing for the older ones, and what has code for Orin has it for Thor."""
    in_use = nvidia_in_use(
        linux(nvidia(None, "Jetson"), driver="540.4.0", machine="aarch64", surroundings="jetson"),
        load_catalog(),
    )
    assert [gpu.architecture for gpu in in_use.gpus] == ["8.7"]


def test_a_driver_without_a_gpu_is_no_gpu() -> None:
    """As in a container that was started without its GPU."""
    in_use = nvidia_in_use(linux(driver="535.183.01"), load_catalog())
    assert "535.183.01" in (in_use.absence or "")


def test_a_toolkit_alone_is_no_gpu() -> None:
    """Nor does its version choose a build."""
    assert "CUDA toolkit 13.0 is ignored" in (nvidia_in_use(linux(nvcc="13.0"), load_catalog()).absence or "")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_not_knowing_is_another_answer_than_not_there(outcome: Outcome) -> None:
    """The reason says what was seen."""
    probe = ProbeReport(probe="nvidia_smi", outcome=outcome, seconds=5.0, detail="no answer in 5 s")
    absence = nvidia_in_use(linux(probes=(probe,)), load_catalog()).absence or ""
    assert "could not be detected" in absence
    assert "no answer in 5 s" in absence


def test_a_driver_version_that_is_none_carries_nothing() -> None:
    """It can't be held against any bound."""
    assert "can't be read" in (
        nvidia_in_use(linux(OLD, driver="[Unknown Error]"), load_catalog()).absence or ""
    )


def test_the_fastest_gpu_is_the_first_one_for_cuda() -> None:
    """Unless the bus's order is asked for."""
    assert nvidia_in_use(linux(OLD, NEW, driver="580.65"), load_catalog()).runtime_order == (1, 0)
    ordered = linux(OLD, NEW, driver="580.65", variables={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert nvidia_in_use(ordered, load_catalog()).runtime_order == (0, 1)


def test_an_integrated_amd_gpu_beside_a_discrete_one_does_not_decide() -> None:
    """Alone, it does."""
    card, on_processor = amd("gfx1100", index=0), amd("gfx1036", index=1, integrated=True)
    assert amd_seen(linux(card, on_processor)).gpus == (card,)
    assert amd_seen(linux(on_processor)).gpus == (on_processor,)


@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
def test_amds_variables_choose_by_position(name: str) -> None:
    """ROCm's order is the kernel's."""
    cards = (amd("gfx1100", index=0), amd("gfx906", index=1))
    assert amd_seen(linux(*cards, variables={name: "1"})).gpus == cards[1:]
    assert name in (amd_seen(linux(*cards, variables={name: ""})).absence or "")
    assert name in (amd_seen(linux(*cards, variables={name: "0,0"})).absence or "")


def test_hip_numbers_what_the_runtime_below_it_shows() -> None:
    """ROCR_VISIBLE_DEVICES is applied first, and what it leaves is counted from 0 again."""
    cards = (amd("gfx1100", index=0), amd("gfx906", index=1))
    variables = {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}
    assert amd_seen(linux(*cards, variables=variables)).gpus == cards[1:]


def test_hips_own_variable_goes_before_cudas() -> None:
    """CUDA_VISIBLE_DEVICES hides AMD's GPUs only where HIP_VISIBLE_DEVICES is not set."""
    cards = (amd("gfx1100", index=0), amd("gfx906", index=1))
    variables = {"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    assert amd_seen(linux(*cards, variables=variables)).gpus == cards[1:]


@pytest.mark.parametrize(
    ("value", "gfx"), [("10.3.0", "gfx1030"), ("9.0.10", "gfx90a"), ("11.0.0", "gfx1100")]
)
def test_amds_override_counts_as_the_gpu_and_is_told(value: str, gfx: str) -> None:
    """HSA_OVERRIDE_GFX_VERSION is what the runtime believes."""
    in_use = amd_seen(linux(amd("gfx1032"), variables={"HSA_OVERRIDE_GFX_VERSION": value}))
    assert [gpu.architecture for gpu in in_use.gpus] == [gfx]
    assert gfx in in_use.warnings[0]


def test_only_supported_intel_gpus_count_and_get_their_familys_name() -> None:
    """An old integrated one beside an Arc does not decide."""
    in_use = intel_in_use(linux(intel("0x3e92", "UHD 630"), intel("0x56a0", index=1)), load_catalog())
    assert [(gpu.architecture, gpu.integrated) for gpu in in_use.gpus] == [("0x56a0", False)]
    assert "Arc" in (in_use.gpus[0].name or "")


def test_an_unsupported_intel_gpu_is_named() -> None:
    """With what would be supported."""
    absence = intel_in_use(linux(intel("0x3e92", "UHD 630")), load_catalog()).absence or ""
    assert "UHD 630" in absence
    assert "Arc" in absence


def test_an_amd_gpu_that_the_bus_alone_shows_can_not_be_used() -> None:
    """It is there all the same; one that the kernel lists for computing beside it can."""
    card = replace(amd(None), architecture_source=BUS_ALONE)
    in_use = amd_seen(linux(card, variables={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}))
    assert in_use.gpus == ()
    assert in_use.is_there
    assert "amdgpu" in (in_use.absence or "")
    assert amd_seen(linux(card, amd("gfx1100", index=1))).absence is None


@pytest.mark.parametrize(
    ("name", "driver", "header", "carries_as", "words"),
    [
        ("Tesla T4", "535.86.10", "13.0", "580.999", "cuda-compat gives driver 535.86.10 CUDA 13.0"),
        ("NVIDIA A100-SXM4-80GB", "535.86.10", "12.8", "570.999", "CUDA 12.8"),
        ("NVIDIA L40S", "535.86.10", "12.2", None, None),  # the driver's own
        ("NVIDIA H100 80GB HBM3", "620.11", "13.5", None, None),  # a branch that the table does not know
        ("NVIDIA GeForce RTX 3090", "550.54.14", "13.0", None, "error 804"),
        ("NVIDIA GeForce RTX 3090", "550.54.14", "12.4", None, None),
        ("NVIDIA T1000 8GB", "550.54.14", "13.0", None, "error 804"),  # a workstation's
        (None, "535.86.10", "13.0", None, None),
    ],
)
def test_a_header_beyond_the_driver_counts_on_data_centre_gpus_alone(
    name: str | None, driver: str, header: str, carries_as: str | None, words: str | None
) -> None:
    """NVIDIA's cuda-compat is there then; of a GPU without a name nothing is concluded."""
    machine = replace(linux(nvidia("8.0", name), driver=driver), nvidia_cuda=header)
    in_use = nvidia_in_use(machine, load_catalog())
    assert in_use.carries_as == carries_as
    assert len(in_use.warnings) == bool(words)
    assert (words or "") in "".join(in_use.warnings)


def test_a_jetsons_driver_has_a_cuda_of_its_own() -> None:
    """JetPack 6's 540 has CUDA 12.6, which branch 540 of the table has not."""
    orin = linux(nvidia("8.7", "Orin (nvgpu)"), driver="540.4.0", machine="aarch64", surroundings="jetson")
    in_use = nvidia_in_use(replace(orin, nvidia_cuda="12.6"), load_catalog())
    assert (in_use.carries_as, in_use.warnings) == (None, ())


def test_a_geforce_beside_a_data_centre_gpu_keeps_the_header_from_counting() -> None:
    """One process loads one driver library."""
    cards = (nvidia("8.0", "NVIDIA A100-SXM4-80GB"), nvidia("8.6", "NVIDIA GeForce RTX 3090", index=1))
    machine = replace(linux(*cards, driver="535.86.10"), nvidia_cuda="13.0")
    in_use = nvidia_in_use(machine, load_catalog())
    assert in_use.carries_as is None
    assert "RTX 3090 does not support" in in_use.warnings[0]


def test_what_variables_hide_beside_the_visible_is_known() -> None:
    """By both variables, the second among those of the first."""
    cards = tuple(amd(gfx, index=place) for place, gfx in enumerate(("gfx1100", "gfx1030", "gfx90a")))
    variables = {"ROCR_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "1"}
    in_use = amd_seen(linux(*cards, variables=variables))
    assert in_use.gpus == (cards[1],)
    assert in_use.beside == (cards[0], cards[2])
    assert in_use.hiding == "ROCR_VISIBLE_DEVICES='0,1' and HIP_VISIBLE_DEVICES='1'"
    assert amd_seen(linux(*cards)).beside == ()


@pytest.mark.parametrize(("gfx", "is_foreign"), [("gfx1032", False), ("gfx1100", True), ("gfx906", True)])
def test_an_override_for_another_generation_is_warned_of(gfx: str, is_foreign: bool) -> None:  # noqa: FBT001
    """The runtime takes it all the same, and the code is for other instructions."""
    machine = linux(amd(gfx), variables={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"})
    (warning,) = amd_seen(machine).warnings
    assert ("another generation" in warning) is is_foreign


def test_which_variable_hides_every_gpu_is_told() -> None:
    """And no other reason counts as one."""
    assert amd_seen(linux(amd("gfx1100"), variables={"ROCR_VISIBLE_DEVICES": ""})).hidden_by == (
        "ROCR_VISIBLE_DEVICES"
    )
    hidden = nvidia_in_use(
        linux(OLD, driver="580.65", variables={"CUDA_VISIBLE_DEVICES": ""}), load_catalog()
    )
    assert hidden.hidden_by == "CUDA_VISIBLE_DEVICES"
    assert nvidia_in_use(linux(driver="580.65"), load_catalog()).hidden_by is None
