"""`clusterheal register`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clusterheal.registry.versions import Property


def register(app: typer.Typer) -> None:
    @app.command("register")
    def register_package(
        package: Annotated[Path, typer.Option(help="Folder of a sealed model package.", exists=True)],
        registry_url: Annotated[str | None, typer.Option(help="Model registry, REST root URL.")] = None,
        storage: Annotated[
            str | None, typer.Option(help="Root to store packages under, local folder or s3:// URL.")
        ] = None,
        rejected: Annotated[bool, typer.Option("--rejected", help="Enter it as rejected: it is never served.")] = False,
        properties: Annotated[
            list[str] | None, typer.Option("--property", help="NAME=VALUE to record; may be given often.")
        ] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Store a model package in its immutable place and enter it in the model registry.

        Repeating it is safe: the same package is entered once, and a half-finished registration is completed.

        Example: clusterheal register --package out/train/anomaly-detector --registry-url http://127.0.0.1:8085
        """
        from clusterheal.contracts import ModelPackage
        from clusterheal.registry import Registry, State
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        overrides: dict[str, dict[str, Any]] = {"registry": {"url": registry_url, "storage": storage}}
        settings = load_settings(config, overrides)
        configure_logging(settings.log)
        version = Registry(settings.registry).register(
            ModelPackage.load(package),
            properties=parse_properties(properties or []),
            state=State.REJECTED if rejected else State.CANDIDATE,
        )
        typer.echo(f"{version.name} {version.version} {version.state.value} {version.uri}")


def parse_properties(given: list[str]) -> dict[str, Property]:
    """`NAME=VALUE` each; whole and decimal numbers, `true` and `false` become such.

    Raises:
        InvalidInput: an entry without `=`.
    """
    from clusterheal.errors import InvalidInput

    found: dict[str, Property] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--property: expected NAME=VALUE, got {entry!r}")
        found[name] = _value(text)
    return found


def _value(text: str) -> Property:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
