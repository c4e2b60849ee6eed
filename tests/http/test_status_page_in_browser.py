"""The status page in a real browser: an image is asked about, by mouse and by keyboard, whatever goes on."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, FilePayload

from moondream_station.core.bus.bus import Bus
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import ErrorInfo, WorkerBusy
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    BackendActivationRequested,
    Fact,
    Stage,
    StageStarted,
    VerificationCompleted,
    VerificationReport,
)
from support.browser import Window, open_browser, open_window
from support.commands import serving as serving_process
from support.http_server import Served, serving
from support.images import png_of
from support.index_traffic import Fault
from support.scripted_activation import degraded, events, failed, whole
from support.station_api import PLAN, FakeStation, chunks, gives, raises
from support.stations import open_premises

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

HOSTILE = "<img src=x onerror=\"document.title='harmed'\"></script><script>document.title='harmed'</script>"
LONG = "a_model_with_a_name_that_has_no_place_to_break_" * 4
BOX = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.75, "y_max": 0.5}
IMAGE: Final[FilePayload] = {
    "name": "photo.png",
    "mimeType": "image/png",
    "buffer": png_of(400, 200, (100, 50, 300, 100)),
}


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


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A station whose model has the usual functions."""
    async with serving(_station()) as running:
        yield running


def _station() -> FakeStation:
    station = FakeStation()
    station.backend |= {
        "caption": lambda _: chunks("a red ", "square"),
        "query": gives({"answer": "Two dogs."}),
        "detect": gives({"objects": [BOX, {**BOX, "y_max": 1.0}]}),
        "point": gives({"points": [{"x": 0.5, "y": 0.25}]}),
        "segment": gives({"path": "M 0 0 L 1 0 L 1 1 Z", "bbox": BOX}),
        "measure": lambda arguments: {"scale": arguments["scale"]},
    }
    return station


def _publish(served: Served, facts: Sequence[Fact], *, activation: str = "a-1") -> None:
    for fact in facts:
        served.station.bus.publish(fact, activation=activation)


def _model(**fields: Any) -> dict[str, Any]:
    (model,) = FakeStation().models()["models"]
    return {**model, **fields}


async def _ask(window: Window, function: str, text: str | None = None) -> None:
    await window.page.locator("#functions").get_by_text(function, exact=True).click()
    if text is not None:
        await window.page.fill("#text", text)
    await window.page.get_by_role("button", name="Ask", exact=True).click()


async def test_an_image_is_asked_about(served: Served, window: Window) -> None:
    """The answer streams in; what was found is drawn over the image where it is, and told in words."""
    page = window.page
    await window.open(served.url)
    assert await page.locator("#functions label").all_inner_texts() == [
        *("Caption", "Query", "Detect", "Point", "Segment", "Measure")
    ]
    await _ask(window, "Caption")
    await window.wait_for("ask-hint", "Choose an image first.")
    await page.set_input_files("#file", IMAGE)
    await window.wait_for("image-name", "photo.png, 400 × 200")  # noqa: RUF001  as people write it
    await _ask(window, "Caption")
    await window.wait_for("answer", "a red square")
    await _ask(window, "Query", "How many dogs?")
    await window.wait_for("answer", "Two dogs.")
    function, arguments, _ = served.station.calls[-1]
    assert (function, arguments["question"]) == ("query", "How many dogs?")
    assert arguments["image_url"].startswith("data:image/png;base64,")
    await _ask(window, "Detect", "dog")
    await window.wait_for("answer", "2 found")
    box = page.locator("#overlay rect").first
    assert [await box.get_attribute(name) for name in ("x", "y", "width", "height")] == [
        *("100", "50", "200", "50")
    ]
    assert await page.locator("#found li").all_inner_texts() == [
        "box from 25%, 25% to 75%, 50%",
        "box from 25%, 25% to 75%, 100%",
    ]
    await _ask(window, "Point", "dog")
    await page.locator("#overlay circle[cx='200'][cy='50']").wait_for(state="attached")
    await _ask(window, "Segment", "dog")
    await page.locator("#overlay path").last.wait_for(state="attached")
    drawn, image = [await page.locator(of).last.bounding_box() for of in ("#overlay path", "#image")]
    assert drawn is not None
    assert image is not None
    assert abs(drawn["x"] - (image["x"] + image["width"] / 4)) < 12  # its line has a width
    assert abs(drawn["width"] - image["width"] / 2) < 24
    await _ask(window, "Measure", "scale=3")
    await window.wait_for_part("answer", '"scale": 3')
    assert await page.locator("#overlay *").count() == 0


