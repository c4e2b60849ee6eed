"""The last images of the prompt: a line that names none is about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moondream_station.asking.images import STDIN, is_url
from moondream_station.core.home.layout import expanded

FUNCTIONS = ("caption", "query", "detect", "point", "segment")
_WITH_TEXT = frozenset(FUNCTIONS) - {"caption"}
_WITH_VALUE = frozenset({"--length", "--model", "--save"})


def images_in(words: Sequence[str]) -> list[str]:
    """The images that a line of the prompt names, which asks the model."""
    return _split(words)[1]


def with_images(words: Sequence[str], images: Sequence[str]) -> list[str] | None:
    """A line that asks the model, about these images; None where it names its own, or may need none."""
    place, _ = _split(words)
    return None if place is None else [*words[:place], *images, *words[place:]]


def _split(words: Sequence[str]) -> tuple[int | None, list[str]]:
    """Where images would stand in a line that has none but needs one, else None; and those it has."""
    places = _arguments(words)
    function = words[0]
    if function == "infer":
        if not places or words[places[0]] not in FUNCTIONS:
            return None, []  # it may need no image
        places = places[1:]
        given = [words[place] for place in places]
        images = [word for word in given if "=" not in word]
        if images or any(word.startswith(("image=", "image_url=")) for word in given):
            return None, images
    else:
        texts = 1 if function in _WITH_TEXT else 0
        images = [words[place] for place in places[: max(0, len(places) - texts)]]
        is_image_alone = texts and len(places) == 1 and _is_image(words[places[0]])
        if images or is_image_alone or len(places) < texts:
            return None, images
    return (places[0] if places else len(words)), []


def _arguments(words: Sequence[str]) -> list[int]:
    """The places of what is no option, nor an option's value."""
    places: list[int] = []
    place = 1
    while place < len(words):
        word = words[place]
        if word == "--":
            return [*places, *range(place + 1, len(words))]
        if word == STDIN or not word.startswith("-"):
            places.append(place)
        place += 2 if word in _WITH_VALUE else 1
    return places


def _is_image(word: str) -> bool:
    return is_url(word) or Path(expanded(word)).exists()
