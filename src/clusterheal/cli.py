"""The `clusterheal` command. Each sub-command lives in `clusterheal.commands`."""

from __future__ import annotations

import errno
import importlib
import pkgutil
import sys

import typer

from clusterheal import __version__, commands
from clusterheal.errors import ClusterhealError, InvalidInput

EXIT_FAILED = 1
EXIT_INVALID = 2
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # numpy's short writes have no number


def build_app() -> typer.Typer:
    """The command tree: every module of `clusterheal.commands` adds its own command."""
    app = typer.Typer(
        name="clusterheal",
        no_args_is_help=True,
        help="Train, serve and act on anomaly detection and forecasts of cluster metrics.",
        pretty_exceptions_enable=False,
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(__version__)
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        pass

    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda m: m.name):
        importlib.import_module(f"clusterheal.commands.{module.name}").register(app)
    return app


def main() -> None:
    """Run the command line; an error of ours is one line on stderr, not a traceback."""
    try:
        build_app()()
    except ClusterhealError as exc:
        typer.echo(f"clusterheal: {exc}", err=True)
        sys.exit(EXIT_INVALID if isinstance(exc, InvalidInput) else EXIT_FAILED)
    except OSError as exc:
        if exc.errno not in DISK_FULL:
            raise
        where = f" for {exc.filename}" if exc.filename else ""
        what = exc.strerror or f"a file could not be written in full ({exc})"
        typer.echo(f"clusterheal: {what}{where}; free space, or write to another folder", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
