"""The status page: self-contained, under a policy that holds, and safe against what it shows."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import httpx2
import pytest

from moondream_station.core.facts.codec import FACTS
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    BackendActivationRequested,
    BuildSelected,
    Fact,
    Stage,
)
from moondream_station.core.facts.state import StationState
from moondream_station.http.app import NOT_KNOWN, content_policy, load_page, why
from support.http_server import Served
from support.station_api import FakeStation

pytestmark = pytest.mark.anyio

REASON = '<b>cpu</b> & "quotes": {{why}}'


def activated(station: FakeStation, *last: Fact) -> StationState:
    """The state after an activation with a reason."""
    for fact in (
        BackendActivationRequested(model="selftest", backend="selftest", requirements=(), strategy="auto"),
        BuildSelected(build="cpu", torch="2.14.1", index_url=None, source=None, reason=REASON, candidates=()),
        *last,
    ):
        station.bus.publish(fact, activation="a")
    return station.state


SUCCEEDED = ActivationSucceeded(
    model="selftest", backend="selftest", build="cpu", environment="e-1", degraded=None, seconds=1.0
)
FAILED = ActivationFailed(
    model="selftest", stage=Stage.LOCK, error=ErrorInfo(code="no-build", message="None", hint=None)
)


async def test_the_page_comes_under_a_strict_policy(served: Served) -> None:
    """Nothing is allowed by default, and the two inline parts by their digests alone."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        response = await client.get(served.url + "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", response.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address but the station's own paths, no inline handlers, and text is never read as markup."""
    page = load_page()
    assert not re.findall(r"https?://|//[a-z]|@import|url\(", page.replace("// Whatever", ""))
    assert not re.findall(
        r"\son\w+=\"|style=\"|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page
    )
    assert set(re.findall(r'"(/[a-z0-9/]*)"', page)) == {
        "/v1/station/events",
        "/v1/station",
        "/v1/models",
        "/v1/station/switch",
        "/v1/station/cancel",
    }


def test_the_page_has_a_sentence_for_every_fact() -> None:
    """A new fact is not forgotten there."""
    page = load_page()
    for name in set(FACTS):
        assert re.search(rf"\b{name}\b", page), name


async def test_the_reason_is_written_as_text(served: Served) -> None:
    """Whatever a reason contains, it stays one."""
    activated(served.station, SUCCEEDED)
    async with httpx2.AsyncClient(trust_env=False) as client:
        page = (await client.get(served.url + "/")).text
    assert "&lt;b&gt;cpu&lt;/b&gt; &amp; &quot;quotes&quot;: {{why}}" in page
    assert "<b>cpu</b>" not in page


def test_the_reason_is_the_active_builds_own() -> None:
    """Not that of an activation that failed, nor of an environment that is no longer active."""
    assert why(StationState()) == NOT_KNOWN
    assert why(activated(FakeStation())) == NOT_KNOWN
    assert why(activated(FakeStation(), FAILED)) == NOT_KNOWN
    state = activated(FakeStation(), SUCCEEDED)
    assert why(state) == REASON
    assert state.active is not None
    assert why(replace(state, active=replace(state.active, environment="e-2"))) == NOT_KNOWN


def test_the_policy_needs_exactly_one_part_of_each_kind() -> None:
    """A second inline part would be blocked silently; so it is refused loudly."""
    with pytest.raises(ValueError, match="too many values"):
        content_policy("<style></style><style></style><script></script>")
