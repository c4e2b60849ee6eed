"""A model of a few weights, in the form of Moondream's: code of its own, safetensors, the same methods."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable
from pathlib import Path

CONFIG = {
    "architectures": ["HfTiny"],
    "auto_map": {"AutoConfig": "hf_tiny.HfConfig", "AutoModelForCausalLM": "hf_tiny.HfTiny"},
    "model_type": "tiny",
}

HF_TINY = '''
"""What transformers loads."""
import os
import time

from transformers import PretrainedConfig, PreTrainedModel

from .tiny import TinyModel


class HfConfig(PretrainedConfig):
    _auto_class = "AutoConfig"
    model_type = "tiny"


class HfTiny(PreTrainedModel):
    _auto_class = "AutoModelForCausalLM"
    config_class = HfConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel()
        self.post_init()
        gate = os.path.join(config._name_or_path, "hold")
        while os.path.exists(gate):
            time.sleep(0.02)

    @property
    def encode_image(self):
        return self.model.encode_image

    @property
    def caption(self):
        return self.model.caption

    @property
    def query(self):
        return self.model.query

    @property
    def detect(self):
        return self.model.detect

    @property
    def point(self):
        return self.model.point
'''

TINY = '''
"""Looks at an image's mean colour, and where it is red."""
import time
from types import SimpleNamespace

import numpy
import torch
from tokenizers import Tokenizer
from torch import nn

from .words import WORDS


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        lengths = {"short": [1], "normal": [2]}
        self.config = SimpleNamespace(
            text=SimpleNamespace(max_context=60),
            tokenizer=SimpleNamespace(templates={"caption": lengths}),
        )
        self.tokenizer = Tokenizer.from_pretrained("me/tokenizer")
        self.project = nn.Linear(3, len(WORDS), dtype=torch.bfloat16)
        self.encoded = 0

    def encode_image(self, image, settings=None):
        if isinstance(image, SimpleNamespace):
            return image
        self.encoded += 1
        pixels = torch.from_numpy(numpy.array(image)).to(torch.bfloat16)
        return SimpleNamespace(pixels=self._vis_enc(pixels), width=image.width, height=image.height, pos=10)

    def _vis_enc(self, pixels):
        if pixels.dtype != self.project.weight.dtype:
            raise TypeError(f"{pixels.dtype} and {self.project.weight.dtype}")
        return pixels

    def _decode_one_tok(self, word):
        return word

    def _words(self, image):
        with torch.inference_mode():
            scores = self.project(self.encode_image(image).pixels.mean(dim=(0, 1)) / 255)
        order = scores.argsort(descending=True).tolist()
        return [f"{WORDS[number]} " for number in order]

    def _said(self, words):
        for word in words:
            yield self._decode_one_tok(word)

    def caption(self, image, length="normal", stream=False, settings=None):
        words = self._words(image)[: 1 if length == "short" else None]
        limit = (settings or {"max_tokens": None, "variant": None})["max_tokens"]
        return {"caption": self._said(words[:limit]) if stream else "".join(self._said(words[:limit]))}

    def _for_ever(self):
        while True:
            time.sleep(0.01)
            yield self._decode_one_tok("on ")

    def query(self, image=None, question=None, reasoning=True, stream=False, settings=None):
        if question == "for ever":
            return {"answer": self._for_ever() if stream else "".join(self._for_ever())}
        if question == "limit":
            return {"answer": str((settings or {}).get("max_tokens"))}
        if question == "encoded":
            return {"answer": str(self.encoded)}
        if question == "threads":
            return {"answer": str(torch.get_num_threads())}
        if question == "dtype":
            return {"answer": str(self.project.weight.dtype)}
        if question == "why?" and reasoning:
            for _ in range(20):
                time.sleep(0.05)
                self._decode_one_tok("because ")
        words = ["no image " if image is None else self._words(image)[0], question]
        answer = {"answer": (word for word in words) if stream else "".join(words)}
        return {"reasoning": {"text": "thought", "grounding": []}, **answer} if reasoning else answer

    def _red(self, image):
        pixels = self.encode_image(image).pixels / 255
        rows, columns = torch.nonzero(pixels[..., 0] - pixels[..., 1] > 0.5, as_tuple=True)
        return rows / image.height, columns / image.width

    def detect_gaze(self, image, eye=None, face=None):
        return {"gaze": {"x": eye[0], "y": 1 - eye[1]}}

    def detect(self, image, object, settings=None):
        rows, columns = self._red(image)
        sides = {"x_min": columns.min(), "y_min": rows.min(), "x_max": columns.max(), "y_max": rows.max()}
        return {"objects": [{name: value.item() for name, value in sides.items()}]}

    def point(self, image, object, settings=None):
        rows, columns = self._red(image)
        return {"points": [{"x": columns.mean().item(), "y": rows.mean().item()}]}
'''

WORDS = '"""What it can say."""\nWORDS = ("moon", "dream", "station", "crater")\n'

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
}

_COUNT = 4


def write_tokenizer(folder: Path) -> Path:
    """Write what the hub has as `me/tokenizer`, which the model's code asks for."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


def write_tiny_model(folder: Path, *, filler_bytes: int = 0) -> Path:
    """Write the model; its weights are random, and the same every time. What fills them up is not used."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, source in (("hf_tiny.py", HF_TINY), ("tiny.py", TINY), ("words.py", WORDS)):
        (folder / name).write_text(source)
    (folder / "model.safetensors").write_bytes(_safetensors(filler_bytes))
    return folder


def _safetensors(filler_bytes: int) -> bytes:
    """The linear layer's weights in that format: a length, a JSON header, and the numbers."""
    draw = random.Random(20251125)  # noqa: S311  weights are no secret
    weight = _bfloat16(draw.uniform(-1, 1) for _ in range(_COUNT * 3))
    bias = _bfloat16(draw.uniform(-1, 1) for _ in range(_COUNT))
    end = len(weight) + len(bias)
    header = {
        "__metadata__": {"format": "pt"},
        "model.project.weight": {
            "dtype": "BF16",
            "shape": [_COUNT, 3],
            "data_offsets": [0, len(weight)],
        },
        "model.project.bias": {"dtype": "BF16", "shape": [_COUNT], "data_offsets": [len(weight), end]},
    }
    if filler_bytes:
        places = [end, end + filler_bytes]
        header["filler"] = {"dtype": "U8", "shape": [filler_bytes], "data_offsets": places}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weight + bias + bytes(filler_bytes)


def _bfloat16(numbers: Iterable[float]) -> bytes:
    """The upper halves of the numbers as float32."""
    return b"".join(struct.pack("<f", number)[2:] for number in numbers)
