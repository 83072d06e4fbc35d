"""The program `uadctl`: its commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from uadctl import __version__
from uadctl.cli import bench, calibrate, datasets, fit, interruption, models, report, schema, score
from uadctl.cli.complete import offer_completion
from uadctl.cli.console import print_lines, screen
from uadctl.cli.interruption import INTERRUPTED
from uadctl.cli.logs import Log, keeping
from uadctl.errors import UadctlError
from uadctl.spec.data_sets import DATASETS

# Typer's own errors of usage derive from the class that its public BadParameter derives from.
_UsageError: Any = typer.BadParameter.__mro__[1]


class Group(TyperGroup):
    """All commands; turns errors into messages and exit codes, for the program and for tests alike."""

    def main(self, *args: Any, **extra: Any) -> Any:
        given = extra.get("args", args[0] if args else None)
        screen.log = Log(sys.argv[1:] if given is None else given)
        screen.configure()
        offer_completion()
        code = 1
        try:
            with keeping(screen.log, debug=lambda: screen.debug):
                code = self._run(*args, **{**extra, "standalone_mode": False})
            screen.close()
        finally:
            screen.log.end(code)
        interruption.finish(code)
        sys.exit(code)

    def _run(self, *args: Any, **extra: Any) -> int:
        """The exit code of a command; what it raises is said, or with --debug raised if nobody expected it."""
        code = 1
        try:
            result = super().main(*args, **extra)
            code = result if isinstance(result, int) else 0
        except _UsageError as error:
            screen.message("error", _lower(error.format_message()), _usage(error))
            code = 2
        except UadctlError as error:
            screen.error(error)
            code = error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except BrokenPipeError:
            # Whoever read stdout has gone (`uadctl score … | head`): stop without a word, as other filters do.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            screen.message("error", f"{where}{error.strerror or error}", error=error, shown=not screen.debug)
            if screen.debug:
                raise
        except Exception as error:
            screen.message(
                "error",
                f"{type(error).__name__}: {error}",
                "This is a bug in uadctl or in a library. --debug shows where it happened.",
                error=error,
                shown=not screen.debug,
            )
            if screen.debug:
                raise
        if code == INTERRUPTED:  # Typer makes its own exit code of Ctrl-C
            screen.say_interrupted()
        return code


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _usage(error: Any) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"See: {context.command_path} --help"


app = typer.Typer(
    name="uadctl",
    cls=Group,
    help="Find defects on images having seen only good parts.",
    epilog="Exit codes: 0 done, 1 failed at run time, 2 something to fix in the command, spec, data or installation, "
    "3 a gate failed, 4 an anomaly was found (score --fail-on-anomaly, --fail-on-review), 130 interrupted.",
    no_args_is_help=False,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print_lines(f"uadctl {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find defects on images having seen only good parts."""
    if context.invoked_subcommand is None:
        screen.write(context.get_help())
        raise typer.Exit(2)


def _in_columns(rows: Sequence[tuple[str, str]]) -> str:
    """Names, and beside them what they mean, in lines of a terminal of 80 columns less Typer's own indent."""
    width = max(len(name) for name, _ in rows) + 4
    lines = (
        textwrap.fill(meaning, 78, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, meaning in rows
    )
    return "\n".join(lines)


# \b keeps the lines of a paragraph of help apart.
_DATASETS = "\b\nData sets (--dataset):\n" + _in_columns(
    [(entry.name, entry.summary) for _, entry in sorted(DATASETS.items())]
)

app.command("bench", epilog=_DATASETS)(bench.bench)
app.command("fit", epilog=_DATASETS)(fit.fit)
app.command("score")(score.score)
app.command("calibrate")(calibrate.calibrate)
app.command("report")(report.report)
app.command("schema")(schema.schema)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
