"""Training by several processes as a Kubeflow Trainer job: of local processes here, or as a TrainJob on a cluster.

Both start `torchrun` on the same program, `python -m clusterheal_components.training`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.settings import KubernetesSettings, TrainJobSettings

log = logging.getLogger(__name__)

PROGRAM = "clusterheal_components.training"
LOCAL_RUNTIME = "torch-distributed"  # the only one that the SDK's local backend knows
COMPLETE, FAILED = "Complete", "Failed"
LAST_LINES = 60


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One model's training, from a frozen dataset to a sealed package; the folders are absolute."""

    model: str
    dataset: Path
    out: Path
    seed: int = 7
    device: str = "auto"
    max_seconds: float | None = None
    checkpoint: Path | None = None

    def arguments(self) -> list[str]:
        """For the program that `torchrun` starts."""
        found = [self.model, "--dataset", str(self.dataset), "--out", str(self.out), "--seed", str(self.seed)]
        found += ["--device", self.device]
        if self.max_seconds is not None:
            found += ["--max-seconds", str(self.max_seconds)]
        if self.checkpoint is not None:
            found += ["--checkpoint", str(self.checkpoint)]
        return found


def train_locally(fit: Fit, *, processes: int, timeout: timedelta) -> None:
    """Train by `processes` on this machine, through the SDK's local-process backend.

    Raises:
        PermanentError: the job failed; the message ends with its last lines.
        RetryableError: it took longer than `timeout`.
    """
    from kubeflow.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient

    client = TrainerClient(backend_config=LocalProcessBackendConfig())
    runtime = client.get_runtime(LOCAL_RUNTIME)
    runtime.trainer.framework = "python"  # as "torch" it would look for torchrun in a new, empty environment
    parameters = {"python": sys.executable, "processes": processes, "program": [PROGRAM, *fit.arguments()]}
    # The backend gives the job these variables alone; the interpreter is this one, so it needs the same paths.
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    trainer = CustomTrainer(func=_start_torchrun, func_args=parameters, env=environment)
    before = Path.cwd()
    name = client.train(runtime=runtime, trainer=trainer)
    try:
        _require_complete(client, name, timeout)
    finally:
        _clean_up(name, before)


def _start_torchrun(parameters: dict[str, object]) -> None:
    """Becomes torchrun. The SDK copies this function's text into a file, so it has to stand alone."""
    import os

    python = str(parameters["python"])
    arguments = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={parameters['processes']}", "-m"]
    program = parameters["program"]
    assert isinstance(program, list)
    os.execv(python, [python, *arguments, *program])  # noqa: S606  (no shell is wanted)


def _clean_up(name: str, before: Path) -> None:
    """The backend's thread works in the job's folder, which it leaves behind when the job failed."""
    for thread in threading.enumerate():
        if thread.name == f"{name}-train":
            thread.join(timeout=30)
    os.chdir(before)
    for folder in Path(tempfile.gettempdir()).glob(f"{name}*"):
        shutil.rmtree(folder, ignore_errors=True)


