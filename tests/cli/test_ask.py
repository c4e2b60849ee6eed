"""Asking the active model from the command line: images by every name, answers, failures, going on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from support.commands import command, run, run_json, serving, started, switch, wait_until
from support.posix import bytes_in, make_fifo
from support.stations import Premises, open_premises

PAINTER = """
import base64, os, time

class Refused(ValueError):
    cause = "argument-invalid"
    argument = "image_url"

def _read(image_url):
    content = base64.b64decode(image_url.partition(",")[2])
    if content == b"broken":
        raise Refused("image_url can't be read as an image")
    while os.path.exists("HELD"):
        time.sleep(0.01)
    return content

def _slowly():
    yield "first "
    while os.path.exists("HELD"):
        time.sleep(0.01)
    yield "last"

def caption(image_url=None, length="normal", stream=False, **kwargs):
    if length not in ("short", "normal"):
        refused = Refused("length must be short or normal")
        refused.argument = "length"
        raise refused
    words = [f"{length} ", "caption ", f"of {len(_read(image_url))} bytes"]
    return {"caption": iter(words) if stream else "".join(words)}

def query(question, image_url=None, stream=False, **kwargs):
    if question == "Slowly?":
        return {"answer": _slowly()}
    return {"answer": f"{question} {len(_read(image_url))}"}

def detect(object, image_url=None, **kwargs):
    found = [] if object == "cat" else [{"x_min": 0.25, "y_min": 0.25, "x_max": 0.75, "y_max": 0.75}]
    return {"objects": found}

def point(object, image_url=None, **kwargs):
    return {"points": [{"x": 0.5, "y": 0.5}]}

def segment(object, image_url=None, **kwargs):
    box = {"x_min": 0.5, "y_min": 0.0, "x_max": 1.0, "y_max": 1.0}
    return {"path": "M 0 0 H 1 V 1 C 1 1 0 1 0 1 Z", "bbox": box}

def add(one, other, **kwargs):
    return {"sum": one + other}
"""


def picture() -> bytes:
    """A white PNG of 40 by 20 pixels."""
    content = io.BytesIO()
    Image.new("RGB", (40, 20), "white").save(content, format="PNG")
    return content.getvalue()


_END_SECONDS = 20


class Quiet(SimpleHTTPRequestHandler):
    """A server's handler that logs nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """A server of a folder's files on loopback; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def paint(premises: Premises) -> None:
    """Activate a model that needs no torch, beside an image and a folder of five."""
    premises.add_model(
        "painter", requirements="", source=PAINTER.replace("HELD", str(premises.folder / "held"))
    )
    switch(premises, "painter")
    (premises.folder / "photo.png").write_bytes(picture())
    folder = premises.folder / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(picture())
    (folder / "3.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no image")


@pytest.fixture
def painting(premises: Premises) -> Premises:
    """Premises where that model is active, and which nobody serves."""
    paint(premises)
    return premises


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """The same, served to every test that leaves the station as it is."""
    with open_premises(tmp_path_factory.mktemp("ask")) as premises:
        paint(premises)
        with serving(premises):
            yield premises


def test_without_a_station_the_model_is_started_for_the_command(painting: Premises) -> None:
    """It says so, answers, and leaves no station behind."""
    done = run(painting, "caption", "photo.png")
    assert done.returncode == 0
    assert done.stdout == f"normal caption of {len(picture())} bytes\n"
    assert done.stderr == "No station is serving; painter is started for this command alone.\n"
    assert not painting.home.station.exists()


def test_without_a_model_it_says_what_to_type(premises: Premises) -> None:
    """Nothing is started for it."""
    (premises.folder / "photo.png").write_bytes(picture())
    done = run(premises, "caption", "photo.png")
    assert done.returncode == 1
    assert "No model is active." in done.stderr
    assert "moondream-station switch MODEL" in done.stderr


