"""`python -m tools.reference`: writes docs/reference from the code, or checks that it is up to date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from moondream_station.core.facts.codec import FACTS
from tools.reference.commands_page import commands_page
from tools.reference.errors_page import errors_page
from tools.reference.events_page import events_page
from tools.reference.routes_page import routes_page
from tools.reference.schemas import schemas
from tools.reference.settings_page import settings_page


def documents() -> dict[str, str]:
    """Everything that is generated: the text of each file by its path below docs/reference."""
    shapes = schemas()
    texts = {
        f"schemas/{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in shapes.items()
    }
    return texts | {
        "commands.md": commands_page(),
        "errors.md": errors_page(),
        "events.md": events_page([shapes[name] for name in FACTS], shapes["snapshot"]),
        "routes.md": routes_page(),
        "settings.md": settings_page(),
    }


def differences(folder: Path) -> list[str]:
    """How the files in a folder differ from the code, one sentence each."""
    current = documents()
    problems = [f"{name} is left over" for name in _left_over(folder, current)]
    for name, text in current.items():
        path = folder / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{name} is out of date")
    return problems


def write(folder: Path) -> None:
    """Write every file, and remove schemas of shapes that no longer exist."""
    current = documents()
    for name in _left_over(folder, current):
        (folder / name).unlink()
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    for name, text in current.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the reference, or exit with what differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="DIR", help="write the files to DIR")
    action.add_argument("--check", type=Path, metavar="DIR", help="fail if the files in DIR are out of date")
    options = parser.parse_args(arguments)
    if options.write is not None:
        write(options.write)
    elif problems := differences(options.check):
        sys.exit("\n".join([*problems, "Update them with --write."]))


def _left_over(folder: Path, current: dict[str, str]) -> list[str]:
    schema_files = {path.relative_to(folder).as_posix() for path in folder.glob("schemas/*.json")}
    return sorted(schema_files - current.keys())


if __name__ == "__main__":
    main()
