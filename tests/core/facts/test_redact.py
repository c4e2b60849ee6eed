"""What is shown of a URL holds no secret."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.redact import (
    Credentials,
    credentials_in,
    redact_text,
    redact_url,
    without_credentials,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@index.example:8443/simple", "https://index.example:8443/simple"),
        ("https://token@index.example/simple/?sig=secret#secret", "https://index.example/simple/"),
        ("https://a:p@ss@index.example/simple", "https://index.example/simple"),
        ("file:///srv/wheels", "file:///srv/wheels"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_a_shown_url_has_no_secret(url: str, shown: str) -> None:
    """Credentials, query and fragment go; the rest stays readable."""
    assert redact_url(url) == shown


def test_a_tools_output_loses_its_secrets() -> None:
    """URLs in the middle of a text too."""
    text = "error: https://me:secret@a.example/x?token=secret and (http://tok@b.example/) failed: 'x@y'"
    assert redact_text(text) == "error: https://a.example/x and (http://b.example/) failed: 'x@y'"


@given(password=st.text(min_size=1, max_size=20))
def test_credentials_are_read_back_and_never_shown(password: str) -> None:
    """What was quoted into a URL comes out as it was, and not in what is shown."""
    url = f"https://me:{quote(password, safe='')}@index.example/simple"
    found = credentials_in(url)
    assert found == Credentials("me", password)
    assert repr(found) == "Credentials(…)"
    assert without_credentials(url) == redact_text(url) == "https://index.example/simple"


def test_a_url_without_credentials_has_none() -> None:
    """Neither an empty name nor an empty password is made up."""
    assert credentials_in("https://index.example/simple") is None
