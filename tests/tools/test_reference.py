"""Generating docs/reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.reference.__main__ import differences, main, write


def test_what_differs_is_named_and_written(tmp_path: Path) -> None:
    """Missing, changed and left-over files fail the check; writing repairs all of them."""
    main(["--write", str(tmp_path)])
    main(["--check", str(tmp_path)])
    (tmp_path / "schemas" / "plan.json").unlink()
    (tmp_path / "schemas" / "left-over.json").touch()
    (tmp_path / "errors.md").unlink()
    pages = ["commands.md", "events.md", "routes.md", "settings.md"]
    for name in pages:
        (tmp_path / name).write_text("old", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["--check", str(tmp_path)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "schemas/left-over.json is left over"
    assert lines[-1] == "Update them with --write."
    assert set(lines[1:-1]) == {
        "schemas/plan.json is missing",
        "errors.md is missing",
        *(f"{name} is out of date" for name in pages),
    }
    write(tmp_path)
    assert differences(tmp_path) == []
