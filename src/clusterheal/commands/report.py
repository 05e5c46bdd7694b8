"""`clusterheal report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def report(
        out: Annotated[Path, typer.Option(help="Folder of a run of the demo; report.html is written into it.")] = Path(
            "out"
        ),
    ) -> None:
        """Write the report of a run again, from its record; one HTML file that opens offline.

        Example: clusterheal report --out out
        """
        from clusterheal.local.report import write_report
        from clusterheal.local.report_record import RunRecord

        typer.echo(str(write_report(RunRecord.load(out), out)))
