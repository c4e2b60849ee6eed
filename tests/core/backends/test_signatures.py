"""What a backend's code says of its functions."""

from __future__ import annotations

from pathlib import Path

import pytest

import moondream_station
from moondream_station.core.backends.signatures import read_signatures
from moondream_station.core.facts.functions import FUNCTIONS, Argument, Signature, shape_of

BUNDLED = Path(moondream_station.__file__).parent / "bundled"
SOURCE = '''
from elsewhere import caption

def read(image_url, language: str = "en", *, pages: int | None = None, words: list[str], progress=None):
    """Read a text aloud.

    At length.
    """

def __getattr__(name): ...
'''


def test_a_function_of_a_backends_own(tmp_path: Path) -> None:
    """Its arguments with their types and defaults, without those of the station, and its first line."""
    module = tmp_path / "backend.py"
    module.write_text(SOURCE)
    found = read_signatures(module, ["read", "caption"])
    assert found["caption"] == Signature()
    assert found["read"].summary == "Read a text aloud."
    assert found["read"].arguments == (
        Argument("image_url", {}, is_required=True),
        Argument("language", {"type": "string", "default": "en"}, is_required=False),
        Argument("pages", {"type": "integer"}, is_required=False),
        Argument("words", {"type": "array"}, is_required=True),
    )
    shape = shape_of("read", found["read"])
    assert (shape.title, shape.description) == ("Read", "Read a text aloud.")
    assert shape.arguments["required"] == ["image_url", "words"]


@pytest.mark.parametrize("source", [None, "def caption(", b"\xff\x00"])
def test_code_that_can_not_be_read(tmp_path: Path, source: str | bytes | None) -> None:
    """It says nothing."""
    module = tmp_path / "backend.py"
    if source is not None:
        module.write_bytes(source if isinstance(source, bytes) else source.encode())
    assert read_signatures(module, ["caption"]) == {"caption": Signature()}
    assert shape_of("read", Signature()).arguments == {"type": "object", "properties": {}, "required": []}


@pytest.mark.parametrize("backend", ["selftest", "transformers"])
def test_bundled_backends_have_what_is_known_of_moondreams_api(backend: str) -> None:
    """Every required argument, and no argument without a description."""
    for name, signature in read_signatures(BUNDLED / backend / "backend.py", FUNCTIONS).items():
        if signature.arguments is not None:
            declared = {argument.name for argument in signature.arguments}
            assert declared >= set(shape_of(name).arguments["required"])
            shape = shape_of(name, signature)
            assert all(argument.get("description") for argument in shape.arguments["properties"].values())
