# ruff: noqa: INP001  a backend's folder is no package
"""A model made ready for its device: its type, its limits, its last images, and an end when nobody waits."""

from __future__ import annotations

import inspect
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

Progress = Callable[[int, int | None, str], object]
Caller = tuple[Callable[[], bool], Progress]
"""Whether the caller of a function has left, and how to tell how far its answer is."""

KEPT_BYTES = 1 << 30
"""What images that are kept encoded may take; the last one is always kept. Moondream 2's take 144 MB each."""


class Gone(Exception):
    """The caller has left: the worker is free for the next."""

    cause = "cancelled"


def chosen_dtype(named: str | None, device: str) -> torch.dtype | None:
    """The type to compute in, None for the one that the model's own code builds (Moondream's: bfloat16).

    A CPU without instructions for bfloat16 emulates it: Moondream 2's short caption took 411 s instead of 70
    on two cores.
    """
    if named is not None:
        dtype = getattr(torch, named, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(
                f"dtype {named!r} is not a floating-point type of torch: use bfloat16 or float32"
            )
        return dtype
    return torch.float32 if device == "cpu" and not _multiplies_bfloat16() else None


def _multiplies_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  torch offers no public name
    except (AttributeError, RuntimeError):  # built without oneDNN
        return False


def use_physical_cores() -> None:
    """One thread a core: two that share one only wait for each other."""
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    usable = os.sched_getaffinity(0)
    lists = (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in usable)
    try:
        cores = {path.read_text(encoding="ascii") for path in lists}
    except OSError:
        return
    torch.set_num_threads(max(1, len(cores)))


class Model:
    """A loaded model of Moondream's. Not thread-safe: a generation's state is inside the model."""

    def __init__(self, loaded: Any, device: str, dtype: torch.dtype | None) -> None:
        self._loaded = loaded
        self._core = getattr(loaded, "model", loaded)
        self._device = device
        self._caller: Caller = (lambda: False, lambda *_: None)
        self._tokens = 0
        self._encoded: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        if dtype is not None:
            self._cast(dtype)
        if setup := getattr(loaded, "_setup_caches", None):
            setup()  # Moondream 3's are made when a function is first asked for, after compiling

    def finish(self, *, is_compiled: bool, progress: Progress) -> None:
        """Compile for the GPU where that is wished for, run what compiles, and watch every token."""
        if is_compiled and self._device == "cuda":
            self._compile(progress)
        for name, step in self._steps().items():
            setattr(self._core, name, self._watched(step, int(name == "_decode_one_tok")))

    def function(self, name: str) -> Any:
        """A function of the model, None where it has none of that name."""
        return getattr(self._loaded, name, None) or getattr(self._core, name, None)

    def context_left(self, question: str | None, image: Any, references: int) -> int | None:
        """How many tokens an answer may have; None where the model does not say how many it holds."""
        text: Any = getattr(getattr(self._core, "config", None), "text", None)
        if not hasattr(text, "max_context"):
            return None
        asked = len(self._core.tokenizer.encode(question).ids) if question else 0
        used = int(getattr(image, "pos", 0)) + asked + 3 * references + _TEMPLATE_TOKENS
        return int(text.max_context) - used

    def lengths(self) -> tuple[str, ...] | None:
        """The lengths that it captions in, None where it does not say."""
        templates = getattr(getattr(getattr(self._core, "config", None), "tokenizer", None), "templates", {})
        return tuple(templates["caption"]) if templates.get("caption") else None

    def encoded(self, key: str, image: Image.Image) -> Any:
        """The image as the model sees it; the last ones are kept, which is most of the time of a question."""
        encode = self.function("encode_image")
        if encode is None:
            return image
        if key not in self._encoded:
            value = encode(image)
            self._encoded[key] = value, _bytes_of(value)
        self._encoded.move_to_end(key)
        while len(self._encoded) > 1 and sum(size for _, size in self._encoded.values()) > KEPT_BYTES:
            self._encoded.popitem(last=False)
        return self._encoded[key][0]

    def forget_images(self) -> None:
        """Give back the memory of the kept images, where a call ran out of it."""
        self._encoded.clear()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def work_for(self, caller: Caller) -> None:
        """Tell the caller how far what runs next is, and end it as soon as they have left."""
        self._caller, self._tokens = caller, 0

    def _watched(self, step: Callable[..., Any], tokens: int) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            is_cancelled, progress = self._caller
            if is_cancelled():
                raise Gone
            progress(self._tokens, None, "tokens")
            self._tokens += tokens
            return step(*args, **kwargs)

        return watched

    def _cast(self, dtype: torch.dtype) -> None:
        """Compute in a type that the model's code does not name: it makes its numbers in a short one.

        Moondream's are in bfloat16. What is not short is left: it was made so for the sake of its precision.
        """
        for tensor in (*self._core.parameters(), *self._core.buffers()):
            if tensor.dtype in {torch.bfloat16, torch.float16}:
                tensor.data = tensor.data.to(dtype)
        if dtype not in (made := {tensor.dtype for tensor in self._core.parameters()}):
            names = ", ".join(sorted(map(str, made)))
            raise ValueError(f"{dtype} can't be computed in: the model's code is made for {names}")
        if (see := getattr(self._core, "_vis_enc", None)) is not None:
            self._core._vis_enc = lambda crops: see(crops.to(dtype))  # noqa: SLF001
        code = sys.modules[type(self._core).__module__]
        if (place := getattr(code, "encode_coordinate", None)) is not None:
            code.encode_coordinate = lambda coordinate, region: place(coordinate.to(dtype), region)  # type: ignore[attr-defined]

    def _steps(self) -> dict[str, Callable[..., Any]]:
        """What the functions of a model are made of, and its `compile` compiles, by name."""
        named = {
            name: getattr(self._core, name, None) for name in ("_vis_enc", "_prefill", "_decode_one_tok")
        }
        return {name: step for name, step in named.items() if step is not None}

    def _compile(self, progress: Progress) -> None:
        """Compile, and run each function once, so that no request waits for the compiler.

        What can't be compiled, where there is no C compiler for example, runs as it is.
        """
        as_it_is = self._steps()
        # transformers' own compiles `forward`, which nobody calls
        steps = [self._core.compile, *self._trials()]
        try:
            for done, step in enumerate(steps):
                progress(done, len(steps), "steps")
                step()
        except Exception as error:  # noqa: BLE001  of dynamo, of inductor, of Triton, and of what they call
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            sys.stderr.write(f"The model can't be compiled, and answers more slowly: {reason}\n")  # its log
            for name, step in as_it_is.items():
                setattr(self._core, name, step)
            for trial in self._trials():  # it may not have been the compiler
                trial()
        progress(len(steps), len(steps), "steps")

    def _trials(self) -> list[Callable[[], Any]]:
        """Each function on a grey image."""
        image = Image.new("RGB", (378, 378), (127, 127, 127))
        # moondream2 2025-06-21 reads the variant of any settings, without asking whether it is there.
        settings = {"max_tokens": 4, "temperature": 0.5, "top_p": 0.3, "variant": None}
        objects = {"max_objects": 1, "variant": None}
        knows_reasoning = "reasoning" in inspect.signature(self._loaded.query).parameters
        ways: list[dict[str, bool]] = (
            [{"reasoning": way} for way in (False, True)] if knows_reasoning else [{}]
        )
        return [
            partial(self._loaded.caption, image, settings=settings),
            *(partial(self._loaded.query, image, "What is it?", settings=settings, **way) for way in ways),
            partial(self._loaded.detect, image, "thing", settings=objects),
            partial(self._loaded.point, image, "thing", settings=objects),
        ]


_TEMPLATE_TOKENS = 16
"""More than the words around a question take: the templates of Moondream 2 and 3 have up to 8."""


def _bytes_of(encoded: Any) -> int:
    tensors = (tensor for pair in getattr(encoded, "caches", ()) for tensor in pair)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
