"""From any answers of a machine to a plan: nothing that a computer says leaves it without an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import anyio
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.activation.choice import plan_from_catalog
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.selection import Selection, Verdict
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from support.fuzzed_records import RECORDS

VARIABLES = st.dictionaries(
    st.sampled_from(
        ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION"]
    ),
    st.sampled_from(["", "-1", "0", "0,7", "GPU-1", "PCI_BUS_ID", "11.0.0", "99999.99999.99999"])
    | st.text(max_size=9),
)


def planned(record: MachineRecord, python: str, strategy: str) -> Selection:
    """What is planned for a machine."""
    requirements = parse_requirement_args(["torch>=2.7.0"])
    plan = partial(plan_from_catalog, python=python, strategy=strategy)
    return anyio.run(plan, requirements, RecordedMachine(record))


@given(
    record=RECORDS,
    variables=VARIABLES,
    python=st.sampled_from(["3.12.3", "3.9", "3.14.0t", "2.7.18", "99.1", "x"]),
    strategy=st.sampled_from(["auto", "guide", "cpu", "cu126", "rocm7.2"]),
)
def test_whatever_a_machine_answers_there_is_a_plan(
    record: MachineRecord, variables: dict[str, str], python: str, strategy: str
) -> None:
    """A verdict on every build, in words, that can be printed; the same answers give the same plan."""
    machine = replace(record, env=variables)
    selection = planned(machine, python, strategy)
    json.dumps(to_json(selection), allow_nan=False)
    assert selection.reason.isprintable()
    assert all(warning.isprintable() for warning in selection.warnings)
    assert all(candidate.reason.isprintable() for candidate in selection.candidates)
    chosen = [one for one in selection.candidates if one.verdict is Verdict.CHOSEN]
    assert [one.build for one in chosen] == ([selection.build] if selection.build else [])
    assert planned(machine, python, strategy) == selection
