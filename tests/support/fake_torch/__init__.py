"""Enough of torch for a verification: what it is, what devices it sees, and a matrix product.

Installed as `torch` by the wheels of `support.wheels`; `behaviour.json` beside it says how it behaves.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

from ._behaviour import BEHAVIOUR
from ._tensor import Tensor, arange, device, eye, float32, float64, full, int64, ones, tensor, zeros

if BEHAVIOUR.import_seconds:
    time.sleep(BEHAVIOUR.import_seconds)
if BEHAVIOUR.exit_on_import is not None:
    if BEHAVIOUR.exit_on_import < 0:
        os.kill(os.getpid(), -BEHAVIOUR.exit_on_import)
    os._exit(BEHAVIOUR.exit_on_import)
if BEHAVIOUR.import_error is not None:
    raise ImportError(BEHAVIOUR.import_error)

from . import cuda, xpu

__version__ = BEHAVIOUR.version
version = SimpleNamespace(__version__=__version__, cuda=BEHAVIOUR.cuda, hip=BEHAVIOUR.hip, xpu=None)
backends = SimpleNamespace(
    mps=SimpleNamespace(is_available=lambda: BEHAVIOUR.mps, is_built=lambda: BEHAVIOUR.mps),
    cudnn=SimpleNamespace(allow_tf32=False),
    cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)),
)
mps = SimpleNamespace(synchronize=lambda: None, empty_cache=lambda: None)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product."""
    return left @ right


def manual_seed(_seed: int) -> None:
    """Nothing here is random."""


class no_grad:  # noqa: N801  torch's own name
    """Nothing here has gradients."""

    def __enter__(self) -> None:
        """Begins nothing."""

    def __exit__(self, *_: object) -> None:
        """Ends nothing."""


inference_mode = no_grad

__all__ = [
    "Tensor",
    "arange",
    "backends",
    "cuda",
    "device",
    "eye",
    "float32",
    "float64",
    "full",
    "inference_mode",
    "int64",
    "manual_seed",
    "matmul",
    "mps",
    "no_grad",
    "ones",
    "tensor",
    "version",
    "xpu",
    "zeros",
]
