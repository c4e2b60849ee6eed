"""`settings`: what is set and where, and setting it."""

from __future__ import annotations

import json

import pytest

from support.commands import run, run_json
from support.stations import Premises


def test_settings_are_shown_with_their_place(premises: Premises) -> None:
    """A variable before config.json before the default; passwords of URLs are not shown."""
    premises.home.create()
    premises.home.config.write_text(json.dumps({"service_port": 2021, "strategy": "cpu"}))
    shown = run_json(premises, "settings")["settings"]
    assert shown["service_port"] == {"value": 2021, "origin": "config.json"}
    assert shown["service_host"] == {"value": "127.0.0.1", "origin": "default"}
    assert shown["manifest"]["origin"] == "MOONDREAM_STATION_MANIFEST"
    mirror = run(premises, "settings", MOONDREAM_STATION_TORCH_INDEX="https://me:S3CRET@mirror.example/whl")
    assert "https://mirror.example/whl" in mirror.stdout
    assert "S3CRET" not in mirror.stdout


def test_a_setting_is_set_and_unset(premises: Premises) -> None:
    """In its type, beside keys that nobody knows, in a file that others can't read."""
    assert run(premises, "settings", "set", "service_port", "2021").stdout == "service_port is 2021.\n"
    config = premises.home.config
    assert config.stat().st_mode & 0o777 == 0o600
    config.write_text(json.dumps(json.loads(config.read_text()) | {"of_another_version": [1]}))
    done = run(premises, "settings", "set", "manifest", "m.json")
    assert "MOONDREAM_STATION_MANIFEST is set, and overrides it" in done.stderr
    known = {"service_port": 2021, "of_another_version": [1], "manifest": "m.json"}
    assert json.loads(config.read_text()) == known
    folders = run(premises, "settings", "set", "mcp_folders", "/srv/a:/srv/b").stdout
    assert folders == "mcp_folders is /srv/a:/srv/b.\n"
    assert json.loads(config.read_text())["mcp_folders"] == ["/srv/a", "/srv/b"]
    assert run(premises, "settings", "unset", "service_port").returncode == 0
    assert "service_port" not in json.loads(config.read_text())


def test_a_wrong_file_can_be_set_right(premises: Premises) -> None:
    """Setting reads no other setting."""
    premises.home.create()
    premises.home.config.write_text(json.dumps({"service_port": 70000}))
    assert run_json(premises, "settings")["error"]["code"] == "settings-invalid"
    assert run(premises, "settings", "set", "service_port", "2020").returncode == 0
    assert run(premises, "settings").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set", "service_port", "70000"], "must be a whole number from 0 to 65535"),
        (["set", "service_port", "-1"], "must be a whole number"),
        (["set", "servce_port", "1"], "There is no setting"),
        (["set", "strategy", "cu9"], "Unknown strategy"),
        (["set", "log", "loud"], "not a log level"),
        (["set", "torch_index", "mirror"], "not an http:, https: or file: URL"),
        (["set", "manifest", ""], "manifest is empty"),
        (["set", "log"], "can't be run like this"),
        (["unset", "nothing"], "There is no setting"),
    ],
)
def test_what_cannot_be_set_is_refused(premises: Premises, words: list[str], message: str) -> None:
    """With exit code 2, and nothing is written."""
    done = run(premises, "settings", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not premises.home.config.exists()
