"""The shapes of files, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moondream_station.http.shapes import Schema, list_of, whole

_TEXT: Final[Schema] = {"type": "string"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_TEXTS: Final = list_of(_TEXT)


def _map_of(items: Schema) -> Schema:
    return {"type": "object", "additionalProperties": items}


_MACHINE: Final = whole(
    "What every probe asked of a machine and got: `doctor --record` writes it, `--machine` reads it.",
    {
        "format": {"const": "moondream-station/machine/1"},
        "platform": whole(
            "What Python says of the machine.",
            {
                "system": _TEXT,
                "release": _TEXT,
                "version": _TEXT,
                "machine": _TEXT,
                "mac_ver": _TEXT,
                "libc": {"type": "array", "prefixItems": [_TEXT, _TEXT], "items": False, "minItems": 2},
                "python": _TEXT,
                "in_rosetta": {"type": ["boolean", "null"]},
            },
        ),
        "env": {
            "type": "object",
            "properties": dict.fromkeys(
                (
                    "CUDA_VISIBLE_DEVICES",
                    "CUDA_DEVICE_ORDER",
                    "NVIDIA_VISIBLE_DEVICES",
                    "HIP_VISIBLE_DEVICES",
                    "ROCR_VISIBLE_DEVICES",
                    "HSA_OVERRIDE_GFX_VERSION",
                    "ZE_AFFINITY_MASK",
                ),
                _TEXT,
            ),
            "additionalProperties": False,
        },
        "commands": list_of(
            whole(
                "A program that was asked, and its answer.",
                {
                    "argv": {"type": "array", "items": _TEXT, "minItems": 1},
                    "returncode": {"type": "integer"},
                    "stdout": _TEXT,
                    "stderr": _TEXT,
                    "seconds": {"type": "number", "minimum": 0},
                    "timed_out": {"type": "boolean"},
                },
            )
        ),
        "files": _map_of(_TEXT),
        "directories": _map_of(_TEXTS),
        "unreadable": _map_of(_TEXT),
    },
    optional=("unreadable",),
)

_ACTIVE: Final = whole(
    "`active.json`: which model is active, and the environment of each.",
    {
        "format": {"const": "moondream-station/active/1"},
        "model": _TEXT_OR_NULL,
        "models": _map_of(
            whole(
                "One model's environments.",
                {"environment": _TEXT, "previous": _TEXT_OR_NULL, "request_key": _TEXT},
            )
        ),
    },
)

FILES: Final[Mapping[str, Schema]] = {"active": _ACTIVE, "machine": _MACHINE}
