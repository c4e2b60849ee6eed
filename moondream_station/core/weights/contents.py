"""What weights are: the files that a model is loaded from, and what those hold by type (safetensors)."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INDEX = "model.safetensors.index.json"
"""What names the files, where a model has several."""
_SINGLE, _SUFFIX = "model.safetensors", ".safetensors"
_PICKLED = ("pytorch_model", ".bin")
LENGTH_BYTES = 8
"""What a file of weights begins with: the length of its header, little-endian."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound (safetensors, `MAX_HEADER_SIZE`)."""

# fmt: off
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}
"""The format's names for types, and torch's."""
_FLOAT_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}
"""The types that a model can be converted between; what is stored in any other stays in it."""
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file of weights; `digest` is the name under which the hub's cache keeps its content."""

    name: str
    size_bytes: int
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights that a model is loaded from.

    `by_dtype` are the bytes of what the files hold, by torch's name of its type; empty where unknown.
    `commit` is that of their repository, None in a folder.
    """

    files: tuple[WeightsFile, ...]
    by_dtype: Mapping[str, int]
    commit: str | None = None

    @property
    def size_bytes(self) -> int:
        """The size of the files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def dtype(self) -> str | None:
        """The type in which most of it is stored."""
        return max(self.by_dtype, key=self.by_dtype.__getitem__, default=None)

    @property
    def memory_bytes(self) -> dict[str, int]:
        """The memory that they take by the type that they may be used in; empty where unknown."""
        stored = self.dtype
        if stored is None:
            return {}
        usable = {**_FLOAT_BYTES, stored: 0}
        return {dtype: self._used_as(dtype) for dtype in usable}

    def _used_as(self, dtype: str) -> int:
        item_bytes = _FLOAT_BYTES.get(dtype)
        if item_bytes is None:
            return sum(self.by_dtype.values())
        return sum(
            size * item_bytes // _FLOAT_BYTES[stored] if stored in _FLOAT_BYTES else size
            for stored, size in self.by_dtype.items()
        )


def loaded_files(names: Collection[str], index: bytes | None) -> list[str]:
    """Which of a repository's files are loaded: those that its index names, else the one, else all.

    ValueError says what is wrong with the index.
    """
    if index is not None:
        try:
            named = set(json.loads(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{INDEX} can't be read") from error
        if not all(isinstance(name, str) for name in named):
            raise ValueError(f"{INDEX} can't be read")
        return sorted(named)
    if _SINGLE in names:
        return [_SINGLE]
    begin, end = _PICKLED
    found = sorted(name for name in names if name.endswith(_SUFFIX))
    return found or sorted(name for name in names if name.startswith(begin) and name.endswith(end))


def has_header(name: str) -> bool:
    """Whether a file says by itself what it holds."""
    return name.endswith(_SUFFIX)


def header_bytes(beginning: bytes) -> int:
    """How long the header of a file is that begins so; ValueError where that can't be."""
    length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    if len(beginning) < LENGTH_BYTES or length > MAX_HEADER_BYTES:
        raise ValueError("it is not safetensors")
    return length


def bytes_by_dtype(header: bytes, size_bytes: int) -> Counter[str]:
    """What a file of this size holds, by its header; ValueError where the two contradict each other."""
    held: Counter[str] = Counter()
    end = 0
    try:
        tensors: dict[str, Any] = json.loads(header)
        tensors.pop("__metadata__", None)
        for tensor in tensors.values():
            first, last = map(operator.index, tensor["data_offsets"])
            held[_DTYPES.get(tensor["dtype"], str(tensor["dtype"]).lower())] += last - first
            end = max(end, last)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header can't be read") from error
    if LENGTH_BYTES + len(header) + end != size_bytes or any(size < 0 for size in held.values()):
        raise ValueError("its header contradicts its size")
    return held


def weights_of(
    files: Iterable[WeightsFile], headers: Iterable[Counter[str] | None], commit: str | None = None
) -> Weights:
    """Weights out of their files, each with what it holds; where that is unknown of one, it is of all."""
    total: Counter[str] = Counter()
    is_known = True
    for held in headers:
        is_known = is_known and held is not None
        total.update(held or {})
    return Weights(files=tuple(files), by_dtype=dict(total) if is_known else {}, commit=commit)
