"""Which lines of the prompt are about the last images."""

from __future__ import annotations

import shlex

import pytest

from moondream_station.asking.last_image import images_in, with_images


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("caption", "caption last.png"),
        ("caption --length short", "caption --length short last.png"),
        ("query 'How many?'", "query last.png 'How many?'"),
        ("detect dog --save drawn", "detect last.png dog --save drawn"),
        ("detect --save drawn -- dog", "detect --save drawn -- last.png dog"),
        ("infer caption length=short", "infer caption last.png length=short"),
    ],
)
def test_a_line_without_an_image_is_about_the_last_ones(line: str, completed: str) -> None:
    """They stand where they would have been typed."""
    assert images_in(shlex.split(line)) == []
    assert with_images(shlex.split(line), ["last.png"]) == shlex.split(completed)


@pytest.mark.parametrize(
    ("line", "images"),
    [
        ("caption a.png b.png --length short", ["a.png", "b.png"]),
        ("query a.png 'How many?'", ["a.png"]),
        ("infer caption a.png length=short", ["a.png"]),
        ("infer caption image=a.png", []),
        ("infer add one=1", []),
        ("query", []),
        ("query https://images.example/a.png", []),
        (f"query {shlex.quote(__file__)}", []),
        ("infer", []),
    ],
)
def test_another_line_stays_as_it_is(line: str, images: list[str]) -> None:
    """It has its own images, needs none, or lacks more than an image."""
    assert images_in(shlex.split(line)) == images
    assert with_images(shlex.split(line), ["last.png"]) is None
