"""Run the whole station on this machine, without any network, on the torch that is installed here.

`python tests/hardware/run FOLDER --torch-python PYTHON` packs the torch of that Python, with what a backend
needs beside it, into wheels again, serves them on loopback as PyTorch's index and as the ordinary one, and
then does what a user does: `doctor --record`, `plan`, `switch selftest`, `serve`, a caption, `switch` to a
small model under the running station, captions, `doctor`. Everything else lies in a temporary folder; nothing
is installed into any Python that was there before, and nothing of it is left.

FOLDER then holds `machine.json` (the record), `plan.json`, `doctor.json`, `journal.jsonl` (every fact of both
activations), `log.txt` (what commands wrote to stderr) and `figures.json`, which says whether all went well.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any, TypeVar

import anyio
from packaging.utils import canonicalize_name

if not __package__:  # run as a program: find the station, `hardware` and `support`
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hardware.run.installed_wheels import needed_by
from hardware.run.wheel_site import publish, served
from moondream_station.core.backends.manifest_loader import read_built_in
from moondream_station.core.builds.requirements import Requirements, parse_requirements
from moondream_station.core.environments.packages import Package, find_packages
from moondream_station.core.facts.errors import StationError
from moondream_station.core.resolve.interpreter import Interpreter, find_interpreter
from support.images import png_of
from support.model_hub import ModelHub
from support.tiny_model import write_tiny_model, write_tokenizer

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[3]
_SMALL = Path(__file__).resolve().parents[1] / "small"
_NOT_THEIRS = ("PIP_", "UV_", "HF_", "MOONDREAM_", "XDG_", "http", "HTTP", "all_proxy", "ALL_PROXY")
_END_SECONDS = 20.0
_IMAGE = "data:image/png;base64," + base64.b64encode(png_of(64, 64, (16, 16, 40, 40))).decode()


class Failed(Exception):
    """A step did not give what it should."""


class Trial:
    """One run: where it writes, what is left of its time, and what was measured."""

    def __init__(self, out: Path, work: Path, seconds: float) -> None:
        self.out, self.work = out, work
        self.home = work / "home"
        self.figures: dict[str, Any] = {"ok": False, "failure": None, "steps": {}}
        self._deadline = time.monotonic() + seconds
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THEIRS)}
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ = {
            **kept,
            "HOME": str(work),
            "USERPROFILE": str(work),
            "PYTHONPATH": os.pathsep.join(paths),
            "PIP_CONFIG_FILE": os.devnull,
            "HF_HOME": str(work / "models"),
            "MOONDREAM_STATION_HOME": str(self.home),
            "MOONDREAM_STATION_MANIFEST": str(work / "manifest.json"),
        }

    @property
    def seconds_left(self) -> float:
        """How long the next step may take."""
        return max(self._deadline - time.monotonic(), 1.0)

    def timed(self, step: str, do: Callable[[], T]) -> T:
        """Do one step, and note the seconds that it took, also where it fails."""
        sys.stderr.write(f"{step} …\n")
        began = time.monotonic()
        try:
            return do()
        finally:
            self.figures["steps"][step] = round(time.monotonic() - began, 3)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the station to its end, whatever its exit code."""
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ moondream-station {' '.join(arguments)}\n")
            log.flush()
            return subprocess.run(
                [sys.executable, "-m", "moondream_station", *arguments],
                env=self.environ,
                cwd=self.work,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
                timeout=self.seconds_left,
            )

    def answer(self, *arguments: str) -> Any:
        """What a command prints with `--json`; it may say by its exit code that something is wrong."""
        done = self.command(*arguments, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise Failed(f"{arguments[0]} exited with {done.returncode} and no answer") from error

    def switch(self, model: str, python: Path) -> None:
        """Switch to a model, and note how long each stage took and what torch reported."""
        done = self.timed(
            f"switch {model}", lambda: self.command("switch", model, "--python", str(python), "--json")
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        self.figures[f"switch {model}"] = switch_figures(events)
        if not events or events[-1]["event"] != "ActivationSucceeded":
            raise Failed(f"switch {model} ended with {events[-1] if events else 'nothing'}")

    @contextmanager
    def serving(self) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
        """A station that serves on any free port; what is yielded posts to it."""
        with (
            (self.out / "log.txt").open("a", encoding="utf-8") as log,
            subprocess.Popen(
                [sys.executable, "-m", "moondream_station", "serve", "--port", "0"],
                env=self.environ,
                cwd=self.work,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process,
        ):
            end = Timer(self.seconds_left, process.kill)
            end.start()
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if " on http://" not in line:
                    raise Failed(f"serve said {line!r}; log.txt says why")
                address = line.split()[-1]
                direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

                def post(path: str, body: dict[str, Any]) -> Any:
                    request = urllib.request.Request(
                        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
                    )
                    with direct.open(request, timeout=self.seconds_left) as response:
                        return json.load(response)

                yield post
            finally:
                end.cancel()
                process.terminate()
                process.wait(_END_SECONDS)
        self.figures["serve exit code"] = process.returncode

    def caption(self, model: str, post: Callable[[str, dict[str, Any]], Any]) -> None:
        """Ask for a caption twice: the first answer of a model takes longer."""
        for number in ("first", "second"):
            body = {"image_url": _IMAGE, "length": "short"}
            said = self.timed(f"{number} caption of {model}", partial(post, "/v1/caption", body))
            self.figures[f"caption of {model}"] = said
            if not said.get("caption"):
                raise Failed(f"{model} gave no caption: {said}")


def switch_figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the facts of an activation tell: its choice, its parts' seconds, and torch's own report."""
    figures: dict[str, Any] = {"stages": {}}
    ends = {"ActivationSucceeded", "ActivationFailed", "ActivationCancelled"}
    starts = [event for event in events if event["event"] == "StageStarted" or event["event"] in ends]
    for start, following in pairwise(starts):
        seconds = (_moment(following) - _moment(start)).total_seconds()
        stages = figures["stages"]
        stages[start["stage"]] = round(stages.get(start["stage"], 0.0) + seconds, 3)
    for event in events:
        match event:
            case {"event": "CapabilitiesDetected", "capabilities": capabilities}:
                figures["gpus"] = [gpu["name"] for gpu in capabilities["gpus"]]
            case {"event": "BuildSelected"}:
                figures |= {name: event[name] for name in ("build", "torch", "source", "reason")}
            case {"event": "RequirementsLocked"}:
                figures |= {name: event[name] for name in ("packages", "total_bytes")}
            case {"event": "VerificationCompleted"}:
                figures["verification"] = {**event["report"], "mismatches": event["mismatches"]}
            case {"event": "ActivationSucceeded" | "ActivationFailed"}:
                figures |= {name: event[name] for name in ("seconds", "degraded", "error") if name in event}
            case _:
                pass
    return figures


def _moment(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["at"])


def installed_in(python: Path) -> tuple[Interpreter, dict[str, Package]]:
    """A Python, and the packages that it imports from."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = "import json, sys; print(json.dumps([path for path in sys.path if path]))"
    done = subprocess.run([python, "-c", program], env=plain, check=True, capture_output=True, text=True)
    interpreter = anyio.run(lambda: find_interpreter(python, environ=plain))
    return interpreter, find_packages(json.loads(done.stdout))


def requirements_of(backend: Path) -> Requirements:
    """What a backend's folder requires."""
    lines = (backend / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return parse_requirements(lines, origin=backend.name)


def is_met(requirements: Requirements, packages: dict[str, Package]) -> bool:
    """Whether packages satisfy requirements, what those need in turn aside."""
    found = [(item, packages.get(canonicalize_name(item.name))) for item in requirements.items]
    return all(
        package and item.specifier.contains(package.version, prereleases=True) for item, package in found
    )


def write_manifest(work: Path, packages: dict[str, Package]) -> tuple[str, list[str]]:
    """Write a manifest of `selftest` and `small`; gives the latter's backend, and all that both require.

    Its backend is the one of the real models where the installed transformers is one that it takes.
    """
    built_in = read_built_in()
    manifest = json.loads(built_in.model_dump_json())
    folders = {
        name: Path(str(built_in.provenance.folder)) / backend.download_url
        for name, backend in built_in.backends.items()
    }
    with_transformers = is_met(requirements_of(folders["transformers"]), packages)
    backend = "transformers" if with_transformers else "small"
    args = {"model_id": str(write_tiny_model(work / "tiny"))} if with_transformers else {}
    folders["small"] = _SMALL
    manifest["backends"]["small"] = {"name": "Small", "entry_module": "backend", "functions": ["caption"]}
    for name, folder in folders.items():
        manifest["backends"][name]["download_url"] = str(folder)
    manifest["models"] = {
        "selftest": manifest["models"]["selftest"],
        "small": {"name": "Small", "description": "A model of the tests.", "backend": backend, "args": args},
    }
    (work / "manifest.json").write_text(json.dumps(manifest))
    needed = [item for name in ("selftest", backend) for item in requirements_of(folders[name]).items]
    return backend, [canonicalize_name(item.name) for item in needed]


def run(trial: Trial, python: Path) -> None:
    """Do everything, one step after the other."""
    interpreter, packages = installed_in(python)
    backend, names = write_manifest(trial.work, packages)
    site = trial.work / "site"
    wheels = trial.timed("pack", lambda: publish(needed_by(names, packages, interpreter.markers), site))
    trial.figures |= {
        "python": interpreter.version,
        "installed torch": str(packages["torch"].version),
        "backend of small": backend,
        "wheels": len(wheels),
        "wheels' bytes": sum(wheel.stat().st_size for wheel in wheels),
    }
    with served(site) as address, ModelHub() as hub:
        hub.repositories["me/tokenizer"] = write_tokenizer(trial.work / "tokenizer")
        trial.environ |= {
            "MOONDREAM_STATION_TORCH_INDEX": f"{address}/whl",
            "PIP_INDEX_URL": f"{address}/simple",
            "HF_ENDPOINT": hub.address,
        }
        trial.timed("record", lambda: trial.command("doctor", "--record", str(trial.out / "machine.json")))
        plan = trial.timed("plan", lambda: trial.answer("plan", "torch", "--python", interpreter.minor))
        (trial.out / "plan.json").write_text(json.dumps(plan, indent=2))
        trial.switch("selftest", python)
        with trial.serving() as post:
            trial.caption("selftest", post)
            trial.switch("small", python)
            trial.caption("small", post)
            doctor = trial.timed("doctor", lambda: trial.answer("doctor"))
        (trial.out / "doctor.json").write_text(json.dumps(doctor, indent=2))
    errors = [finding["summary"] for finding in doctor["findings"] if finding["status"] == "error"]
    if errors:
        raise Failed(f"doctor found: {' '.join(errors)}")
    for model in ("selftest", "small"):
        figures = trial.figures[f"switch {model}"]
        if figures["degraded"] or not figures["verification"]["compute_ok"]:
            raise Failed(f"torch did not compute as planned for {model}: {figures}")


def main() -> int:
    """Run, and leave what was seen; 0 where all went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the record, the journal and the figures go")
    parser.add_argument(
        "--torch-python", type=Path, default=Path(sys.executable), help="the Python whose torch is used"
    )
    parser.add_argument("--work", type=Path, help="where to make the temporary folder")
    parser.add_argument("--minutes", type=float, default=9.5, help="after which it ends what it does")
    arguments = parser.parse_args()
    out = arguments.folder.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    with TemporaryDirectory(prefix="moondream-hardware-", dir=arguments.work) as folder:
        trial = Trial(out, Path(folder).resolve(), arguments.minutes * 60)
        try:
            run(trial, arguments.torch_python.absolute())
        except (Failed, LookupError, OSError, StationError, subprocess.SubprocessError) as error:
            trial.figures["failure"] = f"{type(error).__name__}: {error}"
        else:
            trial.figures["ok"] = True
        journals = sorted((trial.home / "activations").glob("*.jsonl"))
        (out / "journal.jsonl").write_text(
            "".join(journal.read_text("utf-8") for journal in journals), "utf-8"
        )
    text = json.dumps(trial.figures, indent=2)
    (out / "figures.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{text}\n")
    return 0 if trial.figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