async def test_asking_by_keyboard_alone(served: Served, window: Window) -> None:
    """From the top of the page: image, function, text, answer; each control has a name, and focus shows."""
    page = window.page
    await window.open(served.url)
    await page.keyboard.press("Tab")
    assert await page.evaluate("() => document.activeElement.id") == "file"
    assert await page.locator("#choose").evaluate("of => getComputedStyle(of).outlineStyle") == "solid"
    async with page.expect_file_chooser() as choosing:
        await page.keyboard.press("Enter")
    await (await choosing.value).set_files(IMAGE)
    await window.wait_for_part("image-name", "photo.png")
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Tab")
    assert await page.evaluate("() => document.activeElement.ariaLabel") == "Question"
    await page.keyboard.type("How many dogs?")
    await page.keyboard.press("Enter")
    await window.wait_for("answer", "Two dogs.")
    unnamed = await page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")].filter((of) => of.checkVisibility()
             && !of.textContent.trim() && !of.ariaLabel && !of.labels?.length).map((of) => of.outerHTML)"""
    )
    assert unnamed == []


async def test_dropped_and_pasted_images(served: Served, window: Window) -> None:
    """Both ways bring an image in; what is none is refused in words."""
    await window.open(served.url)
    give = """([kind, name, content]) => {
      const data = new DataTransfer();
      const bytes = Uint8Array.from(content);
      data.items.add(new File([bytes], name, { type: name.endsWith("png") ? "image/png" : "text/plain" }));
      const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      document.body.dispatchEvent(event);
    }"""
    content = list(IMAGE["buffer"])
    await window.page.evaluate(give, ["drop", "notes.txt", content[:3]])
    await window.wait_for("ask-hint", "notes.txt is not an image that this browser can show.")
    await window.page.evaluate(give, ["drop", "dropped.png", content])
    await window.wait_for_part("image-name", "dropped.png")
    await window.page.evaluate(give, ["paste", "pasted.png", content])
    await window.wait_for_part("image-name", "pasted.png")


async def test_an_answer_that_fails(served: Served, window: Window) -> None:
    """Why, in words, with commands as code and not between backticks."""
    await window.open(served.url)
    await window.page.set_input_files("#file", IMAGE)
    served.station.backend["caption"] = raises(WorkerBusy("Busy; see `moondream-station status`."))
    await _ask(window, "Caption")
    await window.wait_for("answer", "Busy; see moondream-station status.")
    assert await window.page.locator("#answer code").inner_text() == "moondream-station status"
    (refusal,) = window.complaints
    assert "429" in refusal
    window.complaints.clear()


async def test_the_call_to_copy(served: Served, browser: Browser) -> None:
    """The endpoint, and the call as it stands, for curl and for Python, quoted for each."""
    async with open_window(browser) as window:
        await window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await window.open(served.url)
        await window.page.set_input_files("#file", FilePayload(**{**IMAGE, "name": "my photo.png"}))
        await window.page.locator("#functions").get_by_text("Query").click()
        await window.page.fill("#text", 'What\'s "this"?')
        await window.page.locator("#code summary").click()
        endpoint = f"http://127.0.0.1:{served.port}/v1"
        assert await window.text("endpoint") == endpoint
        await window.page.get_by_role("button", name="Copy the curl call").click()
        assert await window.page.evaluate("() => navigator.clipboard.readText()") == (
            f"curl {endpoint}/query -F 'image_url=@my photo.png' \\\n"
            "  --form-string 'question=What'\\''s \"this\"?'"
        )
        assert 'print(model.query(image, "What\'s \\"this\\"?"))' in await window.text("python")


async def test_an_activation_is_shown_as_it_goes(served: Served, window: Window) -> None:
    """Stages, bytes, speed and remaining time, what was here before, elapsed time, and the result."""
    await window.open(served.url)
    assert not await window.is_shown("activation")
    facts = whole()
    _publish(served, facts[:19])
    await window.wait_for_part(
        "progress", "Downloading · 627 MB of 1.4 GB · 48.2 MB/s · 16 s left · 207 MB already downloaded"
    )
    assert await window.page.locator("[aria-current=step]").inner_text() == "download"
    assert await window.page.locator("#stages .done").all_inner_texts() == [
        *("prepare", "detect", "select", "lock")
    ]
    await window.wait_for_part("candidate", "The newest torch has code for both GPUs in it.")
    _publish(served, facts[19:24])
    await window.wait_for_part("progress", "12,253 of 14,001 files")
    _publish(served, [StageStarted(stage=Stage.VERIFY)])
    await window.page.wait_for_function(
        r"() => /^Verifying · 0:0[1-9]$/.test(document.getElementById('progress').textContent)"
    )
    _publish(served, facts[24:])
    await window.wait_for("news", "Self-test is active after 42 s")
    assert not await window.is_shown("activation")
    await window.page.locator("#details summary").click()
    await window.wait_for_part("machine", "computes correctly on NVIDIA RTX A6000")


async def test_a_failure_stands_in_its_card_until_it_is_retried(served: Served, window: Window) -> None:
    """Cause and remedy, no backticks; Retry requests the same, and nothing of the failure stays."""
    await window.open(served.url)
    error = ErrorInfo(code="no-space", message="The disk is full.", hint="Run `moondream-station prune`.")
    request = BackendActivationRequested(
        model="selftest", backend="selftest", requirements=(), strategy="cpu"
    )
    _publish(served, [request, ActivationFailed(model="selftest", stage=Stage.DOWNLOAD, error=error)])
    await window.wait_for("activation-title", "The switch to Self-test failed")
    await window.wait_for("progress", "The disk is full.")
    assert await window.text("candidate") == "Run moondream-station prune."
    await window.page.locator("#activation").get_by_role("button", name="Retry").click()
    await window.wait_for("activation-title", "Switching to Self-test")
    assert served.station.wishes[-1][:2] == ("selftest", "cpu")
    await window.page.get_by_role("button", name="Cancel").click()
    await window.wait_for("news", "The switch to Self-test was cancelled.")
    assert not await window.is_shown("activation")


async def test_it_finds_the_station_again(window: Window) -> None:
    """While the station is down, what is live is grey and says since when; then nothing stale stays red."""
    async with serving(_station()) as first:
        first.station.backend["caption"] = raises(WorkerBusy("Busy."))
        await window.open(first.url)
        _publish(first, failed())
        await window.wait_for("activation-title", "The switch to Self-test failed")
        await window.page.set_input_files("#file", IMAGE)
        await _ask(window, "Caption")
        await window.wait_for("answer", "Busy.")
    await window.wait_for_part("connection", "No answer since ")
    assert await window.page.locator(".live").first.evaluate("of => getComputedStyle(of).opacity") == "0.45"
    assert await window.page.locator("#send").is_disabled()
    after = _station()
    active = after.state.active
    assert active is not None
    after.bus = Bus(state=replace(after.state, seq=7, active=replace(active, environment="89abcdef-0123")))
    async with serving(after, port=first.port):
        await window.wait_for("connection", "Live")
        await window.wait_for_part("machine", "89abcdef-0123")
        assert not await window.is_shown("activation")
        assert not await window.is_shown("result")
        assert await window.page.locator(".down").count() == 0
    # That it was busy, and that nobody answered meanwhile.
    assert all("ERR_" in complaint or "429" in complaint for complaint in window.complaints)
    window.complaints.clear()


async def test_a_failed_worker(served: Served, window: Window) -> None:
    """Cause, exit, last lines and remedy, and the way to try again."""
    station = served.station
    assert station.state.active is not None
    broken = replace(station.state.active, worker=WorkerState.FAILED)
    station.bus = Bus(state=replace(station.state, active=broken))
    station.failure = ErrorInfo(
        code="worker-failed",
        message="The backend's worker (pid 4711) exited with code 1.",
        hint="`moondream-station logs` shows its output.",
    )
    await window.open(served.url)
    await window.wait_for("trouble-cause", "The backend's worker (pid 4711) exited with code 1.")
    await window.wait_for("trouble-remedy", "moondream-station logs shows its output.")
    await window.page.locator("#trouble-lines summary").click()
    assert "out of cheese" in await window.text("trouble-lines")
    await window.page.get_by_role("button", name="Try again").click()
    await window.wait_for("activation-title", "Switching to Self-test")
    await window.page.locator("#trouble").wait_for(state="hidden")


async def test_models_and_a_build_that_cannot_work(served: Served, window: Window) -> None:
    """Whether they fit; what can't work is warned of, and nothing happens until that is confirmed."""
    station, page = served.station, window.page
    misfit = _model(
        id="huge", name="Huge", active=False, fit={"verdict": "does not fit", "reason": "needs 38 GB"}
    )
    station.listed = {"models": [_model(), misfit]}
    forced = {
        **PLAN,
        "strategy": "cu126",
        "build": "cu126",
        "warnings": ["You chose cu126, but it can't run."],
    }
    station.inspection.plans["cu126"] = forced
    await window.open(served.url)
    await page.locator("#models details > summary").first.click()
    choice = page.get_by_label("Which PyTorch build to install for Self-test")
    await page.wait_for_function("() => document.querySelectorAll('#models select')[0].options.length === 4")
    await choice.select_option("cu126")
    await window.wait_for_part("models", "You chose cu126, but it can't run.")
    await page.get_by_role("button", name="Switch to Self-test with this strategy").click()
    await window.wait_for_part("models", "No NVIDIA driver was found. It would still be downloaded")
    await page.keyboard.press("Escape")
    assert station.wishes == []
    await page.get_by_role("button", name="Switch Huge").click()
    await window.wait_for_part("models", "Huge does not fit this machine: it needs 38 GB.")
    await page.get_by_role("button", name="Leave it").click()
    assert station.wishes == []
    await page.get_by_role("button", name="Remove Huge").click()
    await page.get_by_role("button", name="Remove", exact=True).click()
    await window.wait_for("news", "Huge is removed.")
    assert station.inspection.removed == ["huge"]
    assert station.wishes == []