@pytest.mark.own_process
def test_answers_for_people(served: Premises) -> None:
    """A text as it is, findings in lines, the names where there are several."""
    assert run(served, "caption", "--length", "short", "photo.png").stdout.startswith("short caption of")
    assert run(served, "query", "photo.png", "How many?").stdout.startswith("How many? ")
    assert run(served, "detect", "photo.png", "dog").stdout.splitlines() == [
        "1 found",
        "  x_min 0.250, y_min 0.250, x_max 0.750, y_max 0.750",
    ]
    assert run(served, "detect", "photo.png", "cat").stdout == "none found\n"
    assert run(served, "point", "photo.png", "dog").stdout.splitlines()[1] == "  x 0.500, y 0.500"
    several = run(served, "query", "photo.png", "photos/0.png", "Why?").stdout.splitlines()
    assert [line.partition(": ")[0] for line in several] == ["photo.png", "photos/0.png"]


def test_an_answer_comes_as_it_is_made(served: Premises) -> None:
    """Its first word is there while the model still works on the rest."""
    held = served.folder / "held"
    held.touch()
    with started(served, "query", "photo.png", "Slowly?") as asking:
        assert asking.stdout is not None
        assert asking.stdout.read(6) == "first "
        held.unlink()
        assert asking.stdout.read() == "last\n"
        assert asking.wait(60) == 0


@pytest.mark.own_process
def test_any_function_with_any_argument(served: Premises) -> None:
    """Values are JSON, else text; an image is a word, or the argument that functions have for it."""
    assert run_json(served, "infer", "add", "one=1", "other=2") == {"image": "", "sum": 3, "error": None}
    assert run_json(served, "infer", "add", "one=a", 'other="b"')["sum"] == "ab"
    for words in (["photo.png"], ["image_url=photo.png"], ["image=photo.png"]):
        answer = run_json(served, "infer", "caption", *words, "length=short")
        assert answer == {
            "image": "photo.png",
            "caption": f"short caption of {len(picture())} bytes",
            "error": None,
        }
    for words in (["query", "question=NaN"], ["query", "question=NaN", "stream=true"]):
        assert run_json(served, "infer", *words, "photo.png")["answer"] == f"NaN {len(picture())}"


def test_images_by_every_name(served: Premises) -> None:
    """A folder's images, a pattern, stdin, and a URL that the command reads."""
    names = [
        json.loads(line)["image"] for line in run(served, "caption", "photos", "--json").stdout.splitlines()
    ]
    assert names == [f"photos/{number}.png" for number in range(5)]
    pattern = run(served, "caption", "photos/[01].png", "--json").stdout.splitlines()
    assert [json.loads(line)["image"] for line in pattern] == ["photos/0.png", "photos/1.png"]
    piped = subprocess.run(
        command("caption", "-"), env=served.environ, input=picture(), capture_output=True, check=True
    )
    assert piped.stdout.startswith(b"normal caption of")
    (served.folder / "files").mkdir()
    (served.folder / "files" / "a.png").write_bytes(picture())
    with file_server(served.folder / "files") as address:
        url = f"{address}/a.png?token=secret"
        assert run_json(served, "caption", url)["image"] == url
        gone = run(served, "caption", f"{address}/b.png?token=secret")
        (served.folder / "files" / "empty.png").touch()
        empty = run(served, "caption", f"{address}/empty.png")
        secret = address.replace("//", "//me:secret@")
        two = run(served, "detect", f"{secret}/a.png", f"{secret}?token=secret", "dog", "--save", "drawn")
    assert empty.stderr == f"error: {address}/empty.png is empty\n"
    assert two.stdout.startswith(f"{address}/a.png: 1 found\n")
    assert "secret" not in two.stdout + two.stderr
    assert gone.returncode == 1
    assert gone.stderr == f"error: {address}/b.png answered with status 404\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["caption", "nowhere.png"], "There is no file nowhere.png."),
        (["caption", "nowhere/*.png"], "No file matches nowhere/*.png."),
        (["caption", "empty"], "The folder empty has no images."),
        (["caption", ""], "An image's name is empty."),
        (["infer", "caption", "image_url="], "An image's name is empty."),
        (["caption", "~nobody-of-this-name/photo.png"], "There is no file ~nobody-of-this-name/photo.png."),
        (["caption", "x" * 300], f"{'x' * 300} can't be read: File name too long."),
        (["query", "photo.png", "\udcff"], "What is asked holds bytes that are not UTF-8."),
        (["infer", "station/cancel"], "'station/cancel' can't be the name of a function."),
        (["query", "photo.png"], "query needs an image and, last, the question."),
        (["detect", "photo.png"], "detect needs an image and, last, what to find."),
    ],
)
def test_a_word_that_names_no_image_asks_nothing(premises: Premises, words: list[str], text: str) -> None:
    """Exit code 2, before any station is looked for."""
    (premises.folder / "empty").mkdir()
    (premises.folder / "photo.png").write_bytes(picture())
    done = run(premises, *words)
    assert done.returncode == 2
    assert f"error: {text}\n" in done.stderr


