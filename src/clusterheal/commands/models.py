"""`clusterheal models list | retain`"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clusterheal.registry import Registry

Url = Annotated[str | None, typer.Option("--registry-url", help="Model registry, REST root URL.")]
Name = Annotated[str | None, typer.Option(help="anomaly-detector or predictive-analytics; default: both.")]
Config = Annotated[Path | None, typer.Option(help="Settings file (TOML).")]


def register(app: typer.Typer) -> None:
    models = typer.Typer(no_args_is_help=True, help="Look at registered model versions, and archive old ones.")
    app.add_typer(models, name="models")

    @models.command("list")
    def list_versions(name: Name = None, registry_url: Url = None, config: Config = None) -> None:
        """List versions with their states, verdicts and packages.

        Example: clusterheal models list --name anomaly-detector
        """
        registry = connect(config, registry_url)
        for model in chosen(name):
            for v in registry.versions(model):
                verdict = v.properties.get("gate_verdict", "not gated")
                typer.echo(
                    f"{model:<22} {v.version} {v.state.value:<9} {v.state_since:%Y-%m-%d %H:%M} {verdict:<9} {v.uri}"
                )

    @models.command("retain")
    def retain(
        keep: Annotated[int, typer.Option(help="The newest KEEP versions of a model always stay.")] = 5,
        days: Annotated[float, typer.Option(help="Only what has not changed for so many days is archived.")] = 30.0,
        apply: Annotated[bool, typer.Option("--apply", help="Do it; otherwise it only says what it would do.")] = False,
        name: Name = None,
        registry_url: Url = None,
        config: Config = None,
    ) -> None:
        """Archive versions that are neither served, nor in shadow, nor the way back. Says what it would do first.

        Example: clusterheal models retain --keep 5 --days 30 --apply
        """
        from clusterheal.clock import SystemClock
        from clusterheal.registry import State
        from clusterheal.registry.retention import plan_retention

        registry = connect(config, registry_url)
        for model in chosen(name):
            versions = registry.versions(model)
            now = SystemClock().now()
            for retirement in plan_retention(versions, keep=keep, older_than=timedelta(days=days), now=now):
                version = retirement.version
                if apply:
                    registry.set_state(model, version.version, State.ARCHIVED)
                verb = "archived" if apply else "would archive"
                typer.echo(f"{verb} {model} {version.version}: {retirement.reason}; {version.uri} can be deleted")


def connect(config: Path | None, url: str | None) -> Registry:
    """The registry that flags and settings name."""
    from clusterheal.registry import Registry
    from clusterheal.settings import load_settings
    from clusterheal.telemetry import configure_logging

    settings = load_settings(config, {"registry": {"url": url}})
    configure_logging(settings.log)
    return Registry(settings.registry)


def chosen(name: str | None) -> list[str]:
    """The models to look at.

    Raises:
        InvalidInput: no such model.
    """
    from clusterheal.contracts import DETECTOR, FORECASTER
    from clusterheal.errors import InvalidInput

    if name is None:
        return [DETECTOR, FORECASTER]
    if name not in (DETECTOR, FORECASTER):
        raise InvalidInput(f"--name: expected {DETECTOR} or {FORECASTER}, got {name!r}")
    return [name]
