"""What holds of every selection, whatever the machine: held against an oracle that shares no code with it.

The oracle reads catalog.toml's rows itself and knows the bounds by heart (NVIDIA's compatibility table,
DEVICE_REQUIREMENT of torch 2.13). It looks at every wheel of the catalog one by one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources

from hypothesis import example, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.offers import Offer
from moondream_station.core.facts.capabilities import Capabilities, Gpu
from moondream_station.core.facts.selection import Verdict
from support.snapshots import amd, intel, linux, nvidia, plan, wheel, windows

DATA = tomllib.loads(
    resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text(encoding="utf-8")
)
CAPABILITIES = [
    "3.0", "3.5", "3.7", "5.0", "5.2", "5.3", "6.0", "6.1", "6.2", "7.0", "7.2", "7.5", "8.0", "8.6", "8.7",
    "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1",
]  # fmt: skip
DRIVERS = [
    "390.46", "418.39", "440.33", "450.80.02", "470.82.01", "510.47.03", "522.25", "525.60.13", "528.33",
    "535.183.01", "550.54.14", "560.35.03", "570.26", "570.65", "575.57.08", "580.00", "580.65.06",
    "590.48.01", "610.57.04",
]  # fmt: skip
GFX = [
    "gfx803",
    "gfx900",
    "gfx906",
    "gfx90a",
    "gfx942",
    "gfx1030",
    "gfx1032",
    "gfx1100",
    "gfx1151",
    "gfx1201",
]
GFX_OF = {row["build"]: row["gfx"] for row in (*DATA["rocm"], *DATA["vendor_rocm"])}
TORCH = [str(release["torch"]) for release in DATA["releases"]]
PYTHONS = [
    "3.8.10",
    "3.9.2",
    "3.10.4",
    "3.11.7",
    "3.12.3",
    "3.13.0",
    "3.14.0",
    "3.15.0",
    "3.13t",
    "3.14t",
    "3.17.0",
]


@dataclass(frozen=True)
class Wheel:
    """One wheel set of the catalog's, as its file has it."""

    build: str
    torch: Version
    platform: str
    pythons: frozenset[str]
    verified: bool
    local: str | None
    is_amds: bool = False

    @property
    def full(self) -> Version:
        """The version that a requirement is held against."""
        return Version(f"{self.torch}+{self.local}") if self.local else self.torch


def every_wheel(platform: str) -> Iterator[Wheel]:
    """Index and PyPI."""
    for release in DATA["releases"]:
        if platform not in release["tags"]:
            continue
        pythons = release.get("python_on", {}).get(platform, release["python"]).split()
        more = release.get("index_python", {}).get(platform, "").split()
        torch = Version(release["torch"])
        yield Wheel(release["pypi"][platform], torch, platform, frozenset(pythons), verified=True, local=None)
        for row in release["wheels"]:
            if platform in row:
                known = row[platform] != "unverified"
                own = row["python"].split() if "python" in row else [*pythons, *more]
                build = row["build"]
                yield Wheel(build, torch, platform, frozenset(own), known, build, "vendor" in row)


def numbers(version: str) -> tuple[int, ...]:
    """A dotted version as numbers."""
    return tuple(map(int, version.split(".")))


def carries(driver: str, build: str, capability: str, *, on_windows: bool) -> bool:
    """NVIDIA's minor-version compatibility, and Blackwell's first driver."""
    major = int(build[2:-1])
    have = numbers(driver)
    if major == 13:
        return have[0] >= 580
    if major == 12:
        if numbers(capability)[0] >= 10 and have < ((570, 65) if on_windows else (570, 26)):
            return False
        return have >= ((528, 33) if on_windows else (525, 60, 13))
    return have >= ((452, 39) if on_windows else (450, 80, 2))


