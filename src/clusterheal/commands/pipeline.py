"""`clusterheal pipeline compile | run | submit | schedule | status`"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusterheal_pipelines.backend import Backend

    from clusterheal.local.runner_log import Step
    from clusterheal.settings import Settings

Parameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE for a parameter of the pipeline (JSON or text); may be given often."),
]

ServerUrl = Annotated[str | None, typer.Option(help="Data Science Pipelines API, root URL.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with a bearer token for the API.")]
CaFile = Annotated[Path | None, typer.Option(help="CA bundle of the API.")]
Image = Annotated[str | None, typer.Option(help="Image of all components, pinned by digest: NAME@sha256:...")]
DataClaim = Annotated[
    str | None, typer.Option(help="PersistentVolumeClaim to mount at /data in every step, ReadWriteMany.")
]
Config = Annotated[Path | None, typer.Option(help="Settings file (TOML).")]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="First look for what the pods need: ConfigMap, Secret, claim, GPUs.")
]


def register(app: typer.Typer) -> None:
    pipeline = typer.Typer(no_args_is_help=True, help="Compile, run, submit and schedule the Kubeflow pipelines.")
    app.add_typer(pipeline, name="pipeline")
    pipeline.command("compile")(compile_everything)
    for command in (run, submit, schedule, status):
        pipeline.command()(command)


def compile_everything(
    out: Annotated[Path, typer.Option(help="Folder for the packages.")] = Path("pipelines/compiled"),
    image: Image = None,
    data_claim: DataClaim = None,
    readmes: Annotated[
        Path, typer.Option(help="Also write the components' READMEs below this folder, if it exists.")
    ] = Path("components/clusterheal_components"),
) -> None:
    """Compile every pipeline: packages that the OpenShift AI dashboard imports, and manifests for GitOps.

    Example: clusterheal pipeline compile --out build --image quay.io/org/clusterheal-pipeline@sha256:...
    """
    from clusterheal_pipelines.compiling import compile_all, write_readmes

    made = compile_all(out, image=image, data_claim=data_claim)
    made += write_readmes(readmes) if readmes.is_dir() else []
    for path in made:
        typer.echo(str(path))


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


def submit(
    name: Annotated[str, typer.Argument(help="Pipeline, e.g. train.")],
    parameters: Parameters = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    image: Image = None,
    data_claim: DataClaim = None,
    check: Check = True,
    config: Config = None,
) -> None:
    """Upload a pipeline where this version of it is missing, and start a run on the cluster.

    Example: clusterheal pipeline submit train --set days=14 --url https://ds-pipeline-dspa.ml.svc:8443
    """
    from clusterheal_pipelines import submitting

    with (
        connected(config, url, token_file, ca_file) as (backend, settings),
        packaged(name, image_for(image, settings), data_claim) as package,
    ):
        account = settings.pipelines.service_account
        given = submitting.checked_parameters(package, parse_parameters(parameters or []))
        look_before(settings, given, check=check, data_claim=data_claim)
        run = submitting.submit(backend, name, package, given, account=account)
    typer.echo(f"{run.get('run_id')} {run.get('state', 'PENDING')}")


def schedule(
    name: Annotated[str, typer.Argument(help="Pipeline, e.g. retrain.")],
    cron: Annotated[str, typer.Option(help="Six fields, seconds first: '0 0 3 * * *' is daily at 03:00.")],
    parameters: Parameters = None,
    pinned: Annotated[bool, typer.Option(help="Stay on this version instead of following the latest.")] = False,
    disabled: Annotated[bool, typer.Option("--disabled", help="Make it, but do not start runs.")] = False,
    wait: Annotated[float, typer.Option(help="How long to wait for a running job before replacing, s.")] = 3600.0,
    url: ServerUrl = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    image: Image = None,
    data_claim: DataClaim = None,
    check: Check = True,
    config: Config = None,
) -> None:
    """Have exactly one schedule for a pipeline: no catch-up, one run at a time. Safe to repeat.

    Example: clusterheal pipeline schedule retrain --cron '0 0 3 * * *' --set when=drifted
    """
    from clusterheal_pipelines import submitting

    submitting.check_cron(cron)
    with (
        connected(config, url, token_file, ca_file) as (backend, settings),
        packaged(name, image_for(image, settings), data_claim) as package,
    ):
        account = settings.pipelines.service_account
        given = submitting.checked_parameters(package, parse_parameters(parameters or []))
        look_before(settings, given, check=check, data_claim=data_claim)
        wanted = submitting.Schedule(cron=cron, parameters=given, pinned=pinned, enabled=not disabled)
        limit = timedelta(seconds=wait)
        made, new = submitting.schedule(backend, name, package, wanted, account=account, wait=limit)
    typer.echo(f"{made.get('recurring_run_id')} {'created' if new else 'unchanged'}")


def status(
    run_id: Annotated[str | None, typer.Argument(help="A run's id; default: the newest runs.")] = None,
    limit: Annotated[int, typer.Option(help="How many of the newest runs to show.")] = 10,
    url: ServerUrl = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: Config = None,
) -> None:
    """Show runs on the cluster; with a run's id, exits 1 when that run failed.

    Example: clusterheal pipeline status --limit 5
    """
    from itertools import islice

    from clusterheal.errors import PermanentError

    with connected(config, url, token_file, ca_file) as (backend, _):
        runs = [backend.run(run_id)] if run_id is not None else list(islice(backend.runs(), limit))
    for run in runs:
        typer.echo(f"{run['run_id']} {run.get('state', '?'):<10} {run.get('created_at')} {run.get('display_name')}")
    if run_id is not None and runs[0].get("state") in ("FAILED", "CANCELED"):
        error = (runs[0].get("error") or {}).get("message") or "see its steps"
        raise PermanentError(f"run {run_id} {runs[0]['state'].lower()}: {error}")


@contextmanager
def connected(
    config: Path | None, url: str | None, token_file: Path | None, ca_file: Path | None
) -> Iterator[tuple[Backend, Settings]]:
    """The server that flags and settings name, and the settings."""
    from clusterheal_pipelines.backend import Backend

    from clusterheal.settings import load_settings
    from clusterheal.telemetry import configure_logging

    flags: dict[str, dict[str, Any]] = {"pipelines": {"url": url, "token_file": token_file, "ca_file": ca_file}}
    settings = load_settings(config, flags)
    configure_logging(settings.log)
    with Backend(settings.pipelines) as backend:
        yield backend, settings


def look_before(settings: Settings, parameters: dict[str, Any], *, check: bool, data_claim: str | None = None) -> None:
    """Refuse a run whose pods could not start; what cannot be looked at is said.

    Raises:
        InvalidInput: a ConfigMap, a Secret, a key, a claim or a GPU is missing.
    """
    import asyncio

    from clusterheal_pipelines.preflight import Preflight, check_accelerators, preflight

    from clusterheal.errors import InvalidInput
    from clusterheal.kube.http import HttpCluster

    check_accelerators(parameters)
    if not check:
        return
    try:
        cluster = HttpCluster.from_settings(settings.kubernetes)
    except InvalidInput as exc:
        typer.echo(f"not checked whether the pods could start: {exc}", err=True)
        return

    async def look() -> Preflight:
        async with cluster:
            return await preflight(cluster, settings.kubernetes.namespace, parameters, data_claim=data_claim)

    seen = asyncio.run(look())
    for line in seen.unseen:
        typer.echo(f"not checked: {line}", err=True)
    seen.require()


def image_for(image: str | None, settings: Settings) -> str | None:
    """The image of the run's pods; without one they ask for a name that no registry has, which is said."""
    chosen = image or settings.pipelines.image
    if chosen is None:
        typer.echo("no image is named: give --image or pipelines.image, or the pods find none to pull", err=True)
    return chosen


