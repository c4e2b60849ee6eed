"""What tests of installing in place share: an index, a driver, and interpreters that may be filled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_driver import install_driver
from support.scratch_python import ScratchPython
from support.stations import Premises, processes_naming
from support.torch_index import TorchIndex
from support.wheels import module_wheel


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A folder with a home and an index of the usual wheels, and nothing of the user's."""
    with TorchIndex() as index:
        index.add_usual()
        for version in ("2.9.0", "2.9.1"):
            for build in ("cpu", "cu126"):
                needs = [f"torch=={version}"]
                index.add(build, module_wheel("torchaudio", f"{version}+{build}", requires=needs))
        index.add_simple(module_wheel("numpy", "2.0.0"))
        index.add_simple(module_wheel("oldfriend", "1.0", requires=["numpy<2.1"]))
        index.add_simple(module_wheel("newfriend", "1.0", requires=["numpy>=2.3", "pillow"]))
        index.add_simple(module_wheel("needsnew", "1.0", requires=["torch>=2.9.1"]))
        premises = Premises(folder=tmp_path_factory.mktemp("facade"), index=index)
        yield premises
        assert processes_naming(premises.folder) == []
        assert list(premises.home.cache.glob("lock-*")) == []


@pytest.fixture(scope="module")
def with_gpu(premises: Premises) -> dict[str, str]:
    """Variables of a user whose machine has an NVIDIA driver for CUDA 12.4."""
    folder = install_driver(premises.folder / "driver", "550.54.14", "12.4").parent
    return {"PATH": f"{folder}{os.pathsep}{premises.environ['PATH']}"}


@pytest.fixture
def scratch(premises: Premises, tmp_path: Path) -> ScratchPython:
    """An interpreter without any package."""
    return ScratchPython.make(tmp_path / "scratch", premises.environ)
