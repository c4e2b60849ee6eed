"""What is active, as the home records it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moondream_station.core.facts.errors import HomeUnusable
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home

_NAMING = (
    '{"format": "moondream-station/active/1", "models":'
    ' {"m": {"environment": "01234567-89ab", "previous": "NAME", "request_key": "k"}}}'
)
_NEWER = '{"format": "moondream-station/active/9"}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_NEWER, "a newer version of Moondream Station wrote it (moondream-station/active/9)"),
        (
            '{"format": "moondream-station/active/1", "models": {"m": {"environment": 3}}}',
            "models.m.environment: Input should be a valid string",
        ),
        (
            '{"format": "moondream-station/active/1", "model": "m"}',
            "it names m as active, but no environment for it",
        ),
        *(
            (
                _NAMING.replace("NAME", name),
                f"it names the environment '{name}'; a name looks like 0123abcd-4567",
            )
            for name in ("../../etc", "/etc", "a/b", "", ".", "01234567-89ab/..")
        ),
        ("[]", "its format is not moondream-station/active/1"),
        ("{", "it is not JSON"),
    ],
)
def test_what_can_not_be_used_is_said_in_one_line(tmp_path: Path, content: str, reason: str) -> None:
    """Not in the many lines of a validator."""
    home = Home(tmp_path)
    home.active.write_text(content)
    with pytest.raises(HomeUnusable) as caught:
        read_active(home)
    assert f"active.json can't be used: {reason}" in caught.value.message
    assert "\n" not in caught.value.message
    assert "pydantic" not in caught.value.message
    assert caught.value.message.endswith(".")


def test_the_reason_of_the_system_is_said_alone(tmp_path: Path) -> None:
    """Without its number, and without the path again."""
    home = Home(tmp_path)
    home.active.mkdir()
    with pytest.raises(HomeUnusable, match=r"active\.json can't be used: it is a folder, not a file\.$"):
        read_active(home)
