"""A real browser for tests: the system's own Chromium, and all that it complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from playwright.async_api import Browser, Page, async_playwright

PATIENCE_MILLISECONDS = 20_000

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",  # its sandbox refuses to work for root, which containers often run as
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Window:
    """One page, and what the browser complained of.

    Args:
        page: The page.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))

    async def open(self, url: str) -> None:
        """Load an address, and wait until the page follows the station."""
        await self.page.goto(url)
        await self.wait_for("connection", "Live")

    async def wait_for(self, element: str, text: str) -> None:
        """Wait until an element, by its id, shows exactly this text."""
        script = "([id, text]) => document.getElementById(id).textContent === text"
        await self.page.wait_for_function(script, arg=[element, text])

    async def wait_for_part(self, element: str, text: str) -> None:
        """Wait until an element, by its id, shows this text among others."""
        script = "([id, text]) => document.getElementById(id).textContent.includes(text)"
        await self.page.wait_for_function(script, arg=[element, text])

    async def text(self, element: str) -> str:
        """What an element shows, by its id."""
        return await self.page.locator(f"#{element}").inner_text()

    async def is_shown(self, element: str) -> bool:
        """Whether an element is to be seen, by its id."""
        return await self.page.locator(f"#{element}").is_visible()


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """The browser, for as long as the block runs; what it keeps lies in a folder that goes with it."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    assert program is not None, "Chromium is not installed; leave these tests out with -m 'not browser'"
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as home:
        folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"), home)
        async with (
            async_playwright() as playwright,
            await playwright.chromium.launch(
                executable_path=program, args=_ARGUMENTS, env={**os.environ, **folders}
            ) as browser,
        ):
            yield browser


@asynccontextmanager
async def open_window(browser: Browser, *, width: int = 1280, height: int = 900) -> AsyncIterator[Window]:
    """A page of this size."""
    async with await browser.new_page(viewport={"width": width, "height": height}, locale="en-GB") as page:
        yield Window(page)