def test_failures_of_single_images_are_told_and_counted(served: Premises) -> None:
    """The others are answered; in JSON the failed one has its error on its line."""
    done = run(served, "caption", "photos")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr.splitlines() == [
        "error: photos/3.png can't be read as an image",
        "4 of 5 images answered, 1 failed.",
    ]
    alone = run(served, "caption", "photos/3.png")
    assert (alone.returncode, alone.stderr) == (1, "error: photos/3.png can't be read as an image\n")
    lines = [json.loads(line) for line in run(served, "caption", "photos", "--json").stdout.splitlines()]
    assert [line["error"] and line["error"]["code"] for line in lines] == [
        None,
        None,
        None,
        "argument-invalid",
        None,
    ]


def test_what_fails_for_every_image_ends_the_command(served: Premises) -> None:
    """A function that the model lacks, a wrong argument: said once."""
    unknown = run(served, "infer", "juggle", "photos")
    assert unknown.returncode == 1
    assert unknown.stderr.count("error:") == 1
    assert "It has: add, caption, detect, point, query, segment" in unknown.stderr
    wrong = run(served, "caption", "photos", "--length", "endless")
    assert wrong.returncode == 1
    assert wrong.stderr.count("length must be short or normal") == 1


def test_findings_are_drawn_into_copies(served: Premises) -> None:
    """Boxes, points and masks; the image itself stays, and images of one name don't replace each other."""
    before = (served.folder / "photo.png").read_bytes()
    (served.folder / "more").mkdir()
    (served.folder / "more" / "photo.png").write_bytes(picture())
    done = run(served, "detect", "photo.png", "more/photo.png", "dog", "--save", "findings")
    assert done.returncode == 0
    drawn = served.folder / "findings"
    assert sorted(path.name for path in drawn.iterdir()) == ["photo-detect-2.png", "photo-detect.png"]
    assert f"Saved {drawn / 'photo-detect.png'}" in done.stderr
    with Image.open(drawn / "photo-detect.png") as image:
        assert (image.size, image.getpixel((10, 10)), image.getpixel((2, 2))) == (
            (40, 20),
            (230, 57, 70),
            (255, 255, 255),
        )
    run(served, "point", "photo.png", "dog", "--save", "findings")
    with Image.open(drawn / "photo-point.png") as image:
        assert image.getpixel((20, 10)) == (230, 57, 70)
    run(served, "segment", "photo.png", "dog", "--save", "findings")
    with Image.open(drawn / "photo-segment.png") as image:
        assert image.getpixel((5, 10)) == (255, 255, 255)
        assert image.getpixel((30, 10)) not in {(255, 255, 255), (230, 57, 70)}  # seen through the mask
    assert (
        "Nothing to draw for photo.png"
        in run(served, "detect", "photo.png", "cat", "--save", "findings").stderr
    )
    assert (served.folder / "photo.png").read_bytes() == before


def test_a_copy_replaces_no_image_and_a_bad_folder_is_named(served: Premises) -> None:
    """Where an image has the copy's name, the copy gets another; nothing is said about the home."""
    (served.folder / "photo-detect.png").write_bytes(picture())
    done = run(served, "detect", "photo.png", "photo-detect.png", "dog", "--save", ".")
    assert done.returncode == 0
    assert (served.folder / "photo-detect.png").read_bytes() == picture()
    assert (served.folder / "photo-detect-2.png").exists()
    failed = run(served, "detect", "photo.png", "dog", "--save", "photo.png")
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        f"error: {served.folder / 'photo.png'} can't be used: File exists.",
        "  hint: Give --save a folder that can be written to.",
    ]