async def test_journals_fold_what_is_noise(served: Served, window: Window) -> None:
    """The probes stand in one line; a failure has its cause and its Retry in the list too."""
    facts = [event_to_json(event) for event in events(degraded())]
    bare = VerificationCompleted(ok=True, report=VerificationReport(), mismatches=())
    facts.insert(-1, event_to_json(events([bare])[0]))
    past = {"model": "selftest", "strategy": "auto", "started_at": facts[0]["at"], "build": "cpu"}
    error = {"code": "no-build", "message": "None is `good`.", "hint": None}
    served.station.inspection.past = [
        {**past, "id": "a-2", "outcome": "failed", "seconds": 3.0, "stage": "select", "error": error},
        {**past, "id": "a-1", "outcome": "succeeded", "seconds": 27.0, "stage": None, "error": None},
    ]
    served.station.inspection.journals["a-1"] = {"activation": "a-1", "events": facts, "notes": ["$ uv"]}
    served.station.inspection.journals["a-2"] = {"activation": "a-2", "events": facts[:3], "notes": []}
    await window.open(served.url)
    newest, oldest = await window.page.locator("#activations > li > details").all()
    await newest.locator("summary").first.click()
    assert await newest.locator(".failure p").first.inner_text() == "None is good."
    assert await newest.get_by_role("button", name="Retry").is_visible()
    await oldest.locator("summary").first.click()
    await window.wait_for_part("activations", "6 probes, 3 found something")
    assert not await oldest.get_by_text("permission denied").is_visible()
    assert "The worker answers; it needs no PyTorch" in await oldest.inner_text()


