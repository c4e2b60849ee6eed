"""Settings: flag before variable before config.json before default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import load_settings


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that exists."""
    home = Home(tmp_path)
    home.create()
    return home


def test_order_of_precedence(home: Home) -> None:
    """Each source gives way to the one before it."""
    assert load_settings(home, {}).strategy == "auto"
    home.config.write_text(json.dumps({"strategy": "cpu"}))
    assert load_settings(home, {}).strategy == "cpu"
    environ = {"MOONDREAM_STATION_STRATEGY": "guide"}
    assert load_settings(home, environ).strategy == "guide"
    assert load_settings(home, environ, strategy="cu126").strategy == "cu126"


def test_a_config_of_0_1_is_read_as_it_is(home: Home) -> None:
    """Its keys mean what they meant, and those that mean nothing here do no harm."""
    old = {
        "current_model": "moondream-2",
        "service_port": 2025,
        "models_dir": "~/models",
        "update_endpoint": "https://example.invalid",
        "service_host": "127.0.0.1",
        "auto_start": True,
        "log_level": "INFO",
        "inference_workers": 2,
        "inference_max_queue_size": 5,
        "inference_timeout": 60.0,
        "logging": True,
    }
    home.config.write_text(json.dumps(old))
    settings = load_settings(home, {})
    assert (settings.service_port, settings.inference_workers, settings.inference_timeout) == (2025, 2, 60.0)
    assert settings.current_model == "moondream-2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"service_port": 70000}', "service_port is 70000"),
        (
            '{"inference_workers": "many"}',
            "inference_workers is 'many'; it must be a whole number from 1 to 64",
        ),
        ('{"inference_workers": true}', "inference_workers is True"),
        ('{"keep_alive": -2}', "keep_alive is -2; it must be a number of at least -1"),
        ('{"keep_alive": "soon"}', "keep_alive is 'soon'"),
        ('{"access_log": "maybe"}', "access_log is 'maybe'; it must be true or false"),
        ('{"inference_workers": 1.5}', "inference_workers is 1.5"),
        ('{"inference_timeout": NaN}', "inference_timeout is nan; it must be a number"),
        ('{"inference_timeout": 1e400}', "inference_timeout is inf; it must be a number"),
        ('{"keep_alive": "inf"}', "keep_alive is 'inf'; it must be a number"),
        ('{"service_host": 5}', "service_host is 5; it must be text"),
    ],
)
def test_a_bad_config_names_file_key_and_value(home: Home, text: str, words: str) -> None:
    """The error says where the bad value stands, and nothing is written."""
    home.config.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(home, {})
    assert words in caught.value.message
    assert str(home.config) in caught.value.message
    assert home.config.read_text() == text


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("MOONDREAM_STATION_TORCH_INDEX", "mirror.example/whl", "'mirror.example/whl'"),
        ("MOONDREAM_STATION_TORCH_INDEX", "ftp://me:S3CRET@mirror.example/whl", "'ftp://mirror.example/whl'"),
        ("MOONDREAM_STATION_MANIFEST", "ftp://mirror.example/manifest.json", "mirror.example/manifest.json'"),
    ],
)
def test_a_place_that_nobody_can_fetch_is_a_wrong_setting(
    home: Home, variable: str, value: str, shown: str
) -> None:
    """It is said before anything is asked, and not as a fault of the network or of a file."""
    with pytest.raises(SettingsInvalid, match="not an http:, https: or file: URL") as caught:
        load_settings(home, {variable: value})
    assert shown in caught.value.message
    assert "S3CRET" not in caught.value.message


@pytest.mark.parametrize("value", ["manifest.json", "~/a:b/manifest.json", "file:///srv/manifest.json"])
def test_a_manifest_may_be_a_path(home: Home, value: str) -> None:
    """A colon does not make a URL of it."""
    assert load_settings(home, {"MOONDREAM_STATION_MANIFEST": value}).manifest == value
