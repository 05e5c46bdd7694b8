"""`clusterheal serve`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def serve(
        package: Annotated[
            list[Path], typer.Option(help="Folder of a sealed model package; give it once per model.", exists=True)
        ],
        host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = None,
        http_port: Annotated[int | None, typer.Option(help="Port of V2 REST; 0 picks a free one.")] = None,
        grpc_port: Annotated[int | None, typer.Option(help="Port of V2 gRPC; 0 picks a free one.")] = None,
        threads: Annotated[int | None, typer.Option(help="CPU threads per request.")] = None,
        ready_file: Annotated[
            Path | None, typer.Option(help="Write the ports here, as JSON, once both accept requests.")
        ] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Serve model packages over the Open Inference Protocol (V2 REST and gRPC), as KServe does.

        Example: clusterheal serve --package out/models/anomaly-detector/v000001 --http-port 8080
        """
        from clusterheal.contracts import ModelPackage
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        flags = {"host": host, "http_port": http_port, "grpc_port": grpc_port, "threads": threads}
        settings = load_settings(config, {"serving": flags})
        configure_logging(settings.log)
        packages = [ModelPackage.load(path) for path in package]

        from clusterheal_models.serving.server import serve as run

        def listening(http: int, grpc: int) -> None:
            address = settings.serving.host
            for served in packages:
                typer.echo(f"{served.name}: http://{address}:{http}/v2/models/{served.name}, gRPC {address}:{grpc}")
            if ready_file is not None:
                write_ready_file(ready_file, http, grpc)

        run(
            packages,
            settings.serving.host,
            settings.serving.http_port,
            settings.serving.grpc_port,
            threads=settings.serving.threads,
            device=settings.serving.device,
            max_request_bytes=settings.serving.max_request_bytes,
            on_listening=listening,
        )


def write_ready_file(path: Path, http_port: int, grpc_port: int) -> None:
    """`{"http_port": ..., "grpc_port": ...}`, whole or not at all."""
    import json

    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"http_port": http_port, "grpc_port": grpc_port}))
    partial.replace(path)