async def test_the_doctor_and_the_log(served: Served, window: Window) -> None:
    """Findings with their remedies first; the log as the worker wrote it."""

    async def examine() -> Mapping[str, Any]:
        remedy = {"text": "Free some, with `prune`.", "commands": ["moondream-station prune"]}
        common = {"section": "disk", "detail": None, "remedy": None, "seconds": 0.1}
        return {
            "format": "moondream-station/doctor/1",
            "ok": False,
            "findings": [
                {**common, "id": "a", "status": "ok", "summary": "Python 3.12"},
                {**common, "id": "b", "status": "error", "summary": "The disk is full.", "remedy": remedy},
            ],
        }

    served.station.examine = examine
    served.station.inspection.lines = ["loading", "loaded"]
    await window.open(served.url)
    await window.page.locator("#doctor summary").first.click()
    await window.page.get_by_role("button", name="Check this machine").click()
    await window.wait_for_part("examined", "Errors found, 2 checks at ")
    first = (await window.text("findings")).splitlines()
    assert first[0] == "error disk: The disk is full."
    assert "Remedy: Free some, with prune." in first
    await window.page.locator("#log summary").click()
    await window.wait_for("log-lines", "loading\nloaded")


async def test_a_real_station_answers_while_it_switches(tmp_path: Path, window: Window) -> None:
    """From the button through a slow download to the model that is active; the old one answers meanwhile."""
    with open_premises(tmp_path) as premises:
        premises.add_model("plain", requirements="")
        premises.add_model("colours")
        premises.index.add_torch("2.9.9", "cpu", filler_bytes=3_000_000)
        premises.index.faults.append(Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=1_000_000))
        with serving_process(premises) as station:
            page = window.page
            await window.open(station.address)
            await window.wait_for("active", "No model is active")
            await page.get_by_role("button", name="Switch plain").click()
            await window.wait_for("active", "plain · ready")
            await page.set_input_files("#file", IMAGE)
            await page.get_by_role("button", name="Switch colours").click()
            await window.wait_for_part("progress", "B/s")
            await _ask(window, "Caption")
            await window.page.wait_for_function(
                "() => document.getElementById('took').textContent.endsWith('s')"
            )
            await window.wait_for("active", "colours · ready")
            await window.wait_for_part("news", "colours is active after ")
            await page.locator("#details summary").click()
            await window.wait_for_part("machine", "computes correctly on ")
            await window.wait_for_part("candidates", "cu126")
            await page.get_by_role("button", name="Stop colours").click()
            await window.wait_for("active", "colours · stopped")
            await _ask(window, "Caption")
            await window.wait_for("answer", "a small caption")
            await page.goto("about:blank")


