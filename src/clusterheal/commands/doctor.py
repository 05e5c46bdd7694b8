"""`clusterheal doctor`"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clusterheal.doctor.scene import Object, Platform


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


class FailOn(StrEnum):
    """The least severity that makes the command fail."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        places: Annotated[
            list[Path] | None, typer.Argument(help="Manifests: files, folders, or folders with a kustomization.")
        ] = None,
        cluster: Annotated[bool, typer.Option("--cluster", help="Look at a namespace of a cluster instead.")] = False,
        namespace: Annotated[str | None, typer.Option(help="With --cluster: the namespace.")] = None,
        platform: Annotated[
            str | None,
            typer.Option(help="rhoai-2x, rhoai-3x or vanilla-kubernetes; default rhoai-3x, or what the cluster is."),
        ] = None,
        output: Annotated[Format, typer.Option("--format", help="text, json or sarif.")] = Format.TEXT,
        fail_on: Annotated[
            FailOn, typer.Option(help="Exit with 1 from this severity on: error, warning, info, never.")
        ] = FailOn.ERROR,
        exemptions: Annotated[
            Path | None, typer.Option(help="YAML with a list `doctor` of rule, kind, name and why: what is meant so.")
        ] = None,
        rules: Annotated[bool, typer.Option("--rules", help="List the rules and end.")] = False,
        kubeconfig: Annotated[Path | None, typer.Option(help="Default: in-cluster, then ~/.kube/config.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Find what schemas allow and OpenShift AI then ignores, refuses or leaves open. Changes nothing.

        Example: clusterheal doctor manifests/overlays/production --platform rhoai-3x --format sarif > doctor.sarif
        """
        from clusterheal.doctor.examine import examine, read_exemptions
        from clusterheal.doctor.load import read_manifests
        from clusterheal.doctor.report import as_json, as_sarif, as_text, rule_table
        from clusterheal.doctor.rule import Severity
        from clusterheal.doctor.scene import Platform, Scene
        from clusterheal.errors import InvalidInput

        if rules:
            typer.echo(rule_table())
            return
        if cluster == bool(places):
            raise InvalidInput("expected manifests to read, or --cluster, and not both; see clusterheal doctor --help")
        chosen = None if platform is None else _platform(platform)
        if cluster:
            objects, found = _read_cluster(config, kubeconfig, namespace, chosen)
        else:
            objects, found = [o for place in places or [] for o in read_manifests(place)], chosen or Platform.RHOAI_3
        excused = read_exemptions(exemptions) if exemptions else []
        result = examine(Scene(objects=objects, platform=found), excused)
        printers = {Format.TEXT: as_text, Format.JSON: as_json, Format.SARIF: as_sarif}
        typer.echo(printers[output](result))
        if fail_on is not FailOn.NEVER and (result.failed(Severity(fail_on.value)) or result.unused):
            raise typer.Exit(1)


def _platform(text: str) -> Platform:
    from clusterheal.doctor.scene import Platform
    from clusterheal.errors import InvalidInput

    try:
        return Platform(text)
    except ValueError as exc:
        raise InvalidInput(f"--platform: expected one of {', '.join(Platform)}, got {text!r}") from exc


def _read_cluster(
    config: Path | None, kubeconfig: Path | None, namespace: str | None, platform: Platform | None
) -> tuple[list[Object], Platform]:
    """Objects of the namespace and what the cluster is; what may not be read is said on stderr."""
    import asyncio

    from clusterheal.doctor.load import find_platform, read_cluster
    from clusterheal.kube.http import HttpCluster
    from clusterheal.settings import load_settings

    settings = load_settings(config, {"kubernetes": {"kubeconfig": kubeconfig, "namespace": namespace}}).kubernetes

    async def read() -> tuple[list[Object], Platform]:
        async with HttpCluster.from_settings(settings, manager="clusterheal-doctor") as api:
            kind = platform or await find_platform(api)
            objects, unread = await read_cluster(api, settings.namespace)
        for line in unread:
            typer.echo(f"clusterheal doctor: not read: {line}", err=True)
        return objects, kind

    return asyncio.run(read())
