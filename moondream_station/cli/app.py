"""The commands and their options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from moondream_station.cli import completions
from moondream_station.console.interrupts import DONE
from moondream_station.console.output import print_text
from moondream_station.core.facts.errors import UsageError
from moondream_station.core.facts.version import VERSION

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _named(model: str | None) -> str | None:
    """A model as it is named; an empty name, as an unset variable leaves it, names none."""
    if model is not None and not model.strip():
        raise UsageError("The model's name is empty.", hint="`moondream-station models` lists the models.")
    return model


_MODEL: Any = {"metavar": "MODEL", "callback": _named, "autocompletion": completions.models}
_INSTALLED: Any = _MODEL | {"autocompletion": completions.installed}
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-s",
        metavar="auto|guide|BUILD",
        autocompletion=completions.strategies,
        help="How to choose the PyTorch build.",
    ),
]
MachineFile = Annotated[
    Path | None,
    typer.Option("--machine", metavar="FILE", help="Use this machine record instead of this computer."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Disable network access; use the bundled catalog.")]
Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="A file, a folder, a pattern, - for stdin, or an http(s) URL."),
]
ImagesAndText = Annotated[
    list[str], typer.Argument(metavar="IMAGE... TEXT", help="Images as for caption, and last what to ask.")
]
ImagesAndObject = Annotated[
    list[str], typer.Argument(metavar="IMAGE... OBJECT", help="Images as for caption, and last what to find.")
]
AskedModel = Annotated[
    str | None,
    typer.Option("--model", help="Switch to this model first, if it is not active.", **_MODEL),
]
GoesOn = Annotated[
    bool, typer.Option("--continue", help="Leave out the images that an earlier run of this has answered.")
]
Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="FOLDER", help="Draw what is found into copies of the images, there."),
]


@app.callback(invoke_without_command=True)
def station(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_json: Json = False,
) -> int:
    """Serve vision-language models on your own computer. Without a command: the interactive prompt."""
    if version:
        print_text(f"moondream-station {VERSION}", {"version": VERSION}, as_json=as_json)
        raise typer.Exit(DONE)
    if context.invoked_subcommand is not None:
        if as_json:  # `moondream-station --json COMMAND` means `COMMAND --json`
            context.default_map = {context.invoked_subcommand: {"as_json": True}}
        return DONE
    if not sys.stdin.isatty():
        raise UsageError(
            "The prompt needs a terminal, and stdin is not one.",
            hint="Run `moondream-station serve` to serve without a prompt.",
        )
    from moondream_station.cli.prompt import run_prompt  # noqa: PLC0415

    names = frozenset(info.name or "" for info in app.registered_commands)
    raise typer.Exit(run_prompt(context.obj, names))


def _works_in(module: str, **context: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that declares its options here; its work, `run_NAME` with the same arguments, is in a module.

    That is imported when the command is called, so that help is quick.
    """

    def registered(declared: Callable[..., None]) -> Callable[..., None]:
        @app.command(declared.__name__, context_settings=context)
        @wraps(declared)
        def call(**arguments: Any) -> Any:
            work = import_module(f"moondream_station.cli.{module}")
            return getattr(work, f"run_{declared.__name__}")(**arguments)

        return declared

    return registered


