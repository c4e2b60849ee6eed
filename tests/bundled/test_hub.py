"""Files from the hub with both generations of its client: requests asks until 1.0, httpx since."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from moondream_station.core.backends.manifest_loader import read_built_in
from support.commands import wait_until
from support.index_traffic import Fault, Request
from support.model_hub import COMMIT, ModelHub
from support.xet_store import TOKEN, XetStore

CLIENTS = {"requests": "huggingface_hub>=0.34,<1", "httpx": "huggingface_hub>=1.5,<2"}
CODE = Path(str(read_built_in().provenance.folder)) / "transformers"
WEIGHTS = "model.safetensors"
CHUNK_BYTES = 1 << 18

_BRING = """
import json, sys
import hub

for case in json.loads(sys.argv[1]):
    try:
        with hub.explained(case["repository"], case.get("revision"), kind=case.pop("kind", "model")):
            commit = hub.commit_of(case["repository"], case.pop("revision", None))
            hub.bring(commit=commit, **case)
        print(json.dumps(None))
    except hub.Unreachable as error:
        print(json.dumps([error.cause, str(error), error.hint]))
"""


@pytest.fixture(scope="session", params=CLIENTS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the hub's client of a generation."""
    folder = tmp_path_factory.mktemp(request.param)
    python = folder / "bin" / "python"
    packages = [CLIENTS[request.param], "safetensors"]
    for command in (
        ["venv", "--clear", "-p", sys.executable, str(folder)],
        ["pip", "install", "-p", str(python), *packages],
    ):
        done = subprocess.run([find_uv_bin(), *command], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the package index does not have {packages}: {done.stderr[-200:]}")
    return python


@dataclass
class Line:
    """A hub, and a client of it in a process of its own with an empty cache."""

    hub: ModelHub
    python: Path
    folder: Path
    weights: bytes = field(default_factory=lambda: random.Random(7).randbytes(3_000_000))  # noqa: S311

    def __post_init__(self) -> None:
        repository = self.folder / "repository"
        repository.mkdir()
        (repository / WEIGHTS).write_bytes(self.weights)
        (repository / "config.json").write_text("{}")
        (repository / "tokenizer.json").write_text("{}")
        self.hub.repositories["me/model"] = self.hub.repositories["me/tokenizer"] = repository

    @property
    def sha256(self) -> str:
        """What the weights are stored under."""
        return hashlib.sha256(self.weights).hexdigest()

    @property
    def blob(self) -> Path:
        """Where the cache keeps the weights."""
        return self.folder / "cache" / "hub" / "models--me--model" / "blobs" / self.sha256

    @property
    def unfinished(self) -> Path:
        """Where it keeps what there is of them before they are whole."""
        return self.blob.with_name(f"{self.sha256}.incomplete")

    def environ(self, **variables: str) -> Mapping[str, str]:
        """The user's own variables, without those for the hub, and ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        ours = {
            "HF_ENDPOINT": self.hub.address,
            "HF_HOME": str(self.folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
        }
        return kept | ours | variables

    def start(self, *cases: Mapping[str, Any], first: str = "", **variables: str) -> subprocess.Popen[str]:
        """A client that brings files, by default the weights, and runs some code `first`."""
        brought = {
            "repository": "me/model",
            "name": WEIGHTS,
            "sha256": self.sha256,
            "size_bytes": len(self.weights),
        }
        return subprocess.Popen(
            [self.python, "-c", first + _BRING, json.dumps(cases or [brought])],
            env=self.environ(**variables),
            cwd=CODE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bring(self, *cases: Mapping[str, Any], **variables: str) -> tuple[list[Any], str]:
        """Each file's answer, None where it came, else cause, message and hint; and the log."""
        with self.start(*cases, **variables) as process:
            out, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        return [json.loads(text) for text in out.splitlines()], log

    def sent(self) -> list[Request]:
        """The requests for the weights' content."""
        return [
            item for item in self.hub.server.requests if (item.method, item.path[-17:]) == ("GET", WEIGHTS)
        ]

    def sent_bytes(self) -> int:
        """How much of it was sent, again or not."""
        return sum(request.bytes_sent for request in self.sent())

    def check_whole(self) -> None:
        """The weights are in the cache under their digest and under their name, and nothing else is left."""
        assert self.blob.read_bytes() == self.weights
        link = self.blob.parent.parent / "snapshots" / COMMIT / WEIGHTS
        assert link.resolve() == self.blob
        assert not list(self.blob.parent.glob("*incomplete"))


@pytest.fixture
def line(python: Path, tmp_path: Path) -> Iterator[Line]:
    """A hub that has a model and a tokenizer."""
    with ModelHub() as hub:
        yield Line(hub, python, tmp_path)


def test_a_connection_that_breaks_costs_a_chunk(line: Line) -> None:
    """What has arrived before it is not sent again, however often it breaks; a HEAD comes first."""
    line.hub.server.faults.append(Fault(match=f"*{WEIGHTS}", close_after_bytes=1_000_000, skip=1, times=4))
    assert line.bring()[0] == [None]
    line.check_whole()
    assert len(line.sent()) > 2
    assert line.sent_bytes() <= len(line.weights) + 4 * CHUNK_BYTES


def test_what_a_killed_client_has_is_not_sent_again(line: Line) -> None:
    """The next process asks for the rest."""
    line.hub.server.faults.append(Fault(match=f"*{WEIGHTS}", hang_after_bytes=2_000_000, skip=1, times=1))
    with line.start() as process:
        line.hub.server.wait_for(lambda request: request.bytes_sent == 2_000_000)
        wait_until(lambda: line.unfinished.exists() and line.unfinished.stat().st_size > 1_500_000)
        process.kill()
    kept = line.unfinished.stat().st_size
    line.hub.server.clear_requests()
    assert line.bring()[0] == [None]
    line.check_whole()
    assert line.sent_bytes() == len(line.weights) - kept


def test_what_was_killed_before_its_link_was_made_is_linked(line: Line) -> None:
    """The weights are there under their digest; nothing of them is sent."""
    line.blob.parent.mkdir(parents=True)
    line.blob.write_bytes(line.weights)
    assert line.bring()[0] == [None]
    line.check_whole()
    assert line.sent_bytes() == 0


@pytest.mark.faults
def test_a_cut_at_fifty_megabytes_costs_a_chunk(line: Line) -> None:
    """A file of the size that weights have, give or take."""
    size, cut = 80_000_000, 50_000_000
    folder = line.folder / "large"
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as file:
        file.truncate(size)
    line.hub.repositories["me/large"] = folder
    line.hub.server.faults.append(Fault(match=f"*{WEIGHTS}", close_after_bytes=cut, skip=1, times=1))
    sha256 = hashlib.sha256(bytes(size)).hexdigest()
    case = {"repository": "me/large", "name": WEIGHTS, "sha256": sha256, "size_bytes": size}
    assert line.bring(case)[0] == [None]
    first, second = line.sent()
    assert first.bytes_sent == cut
    assert size <= cut + second.bytes_sent <= size + CHUNK_BYTES


@pytest.mark.parametrize("step", ["pathlib.Path.replace", "hashlib.file_digest"])
def test_what_was_whole_when_the_client_was_killed_is_not_sent_again(line: Line, step: str) -> None:
    """Between its last byte and its place in the cache, and while its digest is compared."""
    hangs = f"import hashlib, pathlib, time\n{step} = lambda *_: (print(flush=True), time.sleep(600))\n"
    with line.start(first=hangs) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert line.sent_bytes() == len(line.weights)
    assert line.bring()[0] == [None]
    line.check_whole()
    assert line.sent_bytes() == len(line.weights)


@pytest.mark.parametrize("size", [3_000_000, 3_000_001, 1_000_000])
def test_what_was_left_and_is_damaged_is_fetched_again(line: Line, size: int) -> None:
    """Of the right size, too long, or a part: the digest shows it, and fetching it once more is enough."""
    line.unfinished.parent.mkdir(parents=True)
    line.unfinished.write_bytes(bytes(size))
    assert line.bring()[0] == [None]
    line.check_whole()


def test_a_server_that_knows_no_parts_sends_all_again(line: Line) -> None:
    """And the file is whole."""
    line.unfinished.parent.mkdir(parents=True)
    line.unfinished.write_bytes(line.weights[:1_000_000])
    line.hub.server.faults.append(Fault(match=f"*{WEIGHTS}", ignore_range=True))
    assert line.bring()[0] == [None]
    line.check_whole()
    assert line.sent_bytes() == len(line.weights)


def test_damage_is_mended_once_and_named_then(line: Line) -> None:
    """A file that is damaged each time is not used."""
    fault = Fault(match=f"*{WEIGHTS}", corrupt_byte=2_000_000, skip=1, times=1)
    line.hub.server.faults.append(fault)
    assert line.bring()[0] == [None]
    line.check_whole()
    line.blob.unlink()
    fault.times = None
    ((cause, message, hint),), _ = line.bring()
    assert cause == "weights-unreachable"
    assert message == f"{WEIGHTS} of me/model is damaged: its SHA-256 is not the one that the hub names."
    assert "proxy" in hint
    assert not line.blob.exists()


def test_too_many_requests_wait_as_long_as_the_hub_asks(line: Line) -> None:
    """A short while is waited for; a long one is named instead."""
    busy = Fault(match=f"*{WEIGHTS}", status=429, headers={"Retry-After": "2"}, times=1)
    line.hub.server.faults.append(busy)
    assert line.bring()[0] == [None]
    line.check_whole()
    line.hub.server.faults.append(Fault(match="*config.json", status=429, headers={"Retry-After": "3600"}))
    answers, _ = line.bring({"repository": "me/model", "name": "config.json"})
    ((_, message, hint),) = answers
    assert message == "me/model is not available from 127.0.0.1: it answered 429: too many requests."
    assert hint.startswith("Wait 3600 s, as it asks, and switch again; a token in HF_TOKEN")


def test_each_refusal_has_its_sentence(line: Line) -> None:
    """The token, the terms with their page, the repository, the revision, the weights, the tokenizer."""
    faults = {
        "token": Fault(
            match="*me/token/*",
            status=401,
            headers={"X-Error-Message": "Invalid credentials in Authorization header"},
        ),
        "terms": Fault(match="*me/terms*", status=403, headers={"X-Error-Code": "GatedRepo"}),
        "private": Fault(match="*me/private*", status=401, headers={"X-Error-Code": "RepoNotFound"}),
        "branch": Fault(match="*me/branch*", status=404, headers={"X-Error-Code": "RevisionNotFound"}),
        "gone": Fault(match="*/me/gone/resolve/*", status=404, headers={"X-Error-Code": "EntryNotFound"}),
        "down": Fault(match="*me/down*", status=503),
    }
    line.hub.server.faults += faults.values()
    for name in faults:
        line.hub.repositories[f"me/{name}"] = line.hub.repositories["me/model"]
    weights = {"name": WEIGHTS, "sha256": line.sha256, "size_bytes": len(line.weights)}
    tokenizer = {"name": "tokenizer.json", "kind": "tokenizer"}
    cases: dict[str, dict[str, Any]] = {
        "127.0.0.1 gives me/terms only to accounts that have accepted its terms.": {
            "repository": "me/terms",
            **weights,
        },
        "There is no model me/private on 127.0.0.1, or it is private.": {
            "repository": "me/private",
            **weights,
        },
        "There is no tokenizer me/private on 127.0.0.1, or it is private.": {
            "repository": "me/private",
            **tokenizer,
        },
        "me/branch has no revision old on 127.0.0.1.": {
            "repository": "me/branch",
            "revision": "old",
            **weights,
        },
        f"127.0.0.1 does not have me/gone/resolve/{COMMIT}/{WEIGHTS}, which me/gone needs.": {
            "repository": "me/gone",
            **weights,
        },
        f"127.0.0.1 does not have me/gone/resolve/{COMMIT}/tokenizer.json, which me/gone needs.": {
            "repository": "me/gone",
            **tokenizer,
        },
        "me/down is not available from 127.0.0.1: it answered 503.": {"repository": "me/down", **weights},
    }
    answers, _ = line.bring(*cases.values())
    assert [message for _, message, _ in answers] == list(cases)
    assert {cause for cause, _, _ in answers} == {"weights-unreachable"}
    assert f"{line.hub.address}/me/terms" in answers[0][2]
    token = {"repository": "me/token", "revision": COMMIT, **weights}
    ((_, message, hint),), _ = line.bring(token, HF_TOKEN="hf_other")  # noqa: S106  nobody's
    assert "it answered 401: the token is not accepted, or may not read this model." in message
    assert "HF_TOKEN" in hint


def test_offline_and_a_hub_that_is_gone_have_theirs(line: Line) -> None:
    """What is there needs neither."""
    case = {"repository": "me/model", "name": "config.json"}
    ((_, message, hint),), _ = line.bring(case, HF_HUB_OFFLINE="1")
    assert message == "me/model is not downloaded, and HF_HUB_OFFLINE is set."
    assert "Unset it" in hint
    line.hub.server.stop()
    ((_, message, hint),), _ = line.bring(case)
    assert message.startswith("me/model is not available from 127.0.0.1: ")
    assert "refused" in message
    assert "proxy" in hint


@pytest.fixture
def xet(line: Line) -> XetStore:
    """The hub offers the weights by Xet's protocol."""
    line.hub.has_xet = True
    return line.hub.xet


def test_xet_is_not_asked_by_default(line: Line, xet: XetStore) -> None:
    """As the backend sets it: plain HTTPS resumes."""
    assert line.bring() == ([None], "")
    line.check_whole()
    assert not xet.server.requests


def test_xet_brings_weights_where_it_is_turned_on(line: Line, xet: XetStore) -> None:
    """Each byte comes once, from its storage, which gets the hub's token for it and never the user's."""
    answers, log = line.bring(HF_HUB_DISABLE_XET="0", HF_TOKEN="hf_mine")  # noqa: S106  nobody's
    assert (answers, log) == ([None], "")
    line.check_whole()
    assert line.sent_bytes() == 0
    assert len(line.weights) < xet.sent_bytes() < 1.01 * len(line.weights)
    tokens = {request.headers.get("authorization") for request in xet.server.requests}
    assert tokens == {f"Bearer {TOKEN}", None}


def test_https_does_what_xet_can_not(line: Line, xet: XetStore) -> None:
    """Soon, and the log says why."""
    xet.server.stop()
    answers, log = line.bring(HF_HUB_DISABLE_XET="0")
    assert answers == [None]
    line.check_whole()
    assert log.startswith("Xet failed (")
    assert log.endswith("); HTTPS is used instead\n")
    assert line.sent_bytes() == len(line.weights)


def test_https_resumes_what_xet_began(line: Line, xet: XetStore) -> None:
    """Where its storage breaks off, what has arrived from the front counts."""
    xet.server.faults.append(Fault(match=xet.path(line.weights, 2_500_000), close_after_bytes=1000))
    answers, log = line.bring(HF_HUB_DISABLE_XET="0")
    assert answers == [None]
    line.check_whole()
    assert "HTTPS is used instead" in log
    (request,) = line.sent()
    assert request.range == "bytes=2097152-"  # the xorbs have a MiB each


def test_https_resumes_what_was_killed_in_the_middle_of_xet(line: Line, xet: XetStore) -> None:
    """The next process does not start again at zero, as Xet's client would."""
    xet.server.faults.append(Fault(match=xet.path(line.weights, 2_500_000), hang_after_bytes=1000))
    with line.start(HF_HUB_DISABLE_XET="0") as process:
        wait_until(lambda: line.unfinished.exists() and line.unfinished.stat().st_size > 0)
        process.kill()
    kept = line.unfinished.stat().st_size
    xet.server.clear_requests()
    assert line.bring(HF_HUB_DISABLE_XET="0") == ([None], "")
    line.check_whole()
    assert line.sent_bytes() == len(line.weights) - kept
    assert not xet.server.requests


def test_https_mends_what_xet_damaged(line: Line, xet: XetStore) -> None:
    """Xet's client does not compare the whole with a digest."""
    xet.server.faults.append(Fault(match=xet.path(line.weights, 0), corrupt_byte=1000))
    answers, log = line.bring(HF_HUB_DISABLE_XET="0")
    assert answers == [None]
    line.check_whole()
    assert log == f"Xet failed ({WEIGHTS} is damaged); HTTPS is used instead\n"


def test_what_another_program_fetched_by_xet_is_used(line: Line, xet: XetStore) -> None:
    """The client 1.33 keeps it in a store that repositories share, under another name.

    Where it is damaged, that file stays as it is, and this repository gets one of its own.
    """
    link = line.blob.parent.parent / "snapshots" / COMMIT / WEIGHTS
    fetch = f"import huggingface_hub as h; h.hf_hub_download('me/model', '{WEIGHTS}', revision='{COMMIT}')"
    subprocess.run([line.python, "-c", fetch], env=line.environ(HF_HUB_DISABLE_XET="0"), check=True)
    stored = link.resolve()
    assert line.bring()[0] == [None]
    assert (stored.read_bytes(), line.sent_bytes()) == (line.weights, 0)
    stored.chmod(0o600)
    stored.write_bytes(bytes(len(line.weights)))
    assert line.bring()[0] == [None]
    line.check_whole()
    assert stored.exists()
