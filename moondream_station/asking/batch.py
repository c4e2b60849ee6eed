"""How far a command has come with its images, and what an earlier run of the same has done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moondream_station.asking.images import ImageSource
from moondream_station.console.output import print_progress
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import open_file, write_atomically, writing_to


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about each image."""

    function: str
    arguments: Mapping[str, Any]
    model: str | None
    as_json: bool
    save: Path | None
    goes_on: bool


@dataclass(slots=True)
class Batch:
    """The images of one command, what has become of them, and what an earlier run has done."""

    home: Home
    question: Question
    sources: Sequence[ImageSource]
    model: str | None = None
    """The one that is asked, once it is known."""
    answered: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    done: set[str] = field(default_factory=set)
    taken: set[Path] = field(default_factory=set)
    """Where no copy is drawn to: other copies of this command, and the images themselves."""

    @property
    def memory(self) -> Path:
        """Where it is noted which images have an answer: by this model, to this question, drawn there."""
        question = self.question
        parts = [question.function, question.arguments, self.model, str(question.save)]
        text = json.dumps(parts, sort_keys=True)
        return self.home.cache / f"asked-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"

    @property
    def left(self) -> int:
        """How many are still to be asked about."""
        return len(self.sources) - self.answered - self.failed - self.skipped

    def begin(self) -> None:
        """Read what an earlier run has done, or start over. Blocks."""
        if len(self.sources) < 2:  # noqa: PLR2004  one image can't be left half done
            return
        with writing_to(self.home.root):
            with suppress(FileNotFoundError):
                if self.question.goes_on:
                    with open_file(self.memory) as file:
                        self.done = {line.decode(errors="replace").rstrip("\n") for line in file}
                    return
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.memory, b"")

    def note(self, source: ImageSource) -> None:
        """Note that an image has its answer. Blocks."""
        identity: list[str | int] = []
        with suppress(OSError):  # it was removed meanwhile
            identity = source.identity
        if len(self.sources) > 1 and identity:
            with writing_to(self.home.root), open_file(self.memory, "ab") as file:
                # The line break comes first: a line that was cut off, as on a full disk, spoils no other.
                file.write(f"\n{json.dumps(identity)}".encode())

    def has(self, source: ImageSource) -> bool:
        """Whether an earlier run has an answer. Blocks."""
        with suppress(OSError):
            return bool(self.done) and json.dumps(source.identity) in self.done
        return False

    def progress(self) -> str:
        """Which one it is, and how long the rest will take: "3/30, about 40 s left"."""
        number = f"{len(self.sources) - self.left + 1}/{len(self.sources)}"
        if not self.answered:
            return number
        seconds = max(1, round(self.seconds / self.answered * self.left))
        rest = f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"  # noqa: PLR2004
        return f"{number}, about {rest} left"

    def report(self, *, interrupted: bool = False) -> None:
        """What became of them all; nothing for one image, whose answer or error says it."""
        if len(self.sources) < 2:  # noqa: PLR2004
            return
        parts = [f"{self.answered} of {len(self.sources)} images answered"]
        parts += [f"{self.skipped} were answered before"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        line = f"{', '.join(parts)}."
        if self.left and interrupted:
            line += f" {self.left} are left: the same command with --continue goes on."
        print_progress(line)
