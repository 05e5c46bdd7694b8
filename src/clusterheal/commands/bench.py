"""`clusterheal bench`: the models against their peers on recorded telemetry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Folder with recorded telemetry (forecast/, anomaly/, labels/).")]
Out = Annotated[Path, typer.Option(help="Folder for what score.py reads; made when missing.")]
Peers = Annotated[bool, typer.Option("--peers", help="Run the peers on the same data, too (minutes more).")]
Report = Annotated[Path | None, typer.Option(help="Write the table as Markdown here, with date and command.")]
Threads = Annotated[int, typer.Option(help="CPU threads of torch.", min=1)]


def register(app: typer.Typer) -> None:
    bench = typer.Typer(no_args_is_help=True, help="Measure the models against their peers on recorded telemetry.")
    app.add_typer(bench, name="bench")

    @bench.command()
    def forecast(
        data: Data,
        out: Out,
        peers: Peers = False,
        task: Annotated[list[str] | None, typer.Option(help="Only this task; repeat for more.")] = None,
        report: Report = None,
    ) -> None:
        """Fit the forecaster on each task's train rows and forecast its origins.

        Example: clusterheal bench forecast --data ../shared/data --out out/bench/forecast --peers
        """
        from clusterheal_models.bench.forecast import run, summary

        scores = run(data, out, peers=peers, only=tuple(task or ()), say=typer.echo)
        if scores:
            table = summary(scores)
            typer.echo(f"\n{table}")
            if report is not None:
                write_report(report, "Forecast benchmark", "bench forecast", table, peers=peers)

    @bench.command()
    def anomaly(data: Data, out: Out, peers: Peers = False, report: Report = None, threads: Threads = 1) -> None:
        """Fit the detector on each series' train rows without labels and score its test rows.

        Example: clusterheal bench anomaly --data ../shared/data --out out/bench/anomaly --peers
        """
        import torch
        from clusterheal_models.bench.anomaly import run

        torch.set_num_threads(threads)
        table = run(data, out, peers=peers, say=typer.echo)
        if report is not None and table:
            write_report(report, "Anomaly benchmark", "bench anomaly", table, peers=peers)


def write_report(path: Path, title: str, command: str, table: str, *, peers: bool) -> None:
    """A table with the day and the command that made it."""
    from clusterheal.clock import SystemClock

    flags = " --peers" if peers else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# {title}\n\nMeasured on {SystemClock().now():%Y-%m-%d} by "
        f"`clusterheal {command} --data ../shared/data --out out/bench{flags}`.\n\n{table}\n"
    )
