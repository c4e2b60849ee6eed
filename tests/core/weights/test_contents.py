"""What files of weights say of themselves: types, sizes, and nothing where they contradict themselves."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.weights.contents import (
    LENGTH_BYTES,
    Weights,
    WeightsFile,
    bytes_by_dtype,
    header_bytes,
    loaded_files,
    weights_of,
)
from support.weights import safetensors

MIXED = safetensors({"a": ("BF16", (3, 5)), "b": ("F32", (2,)), "c": ("I8", (7,))})


def header_of(file: bytes) -> bytes:
    """The header of a file, as its beginning says how long it is."""
    return file[LENGTH_BYTES : LENGTH_BYTES + header_bytes(file)]


def test_a_file_says_what_it_holds() -> None:
    """By torch's names for its types; what is not known keeps its own."""
    assert bytes_by_dtype(header_of(MIXED), len(MIXED)) == {"bfloat16": 30, "float32": 8, "int8": 7}
    strange = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    assert bytes_by_dtype(strange, LENGTH_BYTES + len(strange) + 1) == {"f4": 1}


@pytest.mark.parametrize("change", [-1, 1, 10**15])
def test_a_header_that_contradicts_the_size_says_nothing(change: int) -> None:
    """It may be cut off, or another file's."""
    with pytest.raises(ValueError, match="contradicts"):
        bytes_by_dtype(header_of(MIXED), len(MIXED) + change)


@given(header=st.binary(max_size=60) | st.from_regex(rb'\{"a": ?\{"dtype": ?"F32","data_offsets":.*\}\}'))
def test_any_header_is_read_or_refused(header: bytes) -> None:
    """Nothing that a file says raises another error, or counts for less than nothing."""
    with suppress(ValueError):
        assert all(size >= 0 for size in bytes_by_dtype(header, LENGTH_BYTES + len(header)).values())
    with suppress(ValueError):
        assert header_bytes(header) >= 0


def test_memory_by_type() -> None:
    """Numbers with a fraction become the type that they are used in; others stay as they are."""
    held = bytes_by_dtype(header_of(MIXED), len(MIXED))
    weights = weights_of([WeightsFile(name="model.safetensors", size_bytes=len(MIXED))], [held])
    assert (weights.dtype, weights.size_bytes) == ("bfloat16", len(MIXED))
    memory = weights.memory_bytes
    assert (memory["bfloat16"], memory["float32"], memory["float64"]) == (
        30 + 4 + 7,
        60 + 8 + 7,
        120 + 16 + 7,
    )
    packed = Weights(files=(), by_dtype={"int8": 100, "bfloat16": 10}).memory_bytes
    assert (packed["int8"], packed["float32"]) == (110, 120)


def test_what_one_file_does_not_say_is_unknown_of_all() -> None:
    """A sum without it would be too small."""
    files = [WeightsFile(name=name, size_bytes=1) for name in "ab"]
    held = bytes_by_dtype(header_of(MIXED), len(MIXED))
    weights = weights_of(files, [held, None])
    assert (weights.by_dtype, weights.dtype, weights.memory_bytes) == ({}, None, {})
    assert weights.size_bytes == 2


INDEX = json.dumps(
    {"weight_map": {"x": "model-2.safetensors", "y": "model-1.safetensors", "z": "model-1.safetensors"}}
)


@pytest.mark.parametrize(
    ("names", "index", "loaded"),
    [
        (
            "model-1.safetensors model-2.safetensors other.safetensors",
            INDEX,
            "model-1.safetensors model-2.safetensors",
        ),
        ("model.safetensors other.safetensors", None, "model.safetensors"),
        ("b.safetensors a.safetensors c.py", None, "a.safetensors b.safetensors"),
        ("pytorch_model-1.bin pytorch_model-2.bin c.bin", None, "pytorch_model-1.bin pytorch_model-2.bin"),
        ("README.md", None, ""),
    ],
)
def test_which_files_are_loaded(names: str, index: str | None, loaded: str) -> None:
    """Those that the index names; without one the usual one, else all."""
    assert loaded_files(names.split(), index.encode() if index else None) == loaded.split()


@pytest.mark.parametrize(
    "index", [b"", b"[]", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}', b"[" * 10**5]
)
def test_an_index_that_can_not_be_read_is_told(index: bytes) -> None:
    """Whatever it holds."""
    with pytest.raises(ValueError, match="index"):
        loaded_files([], index)
