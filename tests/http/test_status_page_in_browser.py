"""The status page in a real browser: live, lasting, harmless, and readable on a telephone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from moondream_station.core.bus.bus import Bus
from moondream_station.core.facts.events import ActivationSucceeded, Fact
from support.browser import Window, open_browser, open_window
from support.commands import serving as serving_process
from support.http_server import Served, serving
from support.index_traffic import Fault
from support.scripted_activation import degraded, failed, reused, whole
from support.station_api import FakeStation
from support.stations import open_premises

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

HOSTILE = "<img src=x onerror=\"document.title='harmed'\"></script><script>document.title='harmed'</script>"
LONG = "a_model_with_a_name_that_has_no_place_to_break_" * 4


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One for all tests here, because the browser is: it takes seconds to start."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """A browser."""
    async with open_browser() as browser:
        yield browser


@pytest.fixture
async def window(browser: Browser) -> AsyncIterator[Window]:
    """A page of usual size; at the end the browser has complained of nothing."""
    async with open_window(browser) as window:
        yield window
        assert window.complaints == []


def _publish(served: Served, facts: Sequence[Fact], *, activation: str = "a-1") -> None:
    for fact in facts:
        served.station.bus.publish(fact, activation=activation)


def _model(**fields: Any) -> Mapping[str, Any]:
    model = {
        "id": "selftest",
        "name": "Self-test",
        "description": "Looks at pictures with tensors.",
        "version": "1",
        "backend": "selftest",
        "supported": True,
        "reason": None,
        "installed": True,
        "active": True,
    }
    return {"models": [{**model, **fields}]}


async def test_an_activation_is_shown_as_it_goes(served: Served, window: Window) -> None:
    """Stages, bytes, speed and remaining time, what was here before, why this build, and the result."""
    await window.open(served.url)
    assert not await window.is_shown("activation")
    facts = whole()
    _publish(served, facts[:19])
    await window.wait_for("progress", "627.0 MB of 1.4 GB, 48.2 MB/s, 16 s left, 207.0 MB already downloaded")
    assert await window.page.locator("[aria-current=step]").inner_text() == "download"
    assert await window.page.locator("#stages .done").all_inner_texts() == [
        "prepare",
        "detect",
        "select",
        "lock",
    ]
    assert await window.text("candidate") == "The newest torch has code for both GPUs in it."
    await window.wait_for_part("machine", "2 × NVIDIA RTX A6000")  # noqa: RUF001  as people write it
    _publish(served, facts[19:24])
    await window.wait_for("progress", "12253 of 14001 files")
    _publish(served, facts[24:])
    await window.wait_for("news", "selftest is active after 42 s")
    await window.wait_for_part("active", "NVIDIA RTX A6000")
    assert not await window.is_shown("activation")
    assert await window.text("why") == "The newest torch has code for both GPUs in it."
    assert (await window.text("events")).splitlines()[1] == "selftest is active after 42 s"


@pytest.mark.parametrize(
    ("script", "element", "words"),
    [
        (degraded, "degraded", "Degraded: cu126 was planned."),
        (failed, "news", "Check the network and the proxy"),
    ],
)
async def test_an_end_that_is_not_as_wanted(
    served: Served, window: Window, script: Any, element: str, words: str
) -> None:
    """What is degraded is called so; an error comes with its remedy."""
    await window.open(served.url)
    _publish(served, script())
    await window.wait_for_part(element, words)
    assert await window.is_shown(element)


async def test_it_finds_the_station_again(window: Window) -> None:
    """A station that ends is missed; the one that follows at its place is shown as it is by then."""
    async with serving(FakeStation()) as first:
        await window.open(first.url)
    await window.wait_for("connection", "Reconnecting…")
    after = FakeStation()
    active = after.state.active
    assert active is not None
    after.bus = Bus(state=replace(after.state, seq=7, active=replace(active, environment="89abcdef-0123")))
    async with serving(after, port=first.port) as second:
        await window.wait_for("connection", "Live")
        await window.wait_for_part("active", "89abcdef-0123")
        assert await window.text("why") == "`moondream-station logs` shows how."
        _publish(second, reused())
        await window.wait_for("news", "selftest is active after 42 s")
        assert await window.text("why") == "The newest torch has code for both GPUs in it."
    assert all("ERR_" in complaint for complaint in window.complaints)  # that nobody answered meanwhile
    window.complaints.clear()


async def test_a_page_opened_meanwhile_shows_the_rest(served: Served, window: Window) -> None:
    """Of what happened before it shows where things are; from there on it follows."""
    facts = whole()
    _publish(served, facts[:19])
    await window.open(served.url)
    await window.wait_for("progress", "627.0 MB of 1.4 GB")
    _publish(served, facts[19:])
    await window.wait_for("news", "selftest is active after 42 s")
    assert await window.text("why") == "`moondream-station logs` shows how."


async def test_switching_and_cancelling(served: Served, window: Window) -> None:
    """Both buttons do what they say, and a refusal is told with its reason."""
    await window.open(served.url)
    await window.page.get_by_label("Strategy").fill("fastest")
    await window.page.get_by_role("button", name="Switch to Self-test").click()
    await window.wait_for("news", "There is no strategy 'fastest'")
    await window.page.get_by_label("Strategy").fill("cpu")
    await window.page.get_by_role("button", name="Switch to Self-test").click()
    await window.wait_for("activating", "selftest, strategy cpu")
    await window.page.get_by_role("button", name="Cancel").click()
    await window.wait_for("news", "selftest cancelled at prepare: user")
    await window.page.locator("#activation").wait_for(state="hidden")
    assert [wish[:2] for wish in served.station.wishes] == [("selftest", "fastest"), ("selftest", "cpu")]
    (refusal,) = window.complaints
    assert "400" in refusal
    window.complaints.clear()


async def test_a_real_station_is_switched_from_the_page(tmp_path: Path, window: Window) -> None:
    """From the button through a slow download to the model that is active, as the station tells it."""
    with open_premises(tmp_path) as premises:
        premises.add_model("colours")
        premises.index.add_torch("2.9.9", "cpu", filler_bytes=3_000_000)
        premises.index.faults.append(Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=1_000_000))
        with serving_process(premises) as station:
            await window.open(station.address)
            await window.wait_for("model", "No model is active")
            await window.page.get_by_label("Strategy").fill("cpu")
            await window.page.get_by_role("button", name="Switch to colours").click()
            await window.wait_for_part("progress", "B/s")
            await window.wait_for("model", "colours")
            await window.wait_for_part("active", "computes correctly")
            await window.wait_for_part("models", "active · installed")
            assert (await window.text("news")).startswith("colours is active after ")
            assert await window.text("why")
            await window.page.goto("about:blank")


async def test_hostile_words_stay_words(served: Served, window: Window) -> None:
    """Names, descriptions, reasons and facts are shown as they are written, and none of them runs."""
    served.station.listed = _model(
        id=HOSTILE, name=HOSTILE, description=HOSTILE, version=HOSTILE, supported=False, reason=HOSTILE
    )
    success = ActivationSucceeded(
        model=HOSTILE, backend=HOSTILE, build=HOSTILE, environment=HOSTILE, degraded=None, seconds=1.0
    )
    await window.open(served.url)
    _publish(served, [*whole()[:-1], success])
    await window.wait_for("model", HOSTILE)
    await window.wait_for_part("events", HOSTILE)
    await window.wait_for_part("models", HOSTILE)
    assert await window.page.title() == "Moondream Station"
    assert await window.page.locator("img").count() == 0
    assert await window.page.locator("script").count() == 1


async def test_the_policy_is_enforced(served: Served, window: Window) -> None:
    """Even if something got into the page as markup: no script of its, no picture, no other host."""
    await window.open(served.url)
    await window.page.evaluate(
        """() => {
          window.blocked = [];
          document.addEventListener("securitypolicyviolation",
                                    (event) => window.blocked.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "document.title = 'harmed'";
          document.body.append(script);
          const link = document.createElement("a");
          link.setAttribute("onclick", "document.title = 'harmed'");
          document.body.append(link);
          link.click();
          const image = document.createElement("img");
          image.src = "/health";
          document.body.append(image);
          fetch("http://127.0.0.1:9/").catch(() => null);
        }"""
    )
    await window.page.wait_for_function("window.blocked.length === 4")
    assert await window.page.evaluate("window.blocked.sort()") == [
        "connect-src",
        "img-src",
        "script-src-attr",
        "script-src-elem",
    ]
    assert await window.page.title() == "Moondream Station"
    assert all("Content Security Policy" in complaint for complaint in window.complaints)
    window.complaints.clear()


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_nothing_runs_over_the_edge(served: Served, browser: Browser, width: int) -> None:
    """On a telephone too everything can be read without scrolling sideways, and buttons be hit."""
    served.station.listed = _model(id=LONG, name=LONG, description=LONG)
    async with open_window(browser, width=width) as window:
        await window.open(served.url)
        _publish(served, whole()[:19])
        await window.wait_for_part("progress", "627.0 MB")
        await window.wait_for_part("models", LONG)
        assert await window.page.evaluate("document.scrollingElement.scrollWidth") <= width
        for button in await window.page.get_by_role("button").all():
            box = await button.bounding_box()
            assert box is not None
            assert box["height"] >= 40
        assert window.complaints == []
