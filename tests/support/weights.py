"""Models of a test's own as folders: a description, and weights in safetensors of any types and sizes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import TypeAlias

Tensors: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name."""

_ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "U8": 1}


def safetensors(tensors: Tensors, *, padding: int = 0) -> bytes:
    """A file of zeros; `padding` spaces make its header longer, as the format allows."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * _ITEM_BYTES[dtype]
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(described).encode() + b" " * padding
    return struct.pack("<Q", len(header)) + header + bytes(end)


def write_model(folder: Path, files: dict[str, Tensors], *, padding: int = 0) -> Path:
    """A model whose weights are these files, with an index where it is not the one that needs none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    for name, tensors in files.items():
        (folder / name).write_bytes(safetensors(tensors, padding=padding))
    if set(files) != {"model.safetensors"}:
        weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
