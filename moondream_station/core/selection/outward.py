"""A selection as `plan --json` and `GET /v1/station/plan` give it."""

from __future__ import annotations

from typing import Any

from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.selection import Selection


def plan_to_json(selection: Selection) -> dict[str, Any]:
    """Without what is for the table on a terminal, and without `fit` where it is about no model."""
    data: dict[str, Any] = to_json(selection)
    del data["unrelated"]
    if selection.fit is None:
        del data["fit"]
    return data
