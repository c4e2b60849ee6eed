"""The contract as data."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from moondream_station.core.facts.codec import FACTS, event_to_json, to_json
from moondream_station.core.facts.errors import NoBuild
from moondream_station.core.facts.events import Event, Fact
from moondream_station.core.facts.selection import Candidate, Selection
from moondream_station.core.facts.state import StationInfo, StationState, apply, status
from moondream_station.core.selection.outward import plan_to_json
from moondream_station.core.serving.tally import Tally
from support.facts import events, instances, legal_activations, published
from tools.reference.schemas import schemas

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """What judges a shape."""
    return jsonschema.Draft202012Validator(schemas()[name])


def accepts(name: str, value: Any) -> bool:
    """Whether a value is of a shape."""
    is_valid: bool = validator(name).is_valid(value)
    return is_valid


@pytest.mark.parametrize("name", schemas())
def test_every_schema_is_one(name: str) -> None:
    """Each is valid by its dialect, whole by itself, and says what it is."""
    schema = schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"]


@given(events())
def test_every_event_is_of_its_shape(event: Event) -> None:
    """Of its own one and of the union; and every field is required, no other is allowed."""
    data = event_to_json(event)
    if event.activation is None and "activation" in schemas()[event.name]["required"]:
        assert not accepts(event.name, data)
        return
    validator(event.name).validate(data)
    assert accepts("event", data)
    assert not accepts(event.name, {**data, "colour": "blue"})
    for name in data.keys() - {"activation"}:
        assert not accepts(event.name, {key: value for key, value in data.items() if key != name})


@pytest.mark.parametrize("name", FACTS)
def test_an_event_is_of_no_other_shape(name: str) -> None:
    """The name alone decides."""
    assert schemas()[name]["properties"]["event"] == {"const": name}


@given(legal_activations())
def test_every_state_is_shown_in_the_status_shape(steps: tuple[Fact, ...]) -> None:
    """At every instant of an activation, with and without a station; and as a snapshot."""
    info = StationInfo(instance="i", pid=4, address="http://127.0.0.1:2020", version="1.0")
    happened = published(steps, activation="20261123T100000Z-ab12cd")
    for first in (StationState(), StationState(station=info)):
        for state in accumulate(happened, apply, initial=first):
            validator("status").validate(status(state))
        assert accepts("snapshot", {"event": "Snapshot", "seq": state.seq, "state": status(state)})


@given(instances(Selection))
def test_every_selection_is_of_the_plans_shape(selection: Selection) -> None:
    """So is each of its candidates."""
    validator("plan").validate(plan_to_json(selection))
    assert all(accepts("candidate", to_json(candidate)) for candidate in selection.candidates)


PLAN: dict[str, Any] = {
    "strategy": "auto",
    "requirement": ["torch>=2.7.0"],
    "build": "cu126",
    "torch": "2.14.1",
    "index_url": "https://download.pytorch.org/whl/cu126",
    "source": "index",
    "reason": "one sentence a user understands",
    "command": ["python", "-m", "pip", "install", "torch>=2.7.0"],
    "warnings": [],
    "candidates": [
        {
            "build": "cu130",
            "torch": None,
            "verdict": "rejected",
            "reason": "needs driver 580 or newer, found 535.183.01",
        }
    ],
}
FINDING: dict[str, Any] = {
    "id": "gpu.driver",
    "section": "GPU and driver",
    "status": "ok",
    "summary": "s",
    "detail": None,
    "remedy": {"text": "t", "commands": ["c"]},
    "seconds": 0.1,
}
DOCTOR: dict[str, Any] = {"format": "moondream-station/doctor/1", "ok": True, "findings": [FINDING]}
MACHINE: dict[str, Any] = {
    "format": "moondream-station/machine/1",
    "platform": {
        "system": "Linux",
        "release": "6.8.0-45-generic",
        "version": "#45-Ubuntu SMP",
        "machine": "x86_64",
        "mac_ver": "",
        "libc": ["glibc", "2.39"],
        "python": "3.12.3",
        "in_rosetta": None,
    },
    "env": {"CUDA_VISIBLE_DEVICES": "0"},
    "commands": [
        {
            "argv": ["nvidia-smi"],
            "returncode": 0,
            "stdout": "…",
            "stderr": "",
            "seconds": 0.4,
            "timed_out": False,
        }
    ],
    "files": {"/proc/driver/nvidia/version": "…"},
    "directories": {"/sys/bus/pci/devices": ["0000:01:00.0"]},
    "unreadable": {"/dev/kfd": "permission denied"},
}
MODEL: dict[str, Any] = {
    "id": "selftest",
    "name": "n",
    "description": "d",
    "version": "1",
    "backend": "selftest",
    "supported": True,
    "reason": None,
    "installed": False,
    "active": False,
}
STATS: dict[str, Any] = to_json(
    Tally().stats(
        {
            "workers": 1,
            "queue_size": 0,
            "max_queue_size": 10,
            "processing": 0,
            "timeouts": 0,
            "default_timeout": 30.0,
            "model": None,
            "status": "stopped",
            "requests_processed": 0,
        },
        limited=None,
    )
)
TOOK = {"tokens": 3, "duration": 0.5, "tokens_per_sec": 6.0}
RECORD = {"environment": "ab12cd34-0a1b", "previous": None, "request_key": "k"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", PLAN),
        ("plan", {**PLAN, "build": None, "torch": None, "index_url": None, "source": None, "command": []}),
        ("doctor", DOCTOR),
        ("doctor", {**DOCTOR, "findings": []}),
        ("doctor", {**DOCTOR, "ok": False, "findings": [FINDING, {**FINDING, "status": "error"}]}),
        ("machine", MACHINE),
        ("machine", {key: value for key, value in MACHINE.items() if key != "unreadable"}),
        ("models", {"models": [MODEL]}),
        ("stats", STATS),
        ("health", {"status": "ok", "server": "moondream-station"}),
        ("error", {"error": to_json(NoBuild("No build.", hint="h").info)}),
        ("error", {"error": to_json(NoBuild("No build.").info)}),
        ("function-error", {"error": "the queue is full", "status": "rejected", "code": "queue-full"}),
        ("function-answer", {"caption": "a cat", "_stats": TOOK}),
        ("function-stream", {"chunk": "a"}),
        ("function-stream", {"stats": TOOK}),
        ("function-stream", {"completed": True}),
        ("switch-request", {"model": "selftest"}),
        ("switch-request", {"model": "selftest", "strategy": "cpu"}),
        ("rollback-request", {"model": "selftest"}),
        ("switch-answer", {"activation": "20261123T100000Z-ab12cd", "joined": False}),
        ("cancel-answer", {"activation": "20261123T100000Z-ab12cd"}),
        ("active", {"format": "moondream-station/active/1", "model": "m", "models": {"m": RECORD}}),
        ("mismatch", {"field": "device", "planned": "cuda", "found": "cpu"}),
    ],
)
def test_what_the_contract_shows_is_accepted(name: str, value: Any) -> None:
    """The examples of the contract, and the cases that it names."""
    validator(name).validate(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", {**PLAN, "source": "pypi"}),
        ("plan", {**PLAN, "command": "python -m pip"}),
        ("doctor", {**DOCTOR, "ok": False}),
        ("doctor", {**DOCTOR, "findings": [{**FINDING, "status": "error"}]}),
        ("doctor", {**DOCTOR, "findings": [{**FINDING, "remedy": {"text": "t"}}]}),
        ("machine", {**MACHINE, "env": {"PATH": "/bin"}}),
        ("machine", {**MACHINE, "commands": [{"argv": ["x"]}]}),
        ("models", {"models": [{**MODEL, "supported": None}]}),
        ("stats", {**STATS, "status": "ok"}),
        ("error", {"error": "text"}),
        ("error", {"error": {"code": "c", "message": "m"}}),
        ("function-error", {"error": {"code": "c"}, "status": "error", "code": "c"}),
        ("function-stream", {"chunk": "a", "completed": True}),
        ("switch-answer", {"activation": "a"}),
        ("snapshot", {"event": "Snapshot", "seq": 1, "state": {}}),
        ("status", {}),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(name: str, value: Any) -> None:
    """A schema that accepts anything would hold nobody to anything."""
    assert not accepts(name, value)


def test_candidates_need_a_verdict() -> None:
    """Every build is chosen, possible or rejected."""
    candidate = PLAN["candidates"][0]
    assert accepts("candidate", candidate)
    assert not accepts("candidate", {**candidate, "verdict": "maybe"})
    assert set(candidate) == set(Candidate.__dataclass_fields__)


def test_the_page_of_events_names_everything() -> None:
    """Every event and every field of its own is there, and nothing speaks Python."""
    page = (REFERENCE / "events.md").read_text(encoding="utf-8")
    for name in FACTS:
        _, _, section = page.partition(f"\n### {name}\n")
        section = section.partition("\n### ")[0]
        for field in schemas()[name]["properties"].keys() - {"event", "seq", "at", "activation"}:
            assert f"| `{field}` |" in section
    assert "None" not in page
