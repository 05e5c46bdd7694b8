"""`clusterheal rollout`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clusterheal.registry import ModelVersion, Registry
    from clusterheal.rollout import RolloutResult, StepRecord
    from clusterheal.settings import Settings

PREVIOUS = "previous"


def register(app: typer.Typer) -> None:
    @app.command()
    def rollout(
        name: Annotated[str, typer.Option(help="Registered model and InferenceService, e.g. anomaly-detector.")],
        version: Annotated[
            str | None,
            typer.Option(help="Registered version such as v000003, or previous; default: newest candidate."),
        ] = None,
        replay: Annotated[
            str | None, typer.Option(help="Dataset (folder or s3:// URL) whose newest windows compare both models.")
        ] = None,
        windows: Annotated[int, typer.Option(help="How many windows of --replay, a day's share apart.", min=1)] = 24,
        live: Annotated[
            bool, typer.Option("--live", help="Also compare and watch on the newest metrics, asked of Prometheus.")
        ] = False,
        prometheus_url: Annotated[str | None, typer.Option(help="Prometheus for --live, root URL.")] = None,
        strategy: Annotated[str | None, typer.Option(help="auto, shadow, canary or direct.")] = None,
        bake: Annotated[float | None, typer.Option(help="Seconds to watch the version after the switch.")] = None,
        ready_timeout: Annotated[float | None, typer.Option(help="Seconds until it must answer.")] = None,
        namespace: Annotated[str | None, typer.Option(help="Namespace of the InferenceService.")] = None,
        kubeconfig: Annotated[Path | None, typer.Option(help="Default: in-cluster, then ~/.kube/config.")] = None,
        registry_url: Annotated[str | None, typer.Option(help="Model registry, REST root URL.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Bring a registered model version into service, watched, and back on any breach.

        Exit code 0 only when the version is in service; 1 when it was rolled back.

        Example: clusterheal rollout --name anomaly-detector --version v000003 --replay out/dataset --bake 300
        """
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        overrides: dict[str, dict[str, Any]] = {
            "rollout": {"strategy": strategy, "bake": bake, "ready_timeout": ready_timeout},
            "kubernetes": {"namespace": namespace, "kubeconfig": kubeconfig},
            "registry": {"url": registry_url},
            "prometheus": {"url": prometheus_url},
        }
        settings = load_settings(config, overrides)
        configure_logging(settings.log)
        result = _run(settings, name, version, replay, windows, live)
        typer.echo(str(result).splitlines()[0])
        if result.reason:
            typer.echo(f"reason: {result.reason}", err=True)
        if result.outcome.value != "promoted":
            raise typer.Exit(1)


def _run(
    settings: Settings, name: str, version: str | None, replay: str | None, windows: int, live: bool
) -> RolloutResult:
    import asyncio
    from contextlib import nullcontext

    from clusterheal.clock import SystemClock
    from clusterheal.kube.http import HttpCluster
    from clusterheal.registry import Registry
    from clusterheal.rollout import roll_out
    from clusterheal.rollout.windows import live_windows, replay_windows

    registry = Registry(settings.registry)
    wanted = _wanted(registry, name, version)
    if version == PREVIOUS:  # served before: there is nothing to find out in shadow
        settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"strategy": "direct"})})
    inputs = replay_windows(replay, windows, settings) if replay is not None else None
    clock = SystemClock()

    async def work() -> RolloutResult:
        async with (
            HttpCluster.from_settings(settings.kubernetes) as cluster,
            live_windows(settings, clock) if live else nullcontext() as newest,
        ):
            return await roll_out(
                cluster, registry, wanted, settings, clock, windows=inputs, live=newest, on_step=_print
            )

    return asyncio.run(work())


def _wanted(registry: Registry, name: str, version: str | None) -> ModelVersion:
    """The version by name, the one that was served before, or the newest candidate.

    Raises:
        InvalidInput: there is none.
    """
    from clusterheal.errors import InvalidInput
    from clusterheal.registry import State

    if version == PREVIOUS:
        found = registry.previous(name)
        if found is None:
            raise InvalidInput(f"{name} has no previous version to go back to")
        return found
    if version is not None:
        return registry.get(name, version)
    candidates = [v for v in registry.versions(name) if v.state in (State.CANDIDATE, State.SHADOW)]
    if not candidates:
        raise InvalidInput(f"the registry has no candidate of {name!r}; train one, or name a --version")
    return candidates[-1]


def _print(step: StepRecord) -> None:
    typer.echo(f"{'ok  ' if step.ok else 'FAIL'} {step.name:<12} {step.seconds:6.1f} s  {step.detail}")
