"""What an installation in place changes, and what it leaves: into a scratch interpreter, from loopback."""

from __future__ import annotations

import json
import platform
import re
import signal
from pathlib import Path

import pytest

from support.index_traffic import Fault
from support.scratch_python import INSTALL, ROOT, ScratchPython
from support.stations import Premises, processes_naming
from support.torch_index import TorchIndex
from support.wheels import TorchBehaviour

ASKED = "torch>=2.8\nNumPy\n"
_HEAR_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A shell lets what it starts in the background ignore SIGINT, and tests may run there."""


def wheels_fetched(premises: Premises) -> list[str]:
    """The names of the wheels that were fetched since the requests were cleared."""
    return [
        request.path.rpartition("/")[2]
        for request in premises.index.requests
        if request.method == "GET" and request.path.endswith(".whl")
    ]


def test_torch_of_another_build_is_replaced_with_its_companions(
    scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """Also a companion that nobody asks for now: it was made for the torch that goes."""
    text = "torch>=2.8\ntorchvision\n"
    assert scratch.install(f"{text}torchaudio")["success"]
    answer = scratch.install(text, **with_gpu)
    assert answer["success"], answer
    found = scratch.packages()
    assert {name: found[name] for name in ("torch", "torchvision", "torchaudio")} == {
        "torch": "2.9.1+cu126",
        "torchvision": "0.24.1+cu126",
        "torchaudio": "2.9.1+cu126",
    }
    assert "replaced torch 2.9.1+cpu" in answer["details"]
    assert "recommends cu124" in answer["details"]
    assert "numpy" not in answer["details"]


def test_only_what_is_missing_is_installed(premises: Premises, scratch: ScratchPython) -> None:
    """A torch that satisfies stays, though there is a newer one, and its companion is made to fit it."""
    assert scratch.install("torch==2.9.0\nnumpy==2.0.0")["success"]
    premises.index.clear_requests()
    answer = scratch.install("torch>=2.8\ntorchvision\nnewfriend; python_version < '3'")
    assert answer["success"], answer
    assert scratch.packages() == {
        "torch": "2.9.0+cpu",
        "numpy": "2.0.0",
        "torchvision": "0.24.0+cpu",
        "pillow": "12.0.0",
    }
    assert not [name for name in wheels_fetched(premises) if name.startswith("torch-")]


def test_a_package_in_the_way_is_moved_and_whoever_needed_it_is_named(scratch: ScratchPython) -> None:
    """Nothing else moves."""
    assert scratch.install("oldfriend\npillow<12")["success"]
    assert scratch.packages()["numpy"] == "2.0.0"
    answer = scratch.install("newfriend", before="import numpy")
    assert answer["success"], answer
    assert "numpy is imported in this process" in answer["details"]
    found = scratch.packages()
    assert (found["numpy"], found["pillow"]) == ("2.3.4", "11.3.0")
    assert "replaced numpy 2.0.0" in answer["details"]
    assert "oldfriend 1.0 needs numpy<2.1, which 2.3.4 is not." in answer["details"]


def test_torch_that_comes_in_through_a_package_is_of_the_chosen_build(
    scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """The ordinary index has a torch of its own, which nobody takes. It can be imported at once."""
    done = scratch.run(f"{INSTALL}\nimport torch; print(torch.__version__)", "wrapstorch", **with_gpu)
    answer, version = done.stdout.splitlines()
    assert json.loads(answer)["success"], answer
    assert version == "2.9.1+cu126"


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (TorchBehaviour(compute_errors={"cpu": "illegal instruction"}), "illegal instruction"),
        (TorchBehaviour(exit_on_import=-11), "Importing torch ended its process (exit code -11)"),
    ],
)
def test_a_torch_that_does_not_compute_is_no_success(
    tmp_path: Path, behaviour: TorchBehaviour, words: str
) -> None:
    """It is installed, and the result says that it does not work and what to do."""
    with TorchIndex() as index:
        index.add_torch("2.9.1", "cpu", behaviour=behaviour)
        environ = Premises(folder=tmp_path, index=index).environ
        scratch = ScratchPython.make(tmp_path / "scratch", environ)
        answer = scratch.install("torch")
    assert not answer["success"]
    assert answer["cmd"] != []
    assert words in answer["message"]
    assert "MOONDREAM_STATION_STRATEGY" in answer["message"]


def test_an_interrupted_download_is_ended_at_once_and_gone_on_with(tmp_path: Path) -> None:
    """Ctrl-C leaves no process behind; the next run fetches what is missing of the file."""
    with TorchIndex() as index:
        index.add_torch("2.9.1", "cpu", filler_bytes=2_000_000)
        premises = Premises(folder=tmp_path, index=index)
        scratch = ScratchPython.make(tmp_path / "scratch", premises.environ)
        index.faults.append(Fault(match="*/torch-*.whl", bytes_per_second=400_000))
        with scratch.started(_HEAR_CTRL_C + INSTALL, "torch") as process:
            index.wait_for(".whl", bytes_sent=400_000)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=5)
        assert process.returncode != 0
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert scratch.packages() == {}
        (size,) = premises.partial_downloads().values()
        assert size > 0
        index.faults.clear()
        index.clear_requests()
        assert scratch.install("torch")["success"]
        (request,) = [one for one in index.requests if one.path.endswith(".whl") and one.method == "GET"]
        assert request.headers["range"] == f"bytes={size}-"
    assert processes_naming(tmp_path) == []


def test_what_needs_a_newer_torch_gets_it(scratch: ScratchPython) -> None:
    """Of the same build; the one that was there could not stay."""
    assert scratch.install("torch==2.9.0")["success"]
    answer = scratch.install("torch\nneedsnew")
    assert answer["success"], answer
    assert scratch.packages() == {"torch": "2.9.1+cpu", "needsnew": "1.0"}


def test_a_torch_that_nobody_offers_any_more_stays(scratch: ScratchPython, tmp_path: Path) -> None:
    """It satisfies, and nothing that can be had does."""
    assert scratch.install("torch==2.8.0")["success"]
    with TorchIndex() as index:
        index.add_torch("2.9.1", "cpu")
        urls = {"MOONDREAM_STATION_TORCH_INDEX": index.torch_url, "PIP_INDEX_URL": index.simple_url}
        answer = scratch.install("torch<2.9", MOONDREAM_STATION_HOME=str(tmp_path / "home"), **urls)
    assert (answer["success"], answer["cmd"]) == (True, [])


def test_two_at_once_take_turns(premises: Premises, scratch: ScratchPython) -> None:
    """In one interpreter; one of them finds everything there."""
    with scratch.started(INSTALL, ASKED) as first, scratch.started(INSTALL, ASKED) as second:
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in (first, second)]
    assert [answer["success"] for answer in answers] == [True, True]
    assert sorted(bool(answer["cmd"]) for answer in answers) == [False, True]
    assert scratch.packages() == {"torch": "2.9.1+cpu", "numpy": "2.3.4"}


def test_a_companion_that_no_version_of_fits_stays_and_is_named(scratch: ScratchPython) -> None:
    """There is no torchaudio for that torch here; it was not asked for."""
    assert scratch.install("torch\ntorchaudio")["success"]
    answer = scratch.install("torch==2.8.0")
    assert answer["success"], answer
    assert "torchaudio was left as it is: no version fits torch 2.8.0+cpu." in answer["details"]
    assert scratch.packages() == {"torch": "2.8.0+cpu", "torchaudio": "2.9.1+cpu"}


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the page ran on Linux on x86-64"
)
def test_the_pages_examples_print_what_the_page_says(
    premises: Premises, scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """In the page's order, one after the other in one script."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    program = "".join(text for language, text in blocks if language == "python")
    expected = "".join(text for language, text in blocks if language == "text")
    done = scratch.run(program, **with_gpu)
    assert done.returncode == 0, done
    assert done.stdout == expected.replace("https://download.pytorch.org/whl", premises.index.torch_url)
