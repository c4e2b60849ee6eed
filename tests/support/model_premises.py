"""A home for the backend of the real models, on a real torch, with a model and a hub of the tests' own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.backends.manifest_loader import read_built_in
from support.commands import switch
from support.model_hub import COMMIT, ModelHub
from support.real_torch import small_torch
from support.stations import processes_naming
from support.tiny_model import write_tiny_model, write_tokenizer


@dataclass(frozen=True)
class ModelPremises:
    """A home and a model cache in a folder, and a hub on loopback; all else is as the user has it."""

    folder: Path
    hub: ModelHub

    @property
    def environ(self) -> Mapping[str, str]:
        """The user's own variables, with a home of ours, and our hub instead of the public one."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
        return {
            **kept,
            "MOONDREAM_STATION_HOME": str(self.folder / "home"),
            "MOONDREAM_STATION_MANIFEST": str(self.folder / "manifest.json"),
            "HF_HOME": str(self.folder / "cache"),
            "HF_ENDPOINT": self.hub.address,
        }

    @property
    def tiny(self) -> Path:
        """The folder of the model `tiny`."""
        return self.folder / "models" / "tiny"

    def write_manifest(self) -> None:
        """The built-in manifest's backends and models, and some of the test's own."""
        built_in = read_built_in()
        manifest = json.loads(built_in.model_dump_json())
        for backend in manifest["backends"].values():
            backend["download_url"] = str(Path(str(built_in.provenance.folder)) / backend["download_url"])
        for name, args in {
            "tiny": {"model_id": str(self.tiny)},
            "hub-tiny": {"model_id": "me/tiny", "revision": COMMIT},
            "newest": {"model_id": "me/newest"},
            "huge": {"model_id": "me/huge"},
            "single": {"model_id": str(self.tiny), "dtype": "float32"},
            "odd": {"model_id": str(self.tiny), "dtype": "int8"},
        }.items():
            entry = {"name": name, "description": f"The model {name}.", "backend": "transformers"}
            manifest["models"][name] = {**entry, "args": args}
        newer = {"backend": "transformers-5", "args": {"model_id": "me/five"}}
        manifest["models"]["five"] = manifest["models"]["tiny"] | newer
        (self.folder / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def open_model_premises(folder: Path) -> Iterator[ModelPremises]:
    """A home in which `selftest` was activated; skips where there is no torch for it."""
    if small_torch() is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    with ModelHub() as hub:
        premises = ModelPremises(folder, hub)
        write_tiny_model(premises.tiny)
        hub.has_xet = True  # which the backend does not use, unless it is told to
        hub.repositories["me/tiny"] = premises.tiny
        hub.repositories["me/tokenizer"] = write_tokenizer(premises.folder / "models" / "tokenizer")
        premises.write_manifest()
        check_succeeded(switch(premises, "selftest"))
        yield premises
    assert processes_naming(premises.folder) == []


def check_succeeded(events: list[dict[str, Any]]) -> None:
    """The last event is the one that was wished for."""
    assert events[-1]["event"] == "ActivationSucceeded", events[-1]
