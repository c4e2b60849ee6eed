"""The status page: files of the package alone, under a policy that holds, and safe against what it shows."""

from __future__ import annotations

import re

import httpx2
import pytest

from moondream_station.core.facts.codec import FACTS
from moondream_station.core.facts.events import Stage
from moondream_station.http.page.files import page_files
from support.http_server import Served

pytestmark = pytest.mark.anyio

FILES = {path: text for path, _, text in page_files()}
SCRIPTS = {path: text for path, text in FILES.items() if path.endswith(".js")}


async def test_each_file_comes_with_its_type_under_a_strict_policy(served: Served) -> None:
    """Nothing is allowed by default, nothing inline, and nothing from elsewhere."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        for path, media_type, text in page_files():
            response = await client.get(path)
            assert (response.status_code, response.text) == (200, text)
            assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
            policy = response.headers["content-security-policy"]
            rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
            assert rules["default-src"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
            assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
            assert "unsafe" not in policy
        assert (await client.get("/page/nothing.js")).status_code == 404
        assert (await client.post("/page/main.js", json={})).json()["error"]["code"] == "method-not-allowed"


def test_every_file_is_used_and_none_is_missing() -> None:
    """What a module imports is served, and what is served is imported, from the page on."""
    used = {f"/{path}" for path in re.findall(r'(?:href|src)="(page/[^"]+)"', FILES["/"])}
    for text in SCRIPTS.values():
        used |= {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}
    assert used | {"/"} == set(FILES)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address but the station's own, no inline handlers or styles, and text is never read as markup."""
    for path, text in FILES.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|\burl\(", text), path
        assert not re.findall(
            r"\son\w+=\"|style=\"|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function",
            text,
        ), path
    assert "<style" not in FILES["/"]
    assert not re.search(r"<script(?![^>]* src=)", FILES["/"])


def test_the_page_has_a_sentence_for_every_fact_and_stage() -> None:
    """A new one is not forgotten there."""
    for name in set(FACTS):
        assert re.search(rf"^  {name}: ", FILES["/page/journal.js"], re.MULTILINE), name
    for stage in Stage:
        assert re.search(rf"\b{stage}: ", FILES["/page/journal.js"]), stage