@contextmanager
def packaged(name: str, image: str | None, data_claim: str | None) -> Iterator[Path]:
    """The compiled package of a pipeline, for as long as it is needed."""
    import tempfile

    from clusterheal_pipelines.compiling import compile_pipeline

    with tempfile.TemporaryDirectory() as aside:
        yield compile_pipeline(name, Path(aside, f"{name}.yaml"), image=image, data_claim=data_claim)


def run_here(name: str, arguments: dict[str, Any], out: Path, timeout: float | None) -> None:
    """Compile when needed, run, and print each step as it begins and ends.

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
        result = run_pipeline(package, arguments, out=out, env=_built_by(), on_step=_print_step, timeout=limit)
    typer.echo(f"{result.pipeline} {result.status} in {result.seconds:.0f} s: {result.out}")
    if result.status != "succeeded":
        raise PermanentError(result.error or "the run failed")


def _built_by() -> dict[str, str]:
    """What registered versions say they were made with, unless the environment says it already."""
    import os

    from clusterheal.local.runner_source import checkout_commit

    commit = None if "CLUSTERHEAL_BUILD__GIT_COMMIT" in os.environ else checkout_commit()
    return {} if commit is None else {"CLUSTERHEAL_BUILD__GIT_COMMIT": commit}


def _print_step(step: Step) -> None:
    took = " " * 8 if step.status == "running" else f"{step.seconds:6.1f} s"
    typer.echo(f"{step.status:<9} {took}  {step.title}")


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
