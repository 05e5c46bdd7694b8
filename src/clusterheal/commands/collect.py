"""`clusterheal collect`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from clusterheal.errors import InvalidInput

EXAMPLE = """
Fetch what is missing of a training window from Prometheus into a Parquet dataset; run it again to append.

Example: clusterheal collect --prometheus-url https://thanos-querier.openshift-monitoring.svc:9091
--token-file /var/run/secrets/kubernetes.io/serviceaccount/token --ca-file /etc/service-ca/service-ca.crt
--days 14 --dataset s3://models/dataset
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(help=EXAMPLE)
    def collect(
        config: Path | None = typer.Option(None, "--config", help="Settings file, TOML."),
        prometheus_url: str | None = typer.Option(None, help="Root URL of Prometheus or Thanos Querier."),
        token_file: Path | None = typer.Option(None, help="File with the bearer token; read again for each request."),
        ca_file: Path | None = typer.Option(None, help="CA bundle for the server's certificate."),
        tenant: str | None = typer.Option(None, help="Namespace for Thanos Querier's tenancy port 9092."),
        dataset: str | None = typer.Option(None, help="Dataset to write or append to: local folder or s3:// URL."),
        catalogue: Path | None = typer.Option(None, help="Query catalogue: YAML file, or `default` or `detailed`."),
        step: float | None = typer.Option(None, help="Grid step, seconds."),
        days: float | None = typer.Option(None, help="How far back to collect, days."),
        start: datetime | None = typer.Option(None, help="First time, UTC; instead of --days."),
        end: datetime | None = typer.Option(None, help="Time to stop before, UTC; default: now."),
        shard: str | None = typer.Option(None, help="Collect only this share of the entities, index/count: 0/4."),
        html: bool | None = typer.Option(None, "--html/--no-html", help="Write the quality report as a page, too."),
        check: bool = typer.Option(False, "--check", help="Only check the catalogue: metrics, units, ranges, PromQL."),
    ) -> None:
        from clusterheal.metrics.shards import WHOLE, Shard
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        settings = load_settings(
            config,
            {
                "prometheus": {
                    "url": prometheus_url,
                    "token_file": token_file,
                    "ca_file": ca_file,
                    "namespace": tenant,
                },
                "dataset": {"path": dataset, "catalogue": catalogue, "step": step, "days": days, "html_report": html},
            },
        )
        configure_logging(settings.log)
        if check:
            _check(settings.dataset.catalogue)
            return
        from clusterheal.metrics.collect import collect as run

        until = _utc(end) if end else datetime.now(UTC)
        since = _utc(start) if start else until - timedelta(days=settings.dataset.days)
        if start and days:
            raise InvalidInput("give --start or --days, not both")
        with _progress() as progress:
            part = Shard.parse(shard) if shard else WHOLE
            report = run(settings, start=since, end=until, progress=progress, shard=part)
        typer.echo(report.summary())


def _check(path: Path | None) -> None:
    """Check a catalogue and say what is wrong.

    Raises:
        InvalidInput: something is.
    """
    from clusterheal.metrics.catalogue import load_catalogue
    from clusterheal.metrics.catalogue_check import check_catalogue

    catalogue = load_catalogue(path)
    findings = check_catalogue(catalogue)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding.code}: {finding.subject}: {finding.detail}")
    errors = sum(f.severity == "error" for f in findings)
    if errors:
        raise InvalidInput(f"{catalogue.source}: {errors} problems")
    typer.echo(f"{catalogue.source}: {len(catalogue.features)} features, no problem")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; nothing elsewhere, where the summary says it all."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("collect", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
