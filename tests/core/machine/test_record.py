"""Machine records: read strictly, written as they were asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.machine import PlatformFacts
from moondream_station.core.machine.record import LIMIT_BYTES, MachineRecord, load_record, record_from_json
from support.machines import LINUX, answer, nvidia_linux

SMALLEST: dict[str, Any] = {
    "format": "moondream-station/machine/1",
    "platform": {"system": "Linux", "release": "6.8.0", "machine": "x86_64", "python": "3.12.3"},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The smallest record with one thing put in it."""
    data: dict[str, Any] = json.loads(json.dumps(SMALLEST))
    *parents, last = path.split("/")
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


def test_a_record_is_read_as_the_contract_shows_it(tmp_path: Path) -> None:
    """Every key of the documented format arrives where it belongs."""
    data = {
        "format": "moondream-station/machine/1",
        "platform": {
            "system": "Linux",
            "release": "6.8.0-45-generic",
            "version": "#45-Ubuntu SMP",
            "machine": "x86_64",
            "mac_ver": "",
            "libc": ["glibc", "2.39"],
            "python": "3.12.3",
            "in_rosetta": None,
        },
        "env": {"CUDA_VISIBLE_DEVICES": "0"},
        "commands": [
            {
                "argv": ["nvidia-smi"],
                "returncode": 0,
                "stdout": "text",
                "stderr": "",
                "seconds": 0.4,
                "timed_out": False,
            }
        ],
        "files": {"/proc/driver/nvidia/version": "text"},
        "directories": {"/sys/bus/pci/devices": ["0000:01:00.0"]},
        "unreadable": {"/dev/kfd": "permission denied"},
    }
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    record = load_record(path)
    assert record.platform == PlatformFacts(
        system="Linux",
        release="6.8.0-45-generic",
        version="#45-Ubuntu SMP",
        machine="x86_64",
        libc=("glibc", "2.39"),
        python="3.12.3",
    )
    assert record.env == {"CUDA_VISIBLE_DEVICES": "0"}
    assert [result.argv for result in record.commands] == [("nvidia-smi",)]
    assert record.directories == {"/sys/bus/pci/devices": ("0000:01:00.0",)}
    assert json.loads(json.dumps(record.to_json())) == data


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    record = nvidia_linux(env={"CUDA_VISIBLE_DEVICES": "0"})
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(record.to_json()), encoding="utf-8")
    assert load_record(path) == record


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    """Editors on Windows put one before the text."""
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(SMALLEST), encoding="utf-8-sig")
    assert load_record(path).platform.python == "3.12.3"


def test_what_newer_records_carry_is_ignored() -> None:
    """Keys that are not known do not make a record unreadable."""
    data = changed("platform/colour", "green")
    data["later"] = 1
    assert record_from_json(data).platform.system == "Linux"


def test_what_is_unknown_may_be_null() -> None:
    """As everywhere: the libc that there is none of, the exit status and output of what was killed."""
    data = changed("platform/libc", None)
    data["commands"] = [
        {"argv": ["nvidia-smi"], "returncode": None, "stdout": None, "stderr": None, "timed_out": True}
    ]
    data["env"] = None
    data["files"] = {"/proc/driver/nvidia/version": None}
    data["directories"] = {"/sys/class/kfd/kfd/topology/nodes": None}
    record = record_from_json(data)
    assert (record.files, record.directories) == ({}, {})
    assert record_from_json(changed("env", {"CUDA_VISIBLE_DEVICES": None})).env == {}
    assert record.platform.libc == ("", "")
    assert record_from_json(changed("platform/libc", [])).platform.libc == ("", "")
    assert (record.commands[0].timed_out, record.commands[0].stdout) == (True, "")
    assert record.env == {}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "moondream-station/machine/2", '"format" is not'),
        ("platform", None, '"platform": field required'),
        ("platform", 3, '"platform": input should be'),
        ("platform/system", 3, '"platform.system": input should be a valid string'),
        ("platform/python", "three", '"platform.python" is not a version'),
        ("platform/libc", ["glibc"], '"platform.libc[1]": field required'),
        ("platform/in_rosetta", "yes", '"platform.in_rosetta": input should be a valid boolean'),
        ("env", [], '"env": input should be an object'),
        ("env", {"CUDA_VISIBLE_DEVICES": 0}, "should be a valid string"),
        ("commands", {}, '"commands": input should be a valid'),
        (
            "commands",
            [{"argv": "nvidia-smi", "returncode": 0}],
            '"commands[0].argv": input should be',
        ),
        ("commands", [{"argv": [], "returncode": 0}], '"commands[0].argv" is empty'),
        ("commands", [{"argv": ["a"], "returncode": True}], '"commands[0].returncode": input should be'),
        ("commands", [{"argv": ["a"], "returncode": None}], '"commands[0].returncode": field required'),
        ("commands", [{"argv": ["a"], "returncode": 0, "stdout": 3}], "should be a valid string"),
        ("commands", [{"argv": ["a"], "returncode": 0, "seconds": -1}], '"commands[0].seconds" is negative'),
        ("commands", [{"argv": ["a"], "returncode": 0, "seconds": 10**400}], '"commands[0].seconds": input'),
        ("commands", [{"argv": ["a"], "returncode": 0, "timed_out": 0}], "should be a valid boolean"),
        ("files", {"/a": 1}, "should be a valid string"),
        ("directories", {"/a": "b"}, "should be a valid"),
        ("directories", {"/a": [1]}, "should be a valid string"),
        ("unreadable", {"/a": None}, "should be a valid string"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, path: str, value: Any, said: str) -> None:
    """A file that is no record is a usage error that names the place."""
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(changed(path, value)), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_record(file)
    assert said in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"a": NaN}'])
def test_what_is_no_json_is_said(tmp_path: Path, content: bytes) -> None:
    """Whatever the file holds, the answer is a usage error."""
    file = tmp_path / "machine.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is not a machine record"):
        load_record(file)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """A file that does not exist is a usage error."""
    with pytest.raises(UsageError, match="can't be read: no such file"):
        load_record(tmp_path / "none.json")


def test_a_file_without_end_is_not_read_whole(tmp_path: Path) -> None:
    """A file larger than any record is refused for its size."""
    file = tmp_path / "machine.json"
    with file.open("wb") as opened:
        opened.truncate(LIMIT_BYTES + 1)
    with pytest.raises(UsageError, match="longer than 32 MiB"):
        load_record(file)


@given(st.dictionaries(st.sampled_from(["platform", "env", "commands", "files", "directories"]), JSON))
def test_no_content_breaks_the_reader(parts: dict[str, Any]) -> None:
    """Any JSON is either a record or a ValueError."""
    try:
        record = record_from_json({**SMALLEST, **parts})
    except ValueError:
        return
    assert isinstance(record, MachineRecord)


def test_an_unremarkable_record_has_no_unreadable_part() -> None:
    """The optional part is left out where it is empty."""
    record = MachineRecord(platform=LINUX, commands=(answer("nvcc", "--version"),))
    assert "unreadable" not in record.to_json()
