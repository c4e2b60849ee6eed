"""The reference of the command line, of errors, of HTTP routes and of settings, made from the code.

`python -m tools.reference.commands_page --write docs/reference` makes the pages, `--check
docs/reference` says whether they still fit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from moondream_station.cli.app import app
from tools.reference.errors_page import errors_page
from tools.reference.routes_page import routes_page
from tools.reference.settings_page import settings_page

_PROGRAM: Final = "moondream-station"
_HEAD: Final = """\
# Commands

Made from the code by `python -m tools.reference.commands_page --write docs/reference`; don't edit.

The program is `moondream-station`, also `python -m moondream_station`. Results go to stdout, logs and
progress to stderr. Every command takes `--help` and `--json`, the latter also before its name.

## Exit codes

| code | means |
|---|---|
| 0 | done; also `serve` after SIGINT or SIGTERM, and `doctor` with nothing worse than warnings |
| 1 | it failed; also an unknown model, `cancel` or `rollback` with nothing to act on, no build |
| 2 | the command line itself is wrong: nothing was done, and nothing published |
| 130 | cancelled: SIGINT, SIGTERM, SIGHUP, `cancel`, or another switch took its place |

With `--json` an error is one line on stdout, `{"error": {"code", "message", "hint"}}`
([error.json](schemas/error.json)); [errors](errors.md) lists the codes. Only `switch` ends with its
terminal event instead, once its activation has begun.
"""

_NOTES: Final[Mapping[str, str]] = {
    "": """\
Without a command it serves as `serve` does and reads commands: `switch MODEL [--strategy S]`,
`rollback MODEL`, `cancel`, `models`, `status`, `plan`, `help`, and `quit` (also Ctrl-D). Without a
terminal on stdin it ends with 2.
""",
    "serve": """\
The first line on stdout is `Moondream Station is serving on http://127.0.0.1:PORT`, printed when it
listens; with `--json` it is `{"address", "pid"}`. Without `--port` the next free port is taken where
the configured one is not free, 20 at most. A home is served by one station at a time. [HTTP](http.md)
says what it answers, and to whom.
""",
    "models": "With `--json`: [models.json](schemas/models.json).\n",
    "switch": """\
Where a station serves the same home, it does the switch and this command follows it; else the command
does it by itself, verifies with a worker, records the model as active, tells a station that began to
serve meanwhile, and ends. On a terminal it shows a live panel, elsewhere a line a step; with `--json`
one event a line ([events](events.md)), the terminal one last. Ctrl-C cancels; the one of a command that
joined a switch already under way leaves that alone.
""",
    "status": "With `--json`: [status.json](schemas/status.json); with `--watch` too, one line a change.\n",
    "cancel": 'With `--json`: `{"activation": ID}`.\n',
    "plan": """\
On this computer it asks what the indexes and folders of wheels really have, within 8 seconds. With
`--offline` or `--machine` it uses the [catalog](catalog.md) alone. With `--json`:
[plan.json](schemas/plan.json).
""",
    "logs": 'With `--json`: `{"activation", "model", "events", "notes", "worker"}`.\n',
    "rollback": """\
The environment is checked file by file, and torch must compute in it, before it is the model's again;
else everything stays as it is. The active model is then loaded from it, by the station where one
serves the same home: requests go on being answered. A second `rollback` returns. It fetches nothing.
With `--json`: `{"model", "environment", "previous", "build", "torch"}`.
""",
    "remove": """\
What it had on disk goes with the next `prune`. Refused for the model that a station serves now. With
`--json`: `{"model"}`.
""",
    "prune": """\
An environment stays while `active.json` names it or a process runs in it, and its wheels stay with it.
With `--json`: `{"removed": [{"path", "kind", "size_bytes"}], "size_bytes", "dry_run"}`.
""",
    "doctor": """\
`--record` writes a [machine record](schemas/machine.json) of what this computer answered; `--machine`
looks at one instead, without disk, network, environments and station. With `--json`:
[doctor.json](schemas/doctor.json).
""",
}
"""What the help does not say, by command."""


def commands_page() -> str:
    """The reference of the command line, as Markdown.

    Raises:
        ValueError: A note is about a command that does not exist.
    """
    group: Any = typer.main.get_command(app)
    if unknown := _NOTES.keys() - {"", *group.commands}:
        raise ValueError(f"there are notes about commands that do not exist: {sorted(unknown)}")
    parts = [_HEAD, _section("", group)]
    parts += [_section(name, command) for name, command in sorted(group.commands.items())]
    return "\n".join(parts)


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "commands.md": commands_page,
    "errors.md": errors_page,
    "routes.md": routes_page,
    "settings.md": settings_page,
}
"""What makes each page, by its name below docs/reference."""


def differences(folder: Path) -> list[str]:
    """Names of the pages in a folder that are not what the code says."""
    paths = {name: folder / name for name in PAGES}
    there = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
    return [name for name, page in PAGES.items() if there.get(name) != page()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages, or exit with what differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference.commands_page", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="DIR", help="make the pages in DIR")
    action.add_argument("--check", type=Path, metavar="DIR", help="fail where the pages in DIR differ")
    chosen = parser.parse_args(arguments)
    if chosen.write is not None:
        for name, page in PAGES.items():
            (chosen.write / name).write_text(page(), encoding="utf-8", newline="\n")
    elif wrong := differences(chosen.check):
        sys.exit(f"Not what the code says: {', '.join(wrong)}. Make them anew with --write.")


def _section(name: str, command: Any) -> str:
    title = f"{_PROGRAM} {name}".strip()
    heading = "## Without a command" if not name else f"## {name}"
    own = [one for one in command.params if not _is_everywhere(one)]
    usage = " ".join([title, *map(_bracketed, own)])
    parts = [heading, "", command.help, "", f"    {usage}", ""]
    if own:
        parts += ["| option | means |", "|---|---|"]
        parts += [f"| {_names(one)} | {one.help} |" for one in own]
        parts.append("")
    if note := _NOTES.get(name):
        parts.append(note)
    return "\n".join(parts)


def _bracketed(one: Any) -> str:
    if one.param_type_name == "argument":
        name = str(one.metavar)
        return name if one.required or name.startswith("[") else f"[{name}]"
    text = " ".join([max(one.opts, key=len), *_value(one)])
    return f"[{text}]{'…' if one.multiple else ''}"


def _names(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{str(one.metavar).strip('[].')}`"
    names = ", ".join(f"`{name}`" for name in sorted(one.opts, key=len))
    return " ".join([names, *(f"`{value}`" for value in _value(one))]).replace("|", "\\|")


def _value(one: Any) -> list[str]:
    return [] if one.is_flag else [str(one.metavar)]


def _is_everywhere(one: Any) -> bool:
    return bool(one.name == "as_json")


if __name__ == "__main__":
    main()
