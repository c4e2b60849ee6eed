"""One command line, from its words to its exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from moondream_station.console.interrupts import CANCELLED, DONE, FAILED, USAGE
from moondream_station.console.output import print_error, write
from moondream_station.core.facts.errors import ErrorInfo, OutputUnwritable, StationError, UsageError
from moondream_station.core.home.task_groups import as_raised


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name; prints its error, and returns the exit code."""
    as_json = "--json" in arguments
    try:
        with as_raised():
            code = _call(arguments, as_json=as_json)
    except StationError as error:
        is_stdout_lost = isinstance(error, OutputUnwritable)
        _print_error(error.info, as_json=as_json and not is_stdout_lost)
        return USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        return CANCELLED
    except BrokenPipeError:
        return FAILED  # nobody reads the result any more
    except Exception as error:  # noqa: BLE001  the boundary: a bug of ours is reported as one
        _print_error(_internal(error), as_json=as_json)
        return FAILED
    return code if isinstance(code, int) else DONE


def _call(arguments: Sequence[str], *, as_json: bool) -> object:
    """Call the command; `status` and `models` alone without the parser, which takes longer than they do."""
    words = [word for word in arguments if word != "--json"]
    if words in (["status"], ["models"]):
        from moondream_station.cli.status import run_models, run_status  # noqa: PLC0415

        return (
            run_models(as_json=as_json) if words == ["models"] else run_status(watch=False, as_json=as_json)
        )
    import typer  # noqa: PLC0415

    from moondream_station.cli.app import app  # noqa: PLC0415

    command = typer.main.get_command(app)
    try:
        with _written():
            return command.main(
                args=list(arguments), prog_name="moondream-station", standalone_mode=False, obj=run
            )
    except typer.TyperException as error:
        names = [str(info.name) for info in app.registered_commands]
        raise UsageError(error.format_message(), hint=_what_was_meant(error, arguments, names)) from error


def _what_was_meant(error: Exception, arguments: Sequence[str], names: Sequence[str]) -> str:
    """The command line as it was meant, where a command's name is mistyped, else where its help is."""
    context = getattr(error, "ctx", None)
    if context is not None and context.parent is None and not hasattr(error, "option_name"):
        from difflib import get_close_matches  # noqa: PLC0415  rarely needed

        for place, word in enumerate(arguments):
            if not word.startswith("-") and (near := get_close_matches(word, names, 1)):
                meant = [*arguments[:place], near[0], *arguments[place + 1 :]]
                return f"Run `{shlex.join(['moondream-station', *meant])}`."
    return f"Run `{context.command_path if context is not None else 'moondream-station'} --help`."


@contextmanager
def _written() -> Iterator[None]:
    """Report help that can't be written as any other output: typer writes it by itself."""
    try:
        yield
    except OSError:
        write(sys.stdout, "")  # fails again where stdout still holds it
        raise


def _print_error(error: ErrorInfo, *, as_json: bool) -> None:
    """Print an error; where that fails too, the exit code has to do."""
    with suppress(BrokenPipeError, OutputUnwritable):
        print_error(error, as_json=as_json)


def _internal(error: Exception) -> ErrorInfo:
    if os.environ.get("MOONDREAM_STATION_LOG", "").lower() == "debug":
        traceback.print_exception(error)
    return ErrorInfo(
        code=StationError.code,
        message=f"Internal error (a bug in Moondream Station): {type(error).__name__}: {error}",
        hint="Please report it, with the output of a run with MOONDREAM_STATION_LOG=debug.",
    )