@_works_in("serve")
def serve(
    *,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Switch to this model first.", **_MODEL),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also accept this name in the Host header.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the active model over HTTP, until SIGINT or SIGTERM."""


@_works_in("status")
def models(*, as_json: Json = False) -> None:
    """List the manifest's models."""


@_works_in("activate")
def switch(
    model: Annotated[
        str,
        typer.Argument(help="The model to activate.", **_MODEL),
    ],
    *,
    strategy: Strategy = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Resolve again, even if it is installed.")
    ] = False,
    python: Annotated[
        Path | None, typer.Option("--python", metavar="PATH", help="Python interpreter for the environment.")
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Go on even if the model does not fit this machine, or the hub does not give its weights.",
        ),
    ] = False,
    accept_notice: Annotated[
        bool, typer.Option("--accept-notice", help="Accept the model's notice, if it has one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Install, verify and activate a model."""


@_works_in("ask")
def caption(
    images: Images,
    *,
    length: Annotated[
        str | None, typer.Option("--length", metavar="LENGTH", help="short, normal or long.")
    ] = None,
    model: AskedModel = None,
    goes_on: GoesOn = False,
    as_json: Json = False,
) -> None:
    """Describe images."""


@_works_in("ask")
def query(
    words: ImagesAndText, *, model: AskedModel = None, goes_on: GoesOn = False, as_json: Json = False
) -> None:
    """Ask a question about images."""


def _declare_finding(name: str, help_text: str) -> None:
    """Declare one of the commands that look for an object in images."""

    def declared(
        words: ImagesAndObject,
        *,
        save: Save = None,
        model: AskedModel = None,
        goes_on: GoesOn = False,
        as_json: Json = False,
    ) -> None:
        pass

    declared.__name__, declared.__doc__ = name, help_text
    _works_in("ask")(declared)


_declare_finding("detect", "Find objects in images, as boxes in fractions of width and height.")
_declare_finding("point", "Point at objects in images, in fractions of width and height.")
_declare_finding("segment", "Outline an object in images, where the model can.")


@_works_in("ask")
def infer(
    function: Annotated[
        str,
        typer.Argument(
            metavar="FUNCTION", autocompletion=completions.functions, help="A function of the active model."
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE|ARG=VALUE]...", help="Images, and arguments as JSON or text."),
    ] = None,
    *,
    save: Save = None,
    model: AskedModel = None,
    goes_on: GoesOn = False,
    as_json: Json = False,
) -> None:
    """Call any function of the active model."""


@_works_in("status")
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the active model and the running activation."""


@_works_in("mcp")
def mcp(
    *,
    folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder", metavar="FOLDER", help="Let agents name image files in this folder; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve an agent on stdin and stdout: the active model's functions as tools of MCP."""


@_works_in("housekeeping")
def cancel(*, as_json: Json = False) -> None:
    """Cancel the running activation, whichever process runs it."""


@_works_in("housekeeping")
def stop(*, as_json: Json = False) -> None:
    """End the worker and free its memory; the station goes on, and the next request starts it again."""


@_works_in("plan")
def plan(
    requirements: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REQUIREMENT]...", help="What to plan for; torch by default."),
    ] = None,
    *,
    requirement_files: Annotated[
        list[Path] | None,
        typer.Option(
            "-r", "--requirement", metavar="FILE", help="Plan for a requirements file; may be repeated."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Plan for a model's requirements.", **_MODEL),
    ] = None,
    machine: MachineFile = None,
    python: Annotated[
        str | None, typer.Option("--python", metavar="X.Y", help="Plan for this Python version.")
    ] = None,
    strategy: Strategy = None,
    offline: Offline = False,
    shows_all: Annotated[
        bool, typer.Option("--all", help="Show every build, also those for other machines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which PyTorch build would be installed, and why no other. Installs nothing."""


@_works_in("status", ignore_unknown_options=True)  # `set KEY -1`
def settings(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="set KEY VALUE",
            autocompletion=completions.settings,
            help="Change config.json, also with `unset KEY`; by default all settings are shown.",
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show the settings, or change one."""


@_works_in("logs")
def logs(
    model: Annotated[
        str | None,
        typer.Argument(
            help="The model; by default that of the last activation.", **_MODEL | {"metavar": "[MODEL]"}
        ),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is new until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the last activation's journal and the worker's last lines."""


@_works_in("housekeeping")
def rollback(
    model: Annotated[
        str,
        typer.Argument(help="The model to roll back.", **_INSTALLED),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Go back to a model's previous environment."""


@_works_in("housekeeping")
def remove(
    model: Annotated[
        str,
        typer.Argument(help="The model to remove.", **_INSTALLED),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Remove a model's environments."""


@_works_in("housekeeping")
def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old environments, downloads and caches that nothing refers to."""


@_works_in("doctor")
def doctor(
    *,
    offline: Offline = False,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Save what this computer answers as a machine record."),
    ] = None,
    machine: MachineFile = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired safely.")] = False,
    as_json: Json = False,
) -> None:
    """Check machine, driver, Python, torch, indexes, disk, environments and backends, with remedies."""
