"""`clusterheal engine`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def engine(
        mode: Annotated[
            str | None, typer.Option(help="Ceiling on what it may do: observe, suggest, approve or auto.")
        ] = None,
        host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
        port: Annotated[int | None, typer.Option(help="Port of API, webhook and metrics; 0 picks a free one.")] = None,
        interval: Annotated[float | None, typer.Option(help="Seconds between two rounds.")] = None,
        namespace: Annotated[str | None, typer.Option(help="Where incidents, policies and the lease live.")] = None,
        prometheus_url: Annotated[str | None, typer.Option(help="Prometheus or Thanos Querier, root URL.")] = None,
        detector_url: Annotated[str | None, typer.Option(help="Root URL of the anomaly-detector predictor.")] = None,
        forecaster_url: Annotated[
            str | None, typer.Option(help="Root URL of the predictive-analytics predictor.")
        ] = None,
        alert_token_file: Annotated[Path | None, typer.Option(help="Shared token that Alertmanager sends.")] = None,
        kubeconfig: Annotated[Path | None, typer.Option(help="Default: in-cluster, then ~/.kube/config.")] = None,
        allow_anonymous: Annotated[
            bool | None,
            typer.Option("--allow-anonymous", help="Development only: no tokens needed; refused off loopback."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Watch, diagnose, and within policy heal; observes only, unless told otherwise.

        Example: clusterheal engine --mode suggest --prometheus-url http://127.0.0.1:9090 --kubeconfig ~/.kube/config
        """
        import asyncio
        from datetime import timedelta

        from clusterheal.engine.app import serve
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        overrides: dict[str, dict[str, Any]] = {
            "engine": {
                "mode": mode,
                "host": host,
                "port": port,
                "interval": None if interval is None else timedelta(seconds=interval),
                "detector_url": detector_url,
                "forecaster_url": forecaster_url,
                "alert_token_file": alert_token_file,
                "allow_anonymous": allow_anonymous,
            },
            "kubernetes": {"namespace": namespace, "kubeconfig": kubeconfig},
            "prometheus": {"url": prometheus_url},
        }
        settings = load_settings(config, overrides)
        configure_logging(settings.log)
        asyncio.run(serve(settings))
