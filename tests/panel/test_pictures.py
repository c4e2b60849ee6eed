"""The pictures of the panel in the documentation, drawn by the panel itself.

After a wanted change, run this file once with UPDATE_SNAPSHOTS=1 and look at what changed.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from moondream_station.core.facts.state import StationState, apply
from moondream_station.panel.frame import frame_of
from moondream_station.panel.rendering import render
from support.scripted_activation import SCRIPTS, events

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "docs" / "images"
_WIDE, _NARROW = 79, 39

# Colours that have contrast enough on a page of either scheme, because the picture brings its own ground.
_THEME = TerminalTheme(
    (18, 21, 27),
    (230, 233, 239),
    [
        (18, 21, 27),
        (255, 154, 154),
        (127, 211, 155),
        (240, 181, 103),
        (143, 178, 255),
        (214, 160, 255),
        (120, 210, 220),
        (230, 233, 239),
    ],
)

# rich's own format, without fonts from another host: a picture in a README may load nothing.
_FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Args:
        script: The scripted activation.
        facts: How many of its facts have happened, None for all.
        width: Columns.
        cancelling: Whether its end was asked for.
    """

    script: str
    facts: int | None = None
    width: int = _WIDE
    cancelling: bool = False


PICTURES = {
    "panel-detecting": Picture("whole", 9),
    "panel-downloading": Picture("whole", 19),
    "panel-downloading-narrow": Picture("whole", 19, width=_NARROW),
    "panel-loading": Picture("whole", 30),
    "panel-done": Picture("whole"),
    "panel-reused": Picture("reused"),
    "panel-waiting": Picture("waiting"),
    "panel-cancelling": Picture("cancelled", 19, cancelling=True),
    "panel-degraded": Picture("degraded"),
    "panel-failed": Picture("failed"),
}


def _drawn(name: str) -> str:
    picture = PICTURES[name]
    happened = events(SCRIPTS[picture.script]())[: picture.facts]
    lines = render(
        reduce(apply, happened, StationState()),
        frame_of(picture.width, unicode=True, now=happened[-1].at),
        cancelling=picture.cancelling,
    )
    console = Console(
        record=True,
        width=picture.width + 1,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )
    for line in lines:
        console.print(line, soft_wrap=True)
    title = "moondream-station switch selftest"
    return console.export_svg(title=title, theme=_THEME, code_format=_FORMAT, unique_id=name)


def _shown(svg: str) -> list[tuple[str, str, str, str]]:
    """Every piece of text: where it stands, what it says, how it is coloured. What is around may change."""
    root = ET.fromstring(svg)  # noqa: S314  made here
    styles = dict(re.findall(r"\.([\w-]+-r\d+) \{ (.*?) \}", svg))
    return [
        (
            text.get("y", ""),
            text.get("x", ""),
            (text.text or "").rstrip("\xa0"),
            styles.get(text.get("class", ""), ""),
        )
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_what_the_panel_draws(name: str) -> None:
    """Words, places and colours of each are those of today."""
    path = _FOLDER / f"{name}.svg"
    drawn = _drawn(name)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawn, encoding="utf-8", newline="\n")
    assert _shown(path.read_text(encoding="utf-8")) == _shown(drawn)


def test_every_picture_is_on_a_page_and_loads_nothing() -> None:
    """There are no others in the folder, and none asks another host for anything."""
    pages = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
    embedded = {
        Path(target).stem
        for page in pages
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+\.svg)\)", page.read_text(encoding="utf-8"))
    }
    assert {path.stem for path in _FOLDER.glob("*.svg")} == set(PICTURES) == embedded
    for path in _FOLDER.glob("*.svg"):
        assert re.findall(r"(?:href|src)=|@import|url\((?!#)", path.read_text(encoding="utf-8")) == []
