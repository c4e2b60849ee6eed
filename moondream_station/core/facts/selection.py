"""The choice of a build, a verdict and a sentence for every build; and whether a model fits the machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Source = Literal["index", "vendor", "find-links", "default"]


class Verdict(StrEnum):
    """The verdict on a build."""

    CHOSEN = "chosen"
    POSSIBLE = "possible"
    REJECTED = "rejected"


class FitVerdict(StrEnum):
    """Whether a machine has what a model needs; from the best to the worst."""

    FITS = "fits"
    UNKNOWN = "unknown"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a model fits a machine.

    Args:
        verdict: Fits, unknown, tight or does not fit.
        reason: The sum ("needs 9.3 GB of GPU memory; this machine has 8.0 GB"), clauses without a full stop.
    """

    verdict: FitVerdict
    reason: str

    @property
    def is_known(self) -> bool:
        """Whether it says anything."""
        return self.verdict is not FitVerdict.UNKNOWN

    @property
    def sentence(self) -> str:
        """Verdict and sum: "Tight: needs 4.9 GB of GPU memory; this machine has 6.0 GB."."""
        return f"{self.verdict.capitalize()}: {self.reason}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One build and its verdict.

    Args:
        build: The build's tag (`cpu`, `cu126`, `mps`, …).
        torch: The newest torch that it could give here ("2.14.1"), None where it is rejected.
        verdict: Chosen, possible or rejected.
        reason: One sentence that a user understands.
    """

    build: str
    torch: str | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The answer to "which build", as `plan --json` prints it.

    Args:
        strategy: `auto`, `guide` or a build's name.
        requirement: The requirements it was asked for, canonical, as strings.
        build: The chosen build, None where nothing satisfies the requirement here.
        torch: The torch version that the build gives, without its local part.
        index_url: The index that it comes from; None for find-links, and for PyPI as the default index.
        source: Where the wheel comes from: PyTorch's index, AMD's own, find-links or the default index.
        reason: One sentence that a user understands; where nothing was chosen, what to do.
        command: The pip command that would install it, as an argument list; from an index of PyTorch's it
            names only what that serves. Empty where nothing was chosen.
        warnings: Sentences about what could be better.
        candidates: Every build considered, in the order of preference.
        unrelated: The builds among them that nothing on this machine could make possible, for a short table.
        fit: Whether the model that `--model` names fits there.
    """

    strategy: str
    requirement: tuple[str, ...]
    build: str | None
    torch: str | None
    index_url: str | None
    source: Source | None
    reason: str
    command: tuple[str, ...]
    warnings: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    unrelated: tuple[str, ...] = ()
    fit: Fit | None = None