async def test_hostile_words_stay_words(served: Served, window: Window) -> None:
    """Names, reasons, facts and answers are shown as they are written, and none of them runs."""
    hostile = dict.fromkeys(("name", "description", "version", "reason"), HOSTILE)
    served.station.listed = {
        "models": [_model(**hostile, supported=False, system_requirements={HOSTILE: HOSTILE})],
        "latest_version": HOSTILE,
        "messages": [{"severity": "info", "message": HOSTILE}],
    }
    served.station.backend["caption"] = gives({"caption": HOSTILE, "objects": [BOX]})
    served.station.backend["detect"] = gives({"path": f'M 0 0"><script>{HOSTILE}', "bbox": BOX})
    success = ActivationSucceeded(
        model=HOSTILE, backend=HOSTILE, build=HOSTILE, environment=HOSTILE, degraded=None, seconds=1.0
    )
    await window.open(served.url)
    await window.page.set_input_files("#file", FilePayload(**{**IMAGE, "name": HOSTILE.replace("/", "")}))
    _publish(served, [*whole()[:-1], success])
    await window.wait_for_part("news", HOSTILE)
    await window.wait_for_part("models", f"Requirements: {HOSTILE} {HOSTILE}")
    await window.wait_for_part("version", f"{HOSTILE} is available{HOSTILE}")
    await _ask(window, "Caption")
    await window.wait_for("answer", HOSTILE)
    await _ask(window, "Detect", HOSTILE)
    await window.page.locator("#overlay path").last.wait_for(state="attached")
    assert await window.page.title() == "Moondream Station"
    assert await window.page.locator("img").count() == 1
    assert await window.page.locator("script").count() == 1
    assert all("<path> attribute d" in complaint for complaint in window.complaints)
    window.complaints.clear()


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
    await window.page.wait_for_function("() => window.blocked.length === 4")
    assert await window.page.evaluate("() => window.blocked.sort()") == [
        *("connect-src", "img-src", "script-src-attr", "script-src-elem")
    ]
    assert await window.page.title() == "Moondream Station"
    assert all("Content Security Policy" in complaint for complaint in window.complaints)
    window.complaints.clear()


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_nothing_runs_over_the_edge(served: Served, browser: Browser, width: int) -> None:
    """On a telephone too everything can be read without scrolling sideways, and buttons be hit."""
    served.station.listed = {"models": [_model(name=LONG, description=LONG)]}
    async with open_window(browser, width=width) as window:
        await window.open(served.url)
        await window.page.set_input_files("#file", IMAGE)
        _publish(served, whole()[:19])
        await window.wait_for_part("progress", "627 MB")
        await window.wait_for_part("models", LONG)
        for details in await window.page.locator("details").all():
            await details.evaluate("of => { of.open = true; }")
        assert await window.page.evaluate("() => document.scrollingElement.scrollWidth") <= width
        for button in await window.page.get_by_role("button").all():
            box = await button.bounding_box()
            assert box is not None
            assert box["height"] >= 40
        assert window.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_words_can_be_read_on_their_ground(served: Served, browser: Browser, scheme: Any) -> None:
    """Every colour of text has at least the contrast of WCAG AA on the page, on cards and in wells."""
    async with await browser.new_page(color_scheme=scheme) as page:
        await page.goto(served.url)
        colours = await page.evaluate(
            """(names) => { const style = getComputedStyle(document.documentElement);
                 return names.map((name) => style.getPropertyValue(`--${name}`).trim()); }""",
            ["text", "quiet", "accent", "good", "warn", "bad", "page", "card", "well", "on-accent"],
        )
        *words, ground, card, well, on_accent = [_luminance(colour) for colour in colours]
        for word in words:
            for behind in (ground, card, well):
                assert _contrast(word, behind) >= 4.5
        assert _contrast(on_accent, words[2]) >= 4.5


def _luminance(colour: str) -> float:
    match = re.fullmatch(r"#(..)(..)(..)", colour)
    assert match is not None, json.dumps(colour)
    parts = [int(part, 16) / 255 for part in match.groups()]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
