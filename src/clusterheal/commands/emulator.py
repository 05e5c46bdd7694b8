"""`clusterheal emulator`: an emulated Kubernetes cluster for tests and for trying things out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def emulator(
        host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="TCP port; 0 picks a free one and prints it.")] = 8001,
        crds: Annotated[
            Path | None,
            typer.Option(help="Directory of manifests to load first, custom resource definitions included."),
        ] = None,
        nodes: Annotated[int, typer.Option(min=0, help="Ready worker nodes to start with.")] = 3,
        seed: Annotated[int, typer.Option(help="Decides uids and generated names.")] = 0,
    ) -> None:
        """Run a Kubernetes API emulator with its controllers until interrupted. No authentication: keep it local.

        Example: clusterheal emulator --port 8001 --crds manifests/cluster/crds, then
        kubectl --server http://127.0.0.1:8001 get pods -A
        """
        import asyncio

        from clusterheal.local.kube.emulator import Emulator, serve
        from clusterheal.local.kube.platform import worker_nodes, worker_pool

        world = Emulator(seed=seed)
        if crds is not None:
            world.load_files(crds)
        world.load([*worker_nodes(nodes), worker_pool()])

        async def run() -> None:
            async with serve(world, host=host, port=port) as url:
                typer.echo(f"Kubernetes API emulator at {url}; stop with Ctrl-C")
                await asyncio.Event().wait()

        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            typer.echo("stopped")