def has_code(wheel: Wheel, capability: str) -> bool:
    """Whether a CUDA build's list has something for a device."""
    device = numbers(capability)
    joined = int(wheel.build[2:]) >= 132
    for row in DATA["architectures"]:
        first, last = map(Version, row["torch"])
        if (row["build"], row["platform"]) != (
            wheel.build,
            wheel.platform,
        ) or not first <= wheel.torch <= last:
            continue
        for text in row["capabilities"]:
            code = numbers(text)
            if code == device:
                return True
            alone = {(5, 3), (6, 2)} if joined else {(5, 3), (6, 2), (7, 2), (8, 7)}
            if code[0] == device[0] and code[1] < device[1] and device not in alone:
                return True
    return False


def runs_here(wheel: Wheel, machine: Capabilities) -> bool:
    """Whether the machine's only GPU, or its processor, runs a wheel."""
    gpu = next(iter(machine.gpus), None)
    if wheel.build == "cpu":
        return True
    if gpu is None:
        return False
    if wheel.build.startswith("cu"):
        return (
            gpu.vendor == "nvidia"
            and machine.nvidia_driver is not None
            and carries(
                machine.nvidia_driver,
                wheel.build,
                str(gpu.architecture),
                on_windows=machine.system == "Windows",
            )
            and has_code(wheel, str(gpu.architecture))
        )
    if wheel.build.startswith("rocm"):
        return (
            gpu.vendor == "amd"
            and gpu.architecture in GFX_OF.get(wheel.build, ())
            and wheel.build != "rocm7.14"
            and (wheel.is_amds or wheel.torch >= Version(DATA["gfx_since"].get(gpu.architecture, "0")))
        )
    return gpu.vendor == "intel" and any(gpu.architecture in family["devices"] for family in DATA["intel"])


def platform_of(machine: Capabilities) -> str:
    """As wheels name it."""
    return "windows_amd64" if machine.system == "Windows" else f"linux_{machine.machine}"


def possible_wheels(machine: Capabilities, requirement: str, python: str) -> list[Wheel]:
    """Every wheel that machine, Python and requirement allow; unverified ones where there is no other."""
    minor = ".".join(python.rstrip("t").split(".")[:2]) + ("t" if python.endswith("t") else "")
    specifier = SpecifierSet(requirement.removeprefix("torch"))
    possible = [
        wheel
        for wheel in every_wheel(platform_of(machine))
        if minor in wheel.pythons and specifier.contains(wheel.full) and runs_here(wheel, machine)
    ]
    return [wheel for wheel in possible if wheel.verified] or possible


def build_order(build: str) -> tuple[int, tuple[int, ...]]:
    """Accelerators before the processor, newer builds before older ones."""
    digits = build.removeprefix("rocm").removeprefix("cu")
    if build.startswith("cu"):
        return 1, (int(digits),)
    return (1, numbers(digits)) if build.startswith("rocm") else (int(build == "xpu"), ())


gpus = st.one_of(
    st.none(),
    st.builds(nvidia, st.sampled_from(CAPABILITIES)),
    st.builds(amd, st.sampled_from(GFX), integrated=st.booleans()),
    st.builds(intel, st.sampled_from(["0x56a0", "0xe20b", "0x7d55", "0x3e92"])),
)
requirements = st.one_of(
    st.just("torch"),
    st.builds("torch>={}".format, st.sampled_from(TORCH)),
    st.builds("torch=={}".format, st.sampled_from(TORCH)),
    st.builds("torch<={}".format, st.sampled_from(TORCH)),
    st.builds("torch>={},<{}".format, st.sampled_from(TORCH), st.sampled_from(TORCH)),
    st.builds("torch!={}".format, st.sampled_from(TORCH)),
)


@st.composite
def machines(draw: st.DrawFn) -> Capabilities:
    """Linux on both processors and Windows, with one GPU or none."""
    gpu = draw(gpus)
    some: tuple[Gpu, ...] = () if gpu is None else (gpu,)
    driver = draw(st.sampled_from([None, *DRIVERS])) if gpu is not None and gpu.vendor == "nvidia" else None
    match draw(st.sampled_from(["linux", "arm", "windows"])):
        case "linux":
            return linux(*some, driver=driver)
        case "arm":
            return linux(*some, driver=driver, machine="aarch64")
        case _:
            return windows(*some, driver=driver)


