"""An answer for people, and drawn into a copy of its image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from moondream_station.asking.batch import Batch
from moondream_station.asking.images import ImageSource
from moondream_station.console.output import print_progress
from moondream_station.core.facts.errors import HomeUnusable, NoSpace
from moondream_station.core.home.storage import writing_to

_FINDINGS: Final = {"detect": "objects", "point": "points"}


def answer_lines(function: str, answer: Mapping[str, Any]) -> Iterator[str]:
    """An answer for people."""
    found = answer.get(_FINDINGS.get(function, ""))
    texts = [value for value in answer.values() if isinstance(value, str)]
    if isinstance(found, list) and all(isinstance(item, Mapping) for item in found):
        yield f"{len(found) or 'none'} found"
        for item in found:
            yield "  " + ", ".join(f"{name} {_rounded(value)}" for name, value in item.items())
    elif len(answer) == 1 and texts:
        yield texts[0]
    else:
        yield json.dumps(answer, ensure_ascii=False)


def _rounded(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value


def save_answer(batch: Batch, source: ImageSource, content: bytes, answer: Mapping[str, Any]) -> None:
    """Draw an answer into a copy of its image, and say where it is."""
    from moondream_station.asking.drawing import save_drawn  # noqa: PLC0415  Pillow is large

    folder = batch.question.save
    assert folder is not None  # noqa: S101  asked before
    stem = Path(source.shown).stem or "image"
    names = chain([""], (f"-{number}" for number in count(2)))  # images of one name, from several folders
    path = next(
        path
        for name in names
        if (path := folder / f"{stem}-{batch.question.function}{name}.png").resolve() not in batch.taken
    )
    batch.taken.add(path.resolve())
    try:
        with writing_to(folder):
            is_drawn = save_drawn(content, answer, path)
    except (HomeUnusable, NoSpace) as error:
        raise type(error)(error.message, hint="Give --save a folder that can be written to.") from error
    print_progress(f"Saved {path}" if is_drawn else f"Nothing to draw for {source.shown}")
