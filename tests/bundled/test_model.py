"""What the bundled backend does to a model that compiles, without a GPU, and with nothing of torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from moondream_station.core.backends.manifest_loader import read_built_in

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