@example(machine=linux(amd("gfx1201")), requirement="torch==2.6.0", python="3.12.3")
@given(machine=machines(), requirement=requirements, python=st.sampled_from(PYTHONS))
def test_the_choice_is_the_best_of_all_wheels_that_are_possible(
    machine: Capabilities, requirement: str, python: str
) -> None:
    """It violates no bound, and nothing newer or better was overlooked."""
    selection = plan(machine, requirement, python=python).selection
    possible = possible_wheels(machine, requirement, python)
    best = max(
        possible,
        key=lambda wheel: (
            build_order(wheel.build)[0],
            wheel.torch,
            not wheel.is_amds,
            build_order(wheel.build),
        ),
        default=None,
    )
    found = (selection.build, selection.torch)
    assert found == ((best.build, str(best.torch)) if best else (None, None))


@given(
    machine=machines(),
    requirement=requirements,
    python=st.sampled_from(PYTHONS),
    strategy=st.sampled_from(["auto", "guide", "cpu", "cu118", "cu126", "cu130", "rocm7.2", "xpu", "mps"]),
)
def test_a_selection_is_total_and_deterministic(
    machine: Capabilities, requirement: str, python: str, strategy: str
) -> None:
    """Every build has one verdict and a reason of its own; the same question has the same answer."""
    result = plan(machine, requirement, python=python, strategy=strategy)
    assert result == plan(machine, requirement, python=python, strategy=strategy)
    selection = result.selection
    candidates = selection.candidates
    assert len({one.build for one in candidates}) == len(candidates)
    reasons = [one.reason for one in candidates]
    assert len(set(reasons)) == len(reasons)
    for one in candidates:
        assert one.reason.endswith(".")
        assert (one.torch is None) is (one.verdict is Verdict.REJECTED)
        assert one.verdict is not Verdict.REJECTED or one.reason.startswith(one.build)
    chosen = [one for one in candidates if one.verdict is Verdict.CHOSEN]
    assert [(one.build, one.torch) for one in chosen] == (
        [(selection.build, selection.torch)] if selection.build else []
    )
    assert bool(selection.command) is (selection.build is not None)
    assert (selection.index_url is None) is (selection.source not in {"index", "vendor"})
    assert selection.reason
    assert [one.build for one in result.order][:1] == ([selection.build] if selection.build else [])


@given(
    capability=st.sampled_from(CAPABILITIES),
    drivers=st.tuples(st.sampled_from(DRIVERS), st.sampled_from(DRIVERS)),
    requirement=requirements,
    strategy=st.just("auto"),
)
def test_a_newer_driver_never_gives_an_older_torch(
    capability: str, drivers: tuple[str, str], requirement: str, strategy: str
) -> None:
    """Nor does it lose the GPU."""
    older, newer = sorted(drivers, key=numbers)
    before = plan(linux(nvidia(capability), driver=older), requirement, strategy=strategy).selection
    after = plan(linux(nvidia(capability), driver=newer), requirement, strategy=strategy).selection
    if before.build not in {None, "cpu"}:
        assert after.build not in {None, "cpu"}
        assert Version(str(after.torch)) >= Version(str(before.torch))


