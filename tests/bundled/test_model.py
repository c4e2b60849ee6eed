"""What the bundled backend does to a model that compiles, without a GPU, and with nothing of torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.backends.manifest_loader import read_built_in
from support.real_torch import torch_environment

__all__ = ["torch_environment"]

CODE = Path(str(read_built_in().provenance.folder)) / "transformers"

_FINISH = """
import json, sys, types

sys.modules["torch"] = types.ModuleType("torch")  # a model on a GPU is told apart by its device's name alone
import model

compiling, running = json.loads(sys.argv[1])


class Core:
    def __init__(self):
        self.steps, self.asked = [], []

    def _decode_one_tok(self, token):
        if running:
            raise RuntimeError(running)
        self.steps.append("as it is")
        return token

    def compile(self):
        def compiled(token):
            if compiling:
                raise RuntimeError(compiling)
            self.steps.append("compiled")
            return token

        self._decode_one_tok = compiled

    def caption(self, image, settings=None):
        self.asked.append(("caption", settings["variant"]))
        return self._decode_one_tok(1)

    def query(self, image, question, reasoning=False, settings=None):
        self.asked.append(("query", reasoning))
        return self._decode_one_tok(1)

    def detect(self, image, name, settings=None):
        self.asked.append(("detect", settings["variant"]))
        return self._decode_one_tok(1)

    def point(self, image, name, settings=None):
        self.asked.append(("point", settings["variant"]))
        return self._decode_one_tok(1)


core, told = Core(), []
ready = model.Model(core, "cuda", None)
try:
    ready.finish(is_compiled=True, progress=lambda *progress: told.append(progress))
except RuntimeError as error:
    told.append(("failed", str(error)))
else:
    core.steps.clear()
    ready.function("caption")(None, settings={"variant": None})
print(json.dumps([told, core.asked, core.steps]))
"""


def finish(*, compiling: str = "", running: str = "") -> tuple[list[Any], str]:
    """Compile a model whose steps fail with these words, and ask for a caption.

    Gives what was told, what was asked, which steps the caption took, and the log.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FINISH, json.dumps([compiling, running])],
        cwd=CODE,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def test_each_function_runs_once_before_a_model_that_compiles_is_ready() -> None:
    """It is told step by step, and what answers then is what was compiled."""
    (told, asked, steps), log = finish()
    assert told == [[done, 6, "steps"] for done in range(7)]
    assert asked[:-1] == [
        ["caption", None],
        ["query", False],
        ["query", True],
        ["detect", None],
        ["point", None],
    ]
    assert (steps, log) == (["compiled"], "")


def test_what_can_not_be_compiled_runs_as_it_is() -> None:
    """The log says why; the worker goes on."""
    (told, _, steps), log = finish(compiling="Failed to find C compiler.\nAnd so on.")
    assert told[-1] == [6, 6, "steps"]
    assert steps == ["as it is"]
    assert log == "The model can't be compiled, and answers more slowly: Failed to find C compiler.\n"


def test_a_model_that_does_not_run_either_way_is_not_ready() -> None:
    """It was not the compiler."""
    (told, _, _), _ = finish(compiling="no compiler", running="no memory")
    assert told[-1] == ["failed", "no memory"]


_CAST = """
import json
import torch
import model

answers = []
for stored, wanted in (("bfloat16", "float32"), ("float16", "float32"), ("float32", "bfloat16")):
    core = torch.nn.Linear(2, 2, dtype=getattr(torch, stored))
    try:
        model.Model(core, "cpu", model.chosen_dtype(wanted, "cpu"))
        answers.append(str(core.weight.dtype))
    except ValueError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


@pytest.mark.torch
def test_a_type_is_computed_in_or_refused(torch_environment: Path) -> None:
    """Whatever short type the model's code makes its numbers in; long ones are not cut off."""
    done = subprocess.run(
        [torch_environment, "-c", _CAST], cwd=CODE, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        "torch.float32",
        "torch.float32",
        "torch.bfloat16 can't be computed in: the model's code is made for torch.float32",
    ]
