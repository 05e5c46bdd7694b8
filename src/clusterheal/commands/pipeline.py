"""`clusterheal pipeline compile | run | submit | schedule | status`"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clusterheal.local.runner_log import Step

Parameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE for a parameter of the pipeline (JSON or text); may be given often."),
]


def register(app: typer.Typer) -> None:
    pipeline = typer.Typer(no_args_is_help=True, help="Compile, run, submit and schedule the Kubeflow pipelines.")
    app.add_typer(pipeline, name="pipeline")

    @pipeline.command("compile")
    def compile_everything(
        out: Annotated[Path, typer.Option(help="Folder for the packages.")] = Path("pipelines/compiled"),
        image: Annotated[
            str | None, typer.Option(help="Image of all components, pinned by digest: NAME@sha256:...")
        ] = None,
        readmes: Annotated[
            Path, typer.Option(help="Also write the components' READMEs below this folder, if it exists.")
        ] = Path("components/clusterheal_components"),
    ) -> None:
        """Compile every pipeline: packages that the OpenShift AI dashboard imports, and manifests for GitOps.

        Example: clusterheal pipeline compile --out build --image quay.io/org/clusterheal-pipeline@sha256:...
        """
        from clusterheal_pipelines.compiling import compile_all, write_readmes

        made = compile_all(out, image=image)
        made += write_readmes(readmes) if readmes.is_dir() else []
        for path in made:
            typer.echo(str(path))

    @pipeline.command("run")
    def run(
        name: Annotated[str, typer.Argument(help="Pipeline, e.g. train, or a compiled package (.yaml).")],
        parameters: Parameters = None,
        out: Annotated[Path, typer.Option(help="Folder for artifacts, logs and run.json.")] = Path("out/runs"),
        timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
    ) -> None:
        """Run a pipeline on this machine under kfp.local; addresses and credentials come from CLUSTERHEAL_* variables.

        Example: clusterheal pipeline run train --set days=7 --out out/runs
        """
        run_here(name, parse_parameters(parameters or []), out, timeout)


def run_here(name: str, arguments: dict[str, Any], out: Path, timeout: float | None) -> None:
    """Compile when needed, run, and print each step as it ends.

    Raises:
        PermanentError: a step failed.
    """
    import tempfile

    from clusterheal_pipelines.compiling import compile_pipeline

    from clusterheal.errors import PermanentError
    from clusterheal.local.runner import run_pipeline

    with tempfile.TemporaryDirectory() as aside:
        package = Path(name) if name.endswith(".yaml") else compile_pipeline(name, Path(aside, f"{name}.yaml"))
        limit = None if timeout is None else timedelta(seconds=timeout)
        result = run_pipeline(package, arguments, out=out, on_step=_print_step, timeout=limit)
    typer.echo(f"{result.pipeline} {result.status} in {result.seconds:.0f} s: {result.out}")
    if result.status != "succeeded":
        raise PermanentError(result.error or "the run failed")


def _print_step(step: Step) -> None:
    if step.status != "running":
        typer.echo(f"{step.status:<9} {step.seconds:6.1f} s  {step.title}")


def parse_parameters(given: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; a value that is JSON is taken as such, anything else as text.

    Raises:
        InvalidInput: an entry without `=`.
    """
    from clusterheal.errors import InvalidInput

    found: dict[str, Any] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set: expected NAME=VALUE, got {entry!r}")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found