@given(
    capabilities=st.lists(st.one_of(st.none(), st.sampled_from(CAPABILITIES)), min_size=2, max_size=4),
    driver=st.sampled_from(DRIVERS),
    requirement=requirements,
)
def test_several_gpus_are_served_together_or_the_others_are_named(
    capabilities: list[str | None], driver: str, requirement: str
) -> None:
    """A CUDA build that is chosen has code for every GPU that no warning names."""
    cards = [nvidia(known, f"Card {place}", index=place) for place, known in enumerate(capabilities)]
    selection = plan(linux(*cards, driver=driver), requirement).selection
    if selection.build is None or not selection.build.startswith("cu"):
        return
    warnings = " ".join(selection.warnings)
    wheels = [
        wheel
        for wheel in every_wheel("linux_x86_64")
        if (wheel.build, str(wheel.torch)) == (selection.build, selection.torch)
    ]
    for card in cards:
        serves = card.architecture is None or (
            has_code(wheels[0], card.architecture)
            and carries(driver, selection.build, card.architecture, on_windows=False)
        )
        assert serves or f"{card.name} " in warnings


@given(
    cards=st.lists(st.builds(amd, st.sampled_from(GFX)), min_size=1, max_size=3),
    requirement=requirements,
    hidden=st.sampled_from([None, "0", "1", "0,1", "-1"]),
)
def test_no_rocm_is_chosen_that_has_no_code_for_any_gpu_in_use(
    cards: list[Gpu], requirement: str, hidden: str | None
) -> None:
    """Neither torch nor rocBLAS would compute anything; for CUDA the test above says it of every GPU."""
    cards = [replace(card, index=place) for place, card in enumerate(cards)]
    machine = replace(linux(*cards), variables={} if hidden is None else {"HIP_VISIBLE_DEVICES": hidden})
    selection = plan(machine, requirement).selection
    if selection.build is None or not selection.build.startswith("rocm"):
        return
    known = GFX_OF[selection.build]
    wanted = range(len(cards)) if hidden is None else map(int, hidden.split(","))
    in_use = {cards[place].architecture for place in wanted if 0 <= place < len(cards)}
    assert in_use & set(known)


INDEX_BUILDS = ("cpu", "cu118", "cu126", "cu128", "cu130", "cu132", "rocm6.3", "rocm7.2", "xpu")
INDEX_TORCH = ("2.5.1", "2.8.0", "2.14.1", "2.15.0", "2.16.0", "2.17.1")


def listed(build: str, torch: str) -> Offer:
    """A wheel for Linux and Python 3.12 on an index that looks like PyTorch's."""
    return wheel(f"torch-{torch}+{build}-cp312-cp312-manylinux_2_28_x86_64.whl")


index_offers = st.lists(
    st.builds(listed, st.sampled_from(INDEX_BUILDS), st.sampled_from(INDEX_TORCH)), max_size=12
)


@given(machine=machines(), offers=index_offers, requirement=requirements, own=st.booleans())
def test_something_is_chosen_where_a_wheel_satisfies(
    machine: Capabilities, offers: list[Offer], requirement: str, *, own: bool
) -> None:
    """A wheel for the CPU, or PyPI's own, computes on every machine of its platform."""
    if own:
        offers = [*offers, wheel("torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl", source="default")]
    selection = plan(machine, requirement, offers=offers).selection
    specifier = SpecifierSet(requirement.removeprefix("torch"))
    everywhere = [offer for offer in offers if offer.build == "cpu" or offer.source == "default"]
    satisfying = [offer for offer in everywhere if specifier.contains(offer.full_version)]
    if platform_of(machine) == "linux_x86_64" and satisfying:
        assert selection.build is not None, selection.reason


@given(
    machine=machines(),
    offers=index_offers,
    requirement=requirements,
    known=st.integers(min_value=0, max_value=len(TORCH) - 1),
)
def test_a_newer_catalog_never_makes_an_older_torch_the_answer(
    machine: Capabilities, offers: list[Offer], requirement: str, known: int
) -> None:
    """What it knows of more releases can only add to what an index really has."""
    older = Catalog({**DATA, "releases": DATA["releases"][known:]})
    before = plan(machine, requirement, offers=offers, catalog=older).selection
    after = plan(machine, requirement, offers=offers).selection
    if before.torch is not None:
        assert after.torch is not None
        assert Version(after.torch) >= Version(before.torch)
