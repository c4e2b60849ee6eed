"""Small wheels made on the spot: deterministic, with honest METADATA, RECORD and hashes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import platform
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_FAKE_TORCH = Path(__file__).parent / "fake_torch"
_LEVEL = 1
"""Of compression: a wheel is made in a fifth of the time of the usual one."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel, made when its bytes are first asked for.

    Args:
        name: The distribution's name as its metadata writes it ("torch").
        version: With its local part, if any ("2.9.0+cu128").
        python: Python tag ("py3", "cp311").
        abi: ABI tag ("none", "cp311").
        platform: Platform tag, several joined by dots ("any", "manylinux_2_28_x86_64").
        requires: `Requires-Dist` lines.
        extras: `Provides-Extra` lines.
        requires_python: `Requires-Python`, None to say nothing.
        files: What is installed, by path below site-packages.
        filler_bytes: Size of a further file that can't be compressed, so that the wheel has a wanted size.
        is_compressed: Whether what is in it is compressed, as in the wheels of others.
    """

    name: str
    version: str
    python: str = "py3"
    abi: str = "none"
    platform: str = "any"
    requires: Sequence[str] = ()
    extras: Sequence[str] = ()
    requires_python: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    filler_bytes: int = 0
    is_compressed: bool = False

    @property
    def filename(self) -> str:
        """The wheel's file name."""
        return f"{self._escaped_name}-{self.version}-{self.python}-{self.abi}-{self.platform}.whl"

    @property
    def project(self) -> str:
        """The name as an index writes it."""
        return self.name.lower().replace("_", "-").replace(".", "-")

    @property
    def _escaped_name(self) -> str:
        return self.project.replace("-", "_")

    @cached_property
    def metadata(self) -> bytes:
        """The METADATA file, which an index may also serve beside the wheel."""
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        if self.requires_python is not None:
            lines.append(f"Requires-Python: {self.requires_python}")
        lines += [f"Provides-Extra: {extra}" for extra in self.extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        return "\n".join([*lines, "", ""]).encode()

    @cached_property
    def data(self) -> bytes:
        """The wheel's bytes, the same in every process and on every day."""
        buffer = io.BytesIO()
        record: list[str] = []
        method = zipfile.ZIP_DEFLATED if self.is_compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", method, compresslevel=_LEVEL) as archive:
            for path, content in self._contents():
                _write(archive, path, content)
                record.append(f"{path},sha256={_record_hash(content)},{len(content)}")
            record_path = f"{self._dist_info}/RECORD"
            _write(archive, record_path, "\n".join([*record, f"{record_path},,", ""]).encode())
        return buffer.getvalue()

    @cached_property
    def sha256(self) -> str:
        """The wheel's hash, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()

    def write_to(self, folder: Path) -> Path:
        """Puts the wheel into a folder, as `--find-links` reads it."""
        path = folder / self.filename
        path.write_bytes(self.data)
        return path

    @property
    def _dist_info(self) -> str:
        return f"{self._escaped_name}-{self.version}.dist-info"

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        yield from self.files.items()
        if self.filler_bytes:
            yield f"{self._escaped_name}_filler.bin", filler(self.filename, self.filler_bytes)
        tags = [
            f"Tag: {python}-{self.abi}-{platform}"
            for python in self.python.split(".")
            for platform in self.platform.split(".")
        ]
        wheel = [
            "Wheel-Version: 1.0",
            "Generator: moondream-station-tests",
            "Root-Is-Purelib: true",
            *tags,
            "",
        ]
        yield f"{self._dist_info}/METADATA", self.metadata
        yield f"{self._dist_info}/WHEEL", "\n".join(wheel).encode()


@dataclass(frozen=True, kw_only=True)
class Sources(Wheel):
    """An archive of sources of which that wheel is made, by a build backend of its own that needs nothing.

    Args:
        failure: What its building says instead of working, empty where it works.
        variable: An environment variable without which it can't be built, empty where it needs none.
    """

    failure: str = ""
    variable: str = ""

    @property
    def filename(self) -> str:
        """The archive's file name."""
        return f"{self._escaped_name}-{self.version}.tar.gz"

    @cached_property
    def data(self) -> bytes:
        """The archive's bytes."""
        wheel = Wheel(
            name=self.name,
            version=self.version,
            requires=self.requires,
            extras=self.extras,
            files=self.files,
        )
        project = '[build-system]\nrequires = []\nbuild-backend = "building"\nbackend-path = ["."]\n'
        backend = (
            "import os, shutil\n"
            "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
            f"    if {self.failure!r}:\n"
            f"        raise SystemExit({self.failure!r})\n"
            f"    if {self.variable!r} and not os.environ.get({self.variable!r}):\n"
            f"        raise SystemExit('{self.variable} is not set')\n"
            f"    shutil.copy({wheel.filename!r}, folder)\n"
            f"    return {wheel.filename!r}\n"
        )
        # The form that says whether metadata may differ from build to build: so it is built to be locked.
        info = wheel.metadata.replace(b"2.1", b"2.2").replace(b"\n\n", b"\nDynamic: Requires-Dist\n\n")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in (
                ("PKG-INFO", info),
                ("pyproject.toml", project.encode()),
                ("building.py", backend.encode()),
                (wheel.filename, wheel.data),
            ):
                member = tarfile.TarInfo(f"{self._escaped_name}-{self.version}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return gzip.compress(buffer.getvalue(), mtime=0)


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _write(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    info = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    archive.writestr(info, content, archive.compression, _LEVEL)


def filler(seed: str, size_bytes: int) -> bytes:
    """Bytes that can't be compressed, always the same for one seed."""
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def native_tags() -> dict[str, str]:
    """Tags as torch's own wheels for this interpreter and machine have them, as arguments for a wheel."""
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    machine = platform.machine()
    name = {"Windows": "win_amd64", "Darwin": f"macosx_14_0_{machine}"}
    tag = name.get(platform.system(), f"manylinux_2_28_{machine}")
    return {"python": python, "abi": python, "platform": tag}


@dataclass(frozen=True, kw_only=True)
class TorchBehaviour:
    """How the fake torch behaves once it is installed; written into its wheel as data.

    Args:
        cuda: `torch.version.cuda` ("12.8"), None for a build without.
        hip: `torch.version.hip`, None for a build without.
        cuda_devices: Names of the devices that `torch.cuda` sees (also AMD's).
        capabilities: Compute capability of each of them; (8, 9) where none is given.
        xpu_devices: Names of the devices that `torch.xpu` sees.
        mps: Whether `torch.backends.mps.is_available()`.
        arch_list: What `torch.cuda.get_arch_list()` says.
        import_error: Text of the ImportError that `import torch` raises, None to let it work.
        import_seconds: How long `import torch` takes.
        compute_errors: Text of the RuntimeError that a product on a kind of device raises.
        compute_offset: Added to every element of a product off the processor, so that it comes out wrong.
        exit_on_import: Exit status with which `import torch` ends the process; negative: a signal's number.
    """

    cuda: str | None = None
    hip: str | None = None
    cuda_devices: Sequence[str] = ()
    capabilities: Sequence[tuple[int, int]] = ()
    xpu_devices: Sequence[str] = ()
    mps: bool = False
    arch_list: Sequence[str] = ()
    import_error: str | None = None
    import_seconds: float = 0.0
    compute_errors: Mapping[str, str] = field(default_factory=dict)
    compute_offset: float = 0.0
    exit_on_import: int | None = None

    def as_json(self, version: str) -> bytes:
        """The data file that the fake torch reads when it is imported."""
        return json.dumps({"version": version, **vars(self)}, sort_keys=True, indent=1).encode()


def behaviour_of(build: str) -> TorchBehaviour:
    """What torch says on a machine that has a device for its build: one GPU, or none for `cpu`."""
    if build.startswith("cu"):
        cuda = f"{build[2:-1]}.{build[-1]}"
        arch_list = ("sm_75", "sm_80", "sm_86", "sm_90")
        return TorchBehaviour(cuda=cuda, cuda_devices=("Loopback GPU",), arch_list=arch_list)
    if build.startswith("rocm"):
        hip = build.removeprefix("rocm")
        return TorchBehaviour(hip=hip, cuda_devices=("Loopback GPU",), arch_list=("gfx1100",))
    if build == "xpu":
        return TorchBehaviour(xpu_devices=("Loopback GPU",))
    return TorchBehaviour()


def torch_wheel(
    version: str,
    build: str | None,
    *,
    behaviour: TorchBehaviour | None = None,
    requires: Sequence[str] = (),
    extras: Sequence[str] = (),
    requires_python: str | None = ">=3.10",
    filler_bytes: int = 0,
    **tags: str,
) -> Wheel:
    """A torch that can be installed, imported and asked to multiply matrices.

    Args:
        version: Without its local part ("2.9.0").
        build: The local part ("cu128"), None for a wheel as PyPI has it.
        behaviour: How it behaves once it is imported; by default as `behaviour_of` its build.
        requires: As in `Wheel`.
        extras: As in `Wheel`.
        requires_python: As in `Wheel`.
        filler_bytes: As in `Wheel`.
        tags: `python`, `abi` and `platform` as in `Wheel`; those of `native_tags` where they are left out.
    """
    full_version = f"{version}+{build}" if build is not None else version
    behaviour = behaviour or behaviour_of(build or "cpu")
    files = {f"torch/{path.name}": path.read_bytes() for path in sorted(_FAKE_TORCH.glob("*.py"))}
    files["torch/behaviour.json"] = behaviour.as_json(full_version)
    tag = {**native_tags(), **tags}
    return Wheel(
        name="torch",
        version=full_version,
        python=tag["python"],
        abi=tag["abi"],
        platform=tag["platform"],
        requires=requires,
        extras=extras,
        requires_python=requires_python,
        files=files,
        filler_bytes=filler_bytes,
    )


def module_wheel(
    name: str, version: str, *, module: str | None = None, requires: Sequence[str] = ()
) -> Wheel:
    """An ordinary pure-Python package whose module knows nothing but its version."""
    module = module or name.lower().replace("-", "_")
    source = f'"""A package of the test suite."""\n\n__version__ = "{version}"\n'.encode()
    return Wheel(name=name, version=version, requires=requires, files={f"{module}/__init__.py": source})