def train_on_cluster(fit: Fit, job: TrainJobSettings, kubernetes: KubernetesSettings) -> str:
    """Train as a TrainJob on a cluster with Kubeflow Trainer, wait for its end and return its name.

    Dataset and package lie on the claim `job.claim`, which is mounted at `job.mount` in the job's pods and here.

    Raises:
        InvalidInput: no claim, no image, or folders outside of the claim.
        PermanentError: the cluster refuses the job or lacks the runtime, or the job failed.
        RetryableError: it took longer than `job.timeout`.
    """
    from kubeflow.trainer import CustomTrainerContainer, KubernetesBackendConfig, TrainerClient, options

    _require_reachable(fit, job)
    config = KubernetesBackendConfig(
        namespace=kubernetes.namespace,
        config_file=kubernetes.kubeconfig and str(kubernetes.kubeconfig),
        context=kubernetes.context,
    )
    resources: dict[str, Any] = {"cpu": job.cpu, "memory": job.memory}
    if job.accelerators:
        resources[job.accelerator] = str(job.accelerators)
    trainer = CustomTrainerContainer(image=str(job.image), num_nodes=job.nodes, resources_per_node=resources)
    try:
        client = TrainerClient(backend_config=config)
        name: str = client.train(
            runtime=job.runtime,
            trainer=trainer,
            options=[
                options.TrainerCommand(["torchrun"]),
                options.TrainerArgs(["-m", PROGRAM, *fit.arguments()]),
                options.Labels(
                    {"app.kubernetes.io/part-of": "self-healing-platform", "clusterheal.io/model": fit.model}
                ),
                options.ActiveDeadlineSeconds(int(job.timeout.total_seconds())),
                _claim_patch(job),
            ],
        )
    except (RuntimeError, TimeoutError) as exc:
        answer = getattr(exc.__cause__, "body", None) or exc.__cause__
        raise PermanentError(
            f"no TrainJob in namespace {kubernetes.namespace}: {exc}: {answer}; it needs Kubeflow Trainer, "
            f"the runtime {job.runtime!r}, and the right to create trainjobs.trainer.kubeflow.org"
        ) from exc
    log.info("TrainJob created", extra={"job": name, "namespace": kubernetes.namespace, "nodes": job.nodes})
    _require_complete(client, name, job.timeout)
    return name


def _claim_patch(job: TrainJobSettings) -> Any:
    from kubeflow.trainer import options

    volume = {"name": "training", "persistentVolumeClaim": {"claimName": job.claim}}
    mount = {"name": "training", "mountPath": str(job.mount)}
    pod = options.PodSpecPatch(
        volumes=[volume], containers=[options.ContainerPatch(name="node", volume_mounts=[mount])]
    )
    node = options.ReplicatedJobPatch(
        name="node",
        template=options.JobTemplatePatch(spec=options.JobSpecPatch(template=options.PodTemplatePatch(spec=pod))),
    )
    jobs = options.JobSetTemplatePatch(spec=options.JobSetSpecPatch(replicated_jobs=[node]))
    return options.RuntimePatch(training_runtime_spec=options.TrainingRuntimeSpecPatch(template=jobs))


def _require_reachable(fit: Fit, job: TrainJobSettings) -> None:
    if not job.claim or not job.image:
        missing = "train_job.claim" if not job.claim else "train_job.image"
        raise InvalidInput(
            f"a TrainJob needs {missing}: a claim that this process and the job's pods mount at {job.mount}, "
            "and the pipeline image"
        )
    for folder in (fit.dataset, fit.out, fit.checkpoint):
        if folder is not None and not folder.is_relative_to(job.mount):
            raise InvalidInput(
                f"{folder} does not lie on the claim {job.claim!r}, which is mounted at {job.mount}: the job's pods "
                "could not read or write it; put the output folder there"
            )


def _require_complete(client: Any, name: str, timeout: timedelta) -> None:
    """Wait for the job's end and pass its lines on to the log."""
    shown = 0

    def follow(_: object) -> None:
        nonlocal shown
        lines = _lines(client, name)
        for line in lines[shown:]:
            log.info(line)
        shown = len(lines)

    try:
        job = client.wait_for_job_status(
            name,
            status={COMPLETE, FAILED},
            timeout=int(timeout.total_seconds()),
            polling_interval=1,
            callbacks=[follow],
        )
    except TimeoutError as exc:
        client.delete_job(name)
        raise RetryableError(f"training job {name} did not end within {timeout}; it was deleted") from exc
    if job.status != COMPLETE:
        last = "\n".join(_lines(client, name)[-LAST_LINES:]) or "it left no log"
        raise PermanentError(f"training job {name} failed:\n{last}")


def _lines(client: Any, name: str) -> list[str]:
    try:
        return list(client.get_job_logs(name))
    except RuntimeError as exc:  # a pod that is gone, or not yet there, must not end the training
        log.debug("no log of the job yet", extra={"job": name, "error": str(exc)})
        return []
