"""`clusterheal pause` and `clusterheal resume`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clusterheal.kube.ports import Cluster

Kubeconfig = Annotated[Path | None, typer.Option(help="Default: in-cluster, then ~/.kube/config.")]
Namespace = Annotated[str | None, typer.Option(help="Where the engine lives.")]
Server = Annotated[str | None, typer.Option(help="API server's root URL instead of a kubeconfig.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def pause(
        reason: Annotated[str, typer.Option(help="Shown with every action that is held back.")],
        minutes: Annotated[
            float, typer.Option(min=1, help="It lapses after this; a pause without an end is forgotten.")
        ] = 60.0,
        kubeconfig: Kubeconfig = None,
        namespace: Namespace = None,
        server: Server = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Stop all automation for a while, also when no engine answers: it is a ConfigMap that every replica follows.

        Example: clusterheal pause --reason "storage migration" --minutes 120
        """
        from datetime import timedelta

        from clusterheal.clock import SystemClock
        from clusterheal.engine.pause import write_pause
        from clusterheal.engine.world import Pause

        until = SystemClock().now() + timedelta(minutes=minutes)

        async def write(cluster: Cluster, where: str) -> None:
            await write_pause(cluster, where, Pause(until=until, reason=reason, by=_who()))

        where = _with_cluster(write, kubeconfig, namespace, server, config)
        typer.echo(f"paused in {where} until {until:%Y-%m-%d %H:%M:%S} UTC: {reason}")

    @app.command()
    def resume(
        kubeconfig: Kubeconfig = None,
        namespace: Namespace = None,
        server: Server = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Let automation go on before its pause lapses.

        Example: clusterheal resume
        """
        from clusterheal.engine.pause import lift_pause

        lifted = []

        async def lift(cluster: Cluster, where: str) -> None:
            lifted.append(await lift_pause(cluster, where))

        where = _with_cluster(lift, kubeconfig, namespace, server, config)
        typer.echo(f"resumed in {where}" if lifted == [True] else f"nothing was paused in {where}")


def _who() -> str:
    """The user's name; in a container whose user has none, its number and the pod."""
    import getpass
    import os
    import socket

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()} on {socket.gethostname()}"


def _with_cluster(
    call: Callable[[Cluster, str], Awaitable[None]],
    kubeconfig: Path | None,
    namespace: str | None,
    server: str | None,
    config: Path | None,
) -> str:
    """Run `call(cluster, namespace)` against the cluster that flags and settings name; returns the namespace."""
    import asyncio

    from clusterheal.kube.http import HttpCluster
    from clusterheal.settings import load_settings

    given = {"kubernetes": {"kubeconfig": kubeconfig, "namespace": namespace, "server": server}}
    settings = load_settings(config, given).kubernetes

    async def run() -> None:
        async with HttpCluster.from_settings(settings) as cluster:
            await call(cluster, settings.namespace)

    asyncio.run(run())
    return settings.namespace