def test_what_only_is_named_like_an_image_is_left_out_of_a_folder(served: Premises) -> None:
    """A link to nothing, a folder, a FIFO, which could block for ever."""
    folder = served.folder / "mixed"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture())
    (folder / "b.png").symlink_to("nowhere")
    (folder / "c.png").mkdir()
    make_fifo(folder / "d.png")
    assert run_json(served, "caption", "mixed")["image"] == "mixed/a.png"


@pytest.mark.parametrize("how", ["exec <&-", "exec </dev/null"])
def test_stdin_without_an_image_is_empty(served: Premises, how: str) -> None:
    """Closed or at its end."""
    words = ["sh", "-c", f'{how}; exec "$@"', "sh", *command("caption", "-")]
    done = subprocess.run(words, env=served.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdin is empty\n")


def test_going_on_with_a_damaged_memory(painting: Premises) -> None:
    """A line that was cut off is no answer and spoils none; what is no file is said to be in the way."""
    with serving(painting):
        words = ["caption", "photo.png", "photos/0.png"]
        assert run(painting, *words).returncode == 0
        (memory,) = painting.home.cache.glob("asked-*")
        memory.write_bytes(b"\xff[half")
        assert "2 of 2 images answered." in run(painting, *words, "--continue").stderr
        assert "0 of 2 images answered, 2 were answered before." in run(painting, *words, "--continue").stderr
        memory.unlink()
        memory.mkdir()
        blocked = run(painting, *words, "--continue")
        assert blocked.returncode == 1
        assert f"error: {memory} can't be used" in blocked.stderr


@pytest.mark.parametrize("name", ["-", "fifo"])
def test_ctrl_c_ends_the_wait_for_an_image(served: Premises, name: str) -> None:
    """Although nothing may ever come."""
    fifo = served.folder / "fifo"
    if not fifo.exists():
        make_fifo(fifo)
    with os.fdopen(os.open(fifo, os.O_RDWR), "wb", buffering=0) as kept_open:
        kept_open.write(b"the beginning")
        with subprocess.Popen(
            command("caption", name, "photo.png"),
            env=served.environ,
            cwd=served.folder,
            stdin=kept_open if name == "-" else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            wait_until(lambda: not bytes_in(kept_open))  # it was read
            os.kill(asking.pid, signal.SIGINT)
            assert asking.wait(30) == 130
            assert asking.stderr is not None
            assert asking.stderr.read().startswith("0 of 2 images answered.")


def test_ctrl_c_keeps_what_is_done_and_continue_goes_on(painting: Premises) -> None:
    """Only what has no answer yet, or has changed since, is asked about again."""
    held = painting.folder / "held"
    with serving(painting):
        first = run(painting, "caption", "photos/0.png", "photos/1.png")
        assert first.returncode == 0
        again = run(painting, "caption", "photos", "--continue")
        assert len(again.stdout.splitlines()) == 2  # 2 and 4; 3 fails
        assert "2 of 5 images answered, 2 were answered before, 1 failed." in again.stderr
        held.touch()
        with started(painting, "caption", "photos/0.png", "photos/1.png") as asking:
            wait_until(lambda: run_json(painting, "status")["calls"])
            os.kill(asking.pid, signal.SIGINT)
            assert asking.wait(60) == 130
            assert asking.stdout is not None
            assert asking.stderr is not None
            assert asking.stdout.read() == ""
            assert (
                asking.stderr.read()
                == "0 of 2 images answered. 2 are left: the same command with --continue goes on.\n"
            )
        held.unlink()
        assert run(painting, "caption", "photos/0.png").returncode == 0  # the worker is free


def test_another_model_is_switched_to_first(painting: Premises) -> None:
    """What that takes is shown on stderr; stdout has the answer alone."""
    painting.add_model("other", requirements="", source=PAINTER.replace(' bytes"', ' bytes, the other says"'))
    with serving(painting):
        done = run(painting, "caption", "photo.png", "--model", "other")
        assert done.stdout == f"normal caption of {len(picture())} bytes, the other says\n"
        assert "other is active" in done.stderr
        assert "is active" not in run(painting, "caption", "photo.png", "--model", "other").stderr


def test_a_switch_that_fails_is_an_error_in_json_too(painting: Premises) -> None:
    """On stdout, while what the switch took is on stderr."""
    painting.add_model("broken", requirements="", source="raise ValueError('no')")
    with serving(painting):
        done = run(painting, "caption", "photo.png", "--model", "broken", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"]


def test_ctrl_c_after_a_switch(painting: Premises) -> None:
    """It ends the command as without one."""
    painting.add_model(
        "other", requirements="", source=PAINTER.replace("HELD", str(painting.folder / "held"))
    )
    with serving(painting):
        (painting.folder / "held").touch()
        with started(painting, "caption", "photo.png", "--model", "other") as asking:
            wait_until(lambda: run_json(painting, "status")["calls"])
            os.kill(asking.pid, signal.SIGINT)
            assert asking.wait(30) == 130


def test_an_image_larger_than_a_request_is_refused_here(served: Premises, tmp_path: Path) -> None:
    """Before it is sent anywhere; an empty one too."""
    for name, size in (("huge.png", 25 << 20), ("empty.png", 0)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert "larger than 24 MiB" in run(served, "caption", str(tmp_path / "huge.png")).stderr
    assert "is empty" in run(served, "caption", str(tmp_path / "empty.png")).stderr


def test_a_full_queue_is_waited_for(painting: Premises) -> None:
    """It is no failure of the image."""
    (painting.home.root / "config.json").write_text('{"inference_max_queue_size": 1}')
    held = painting.folder / "held"
    held.touch()
    with serving(painting) as station, ExitStack() as stack:
        asking = [stack.enter_context(started(painting, "caption", "photo.png")) for _ in range(4)]
        wait_until(lambda: station.get("/v1/stats")["queue_size"] == 1)
        with pytest.raises(subprocess.TimeoutExpired):
            asking[-1].wait(3)
        assert [process.poll() for process in asking] == [None] * 4  # none was refused
        held.unlink()
        assert [process.wait(60) for process in asking] == [0] * 4


def test_two_at_once_share_the_model_that_is_started(painting: Premises) -> None:
    """Whoever comes second asks the first one's, and goes on by itself where that has ended."""
    held = painting.folder / "held"
    held.touch()
    with started(painting, "caption", "photo.png") as first:
        wait_until(painting.home.station.exists)
        with started(painting, "caption", "photos") as second:
            assert second.stdout is not None
            held.unlink()
            assert len(second.stdout.readlines()) == 4
            assert second.wait(_END_SECONDS) == 1  # one of them is broken
        assert first.stdout is not None
        assert first.stdout.read().startswith("normal caption")
        assert first.wait(_END_SECONDS) == 0


def test_going_on_is_with_the_same_model_into_the_same_folder(painting: Premises) -> None:
    """Answers of another model, and copies in another folder, are not those that were asked for."""
    words = ("detect", "photos", "dog", "--continue")
    assert "5 of 5 images answered" in run(painting, *words).stderr
    assert "5 were answered before" in run(painting, *words).stderr
    assert "4 of 5 images answered" in run(painting, *words, "--save", "drawn").stderr
    assert "4 were answered before" in run(painting, *words, "--save", "drawn").stderr
    source = (painting.folder / "backends" / "painter" / "backend.py").read_text()
    painting.add_model("other", requirements="", source=source)
    switch(painting, "other")
    assert "5 of 5 images answered" in run(painting, *words).stderr


def test_the_password_of_an_url_is_not_printed(served: Premises) -> None:
    """Nor kept for going on."""
    url = "http://me:S3CRET@127.0.0.1:9/photo.png"
    done = run(served, "caption", url, url, "--json")
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [
        "http://127.0.0.1:9/photo.png"
    ] * 2
    assert "S3CRET" not in done.stdout + done.stderr
    assert not any(b"S3CRET" in path.read_bytes() for path in served.home.cache.glob("asked-*"))
