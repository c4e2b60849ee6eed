"""The contract as data: a JSON Schema for every shape, made from the code."""

from __future__ import annotations

from typing import Any, Final

from moondream_station.core.builds.catalog_schema import CatalogFile
from moondream_station.core.builds.trials import Trials
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.events import Mismatch, VerificationReport
from moondream_station.core.facts.selection import Candidate
from moondream_station.core.home.locks import Holder, StationRecord
from moondream_station.http import openapi
from moondream_station.http.shapes import Schema
from tools.reference.file_shapes import FILES

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DATACLASSES: Final[dict[str, type[Any]]] = {
    "activation-holder": Holder,
    "candidate": Candidate,
    "capabilities": Capabilities,
    "mismatch": Mismatch,
    "station-record": StationRecord,
    "trials": Trials,
    "verification": VerificationReport,
}


def schemas() -> dict[str, Schema]:
    """Every shape by name: each event by the event's, the others as docs/reference names their files."""
    made = {**openapi.schemas(), **FILES}
    for name, kind in _DATACLASSES.items():
        made[name] = openapi.dataclass_schema(kind)
    made["catalog"] = {**CatalogFile.model_json_schema(), "title": "catalog"}
    head = ("$schema", "title", "description", "type")
    for name, schema in made.items():
        ordered = {"$schema": _DIALECT, "title": name, **schema}
        made[name] = {key: ordered[key] for key in head if key in ordered} | ordered
    return dict(sorted(made.items()))
