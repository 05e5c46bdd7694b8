"""`clusterheal demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_INTERRUPTED = 128


def register(app: typer.Typer) -> None:
    @app.command()
    def demo(
        out: Annotated[
            Path, typer.Option(help="Folder for everything that the run writes; an earlier run's files are replaced.")
        ] = Path("out"),
        data: Annotated[
            Path | None, typer.Option(help="Replay recorded telemetry: a Parquet file, or a folder of them.")
        ] = None,
        series: Annotated[
            str | None, typer.Option(help="With --data: replay the files whose name matches, e.g. 'SMD__machine-1-*'.")
        ] = None,
        prometheus_url: Annotated[
            str | None, typer.Option(help="Take the history from this Prometheus or Thanos Querier (only read).")
        ] = None,
        token_file: Annotated[Path | None, typer.Option(help="Bearer token for --prometheus-url.")] = None,
        ca_file: Annotated[Path | None, typer.Option(help="CA bundle for --prometheus-url.")] = None,
        fault: Annotated[
            str | None,
            typer.Option(
                help="memory-leak (default), bad-rollout or cpu-saturation; with --data: level-shift (default) or ramp."
            ),
        ] = None,
        days: Annotated[
            float | None,
            typer.Option(help="Days of generated or copied history; default 8. Recordings have their own length."),
        ] = None,
        seed: Annotated[int, typer.Option(help="Same seed and data: same metrics, models and decisions.")] = 7,
        train_seconds: Annotated[
            float | None, typer.Option(help="Stop each training after this long, seconds; default: until it is done.")
        ] = None,
        models_of: Annotated[
            Path | None,
            typer.Option(help="Serve the models that the run in this folder trained, instead of training: 80 s less."),
        ] = None,
        first_port: Annotated[
            int, typer.Option(help="Use six ports from this one on; 0 takes free ones.", min=0, max=65530)
        ] = 0,
        keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, and print the addresses.")] = False,
    ) -> None:
        """From metrics to a healed incident on this machine, with real parts; exits 0 when it was healed and verified.

        Example: clusterheal demo --data ../shared/data/anomaly --series 'SMD__*' --out out
        """
        from clusterheal.errors import InvalidInput
        from clusterheal.local.demo import Interrupted, run_demo
        from clusterheal.local.demo_config import DEFAULT_DAYS, DemoConfig
        from clusterheal.local.timeline import Timeline

        if data is not None and days is not None:
            raise InvalidInput("--days is for generated or copied history; with --data, the recordings' length counts")
        config = DemoConfig(
            out=out,
            seed=seed,
            fault=fault,
            data=data,
            series=series,
            prometheus_url=prometheus_url,
            prometheus_token_file=token_file,
            prometheus_ca_file=ca_file,
            days=DEFAULT_DAYS if days is None else days,
            keep=keep,
            first_port=first_port,
            train_seconds=train_seconds,
            models_of=models_of,
        )
        try:
            run_demo(config, Timeline())
        except Interrupted as exc:
            typer.echo(f"clusterheal: {exc}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED + exc.number) from exc
