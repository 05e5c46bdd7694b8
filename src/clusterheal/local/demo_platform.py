"""Starting the demo's parts, each a real process, and telling them where the others are."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusterheal.errors import ClusterhealError, PermanentError, RetryableError
from clusterheal.kube import resources
from clusterheal.kube.ports import Cluster, Manifest
from clusterheal.local.alertmanager import AlertmanagerSpec, start_alertmanager
from clusterheal.local.demo_config import NAMESPACE, DemoConfig, PartSettings, Ports
from clusterheal.local.exporter import ExporterConfig
from clusterheal.local.processes import ChildSpec
from clusterheal.local.prometheus import PrometheusSpec, start_prometheus
from clusterheal.local.prometheus_backfill import BackfillConfig
from clusterheal.local.replay import Replay
from clusterheal.local.supervisor import Supervisor, http_ready
from clusterheal.local.world import ClusterSpec, manifests

PODS_READY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Places:
    """Files and folders of a run, all below `out`."""

    out: Path

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def kubeconfig(self) -> Path:
        return self.out / "kubeconfig"

    @property
    def prometheus(self) -> Path:
        return self.out / "prometheus"

    @property
    def alertmanager(self) -> Path:
        return self.out / "alertmanager"

    @property
    def alert_token(self) -> Path:
        return self.out / "alert-token"

    @property
    def world_state(self) -> Path:
        return self.out / "world-state.json"

    @property
    def settings(self) -> Path:
        return self.out / "settings.toml"

    @property
    def models(self) -> Path:
        return self.out / "models"

    @property
    def dataset(self) -> Path:
        return self.out / "dataset"

    @property
    def runs(self) -> Path:
        return self.out / "runs"


@dataclass(kw_only=True)
class Platform:
    """The parts that are up, and the settings that our own processes get."""

    config: DemoConfig
    places: Places
    ports: Ports
    spec: ClusterSpec
    replay: Replay | None
    supervisor: Supervisor
    settings: PartSettings
    step_seconds: int

    def use(self, section: str, **values: Any) -> None:
        """Set fields of one settings section, for processes started from now on."""
        self.settings = self.settings.merged(section, **values)
        self.places.settings.write_text(self.settings.toml())

    def environment(self, *, threads: int = 2) -> dict[str, str]:
        """For our own processes: the settings, and no more threads than a small machine has cores."""
        limits = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}  # spinning starves the other parts
        return {**self.settings.environment(), **limits, "PYTHONUNBUFFERED": "1"}

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator[Cluster]:
        """A client of the emulated Kubernetes API."""
        from clusterheal.kube.http import HttpCluster
        from clusterheal.settings import KubernetesSettings

        async with HttpCluster.from_settings(KubernetesSettings(kubeconfig=self.places.kubeconfig)) as cluster:
            yield cluster


def initial_settings(
    config: DemoConfig, places: Places, ports: Ports, *, step_seconds: int, days: float
) -> PartSettings:
    """Everything that is known before anything runs."""
    out = {name: str(getattr(places, name).resolve()) for name in ("dataset", "models", "kubeconfig", "alert_token")}
    training: dict[str, Any] = {"seed": config.seed, "device": "cpu"}
    if config.train_seconds is not None:
        training["max_seconds"] = config.train_seconds
    return PartSettings(
        values={
            "prometheus": {"url": f"http://127.0.0.1:{ports.prometheus}"},
            "dataset": {"path": out["dataset"], "step": f"PT{step_seconds}S", "days": days},
            "training": training,
            "registry": {"url": f"http://127.0.0.1:{ports.registry}", "storage": out["models"], "author": "demo"},
            "kubernetes": {"kubeconfig": out["kubeconfig"], "namespace": NAMESPACE},
            "engine": {
                "mode": "auto",
                "ai_needs_outcomes": False,  # a run of minutes has none: it rests on the detector's calibration
                "port": ports.engine,
                "interval": "PT2S",
                "follow": "PT2S",
                "alarm_rounds": 2,
                "verify_after": "PT6S",
                "verify_timeout": "PT4M",
                "allow_anonymous": True,
                "alert_token_file": out["alert_token"],
            },
            "log": {"level": "INFO"},
        }
    )


async def start_kubernetes(platform: Platform) -> None:
    """The Kubernetes API emulator with the cluster's objects; returns when every pod is ready.

    Raises:
        ChildDied, PermanentError: it did not come up.
    """
    port = platform.ports.kubernetes
    server = f"http://127.0.0.1:{port}"
    argv = (*python_module("clusterheal.cli"), "emulator", "--port", str(port), "--crds", str(definitions()))
    child = ChildSpec(name="kubernetes", argv=(*argv, "--seed", str(platform.config.seed)))
    await platform.supervisor.start(child, ready=lambda: http_ready(f"{server}/readyz"))
    platform.places.kubeconfig.write_text(kubeconfig(server))
    async with platform.cluster() as cluster:
        for resource, obj in (*manifests(platform.spec), *platform_objects(platform.spec)):
            await ensure(cluster, resource, obj)
        await platform.supervisor.guard(wait_for_pods(cluster, platform.spec))


def definitions() -> Path:
    """The folder with our custom resource definitions.

    Raises:
        PermanentError: this is no checkout of the project.
    """
    folder = Path(__file__).parents[3] / "manifests" / "cluster" / "crds"
    if not folder.is_dir():
        raise PermanentError(f"{folder} not found; run the demo from a checkout of the project")
    return folder


def kubeconfig(server: str) -> str:
    """For kubectl and our own processes; the emulator asks for no credentials."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "demo", "cluster": {"server": server}}],
        "users": [{"name": "demo", "user": {}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo", "namespace": NAMESPACE}}],
        "current-context": "demo",
    }
    return yaml.safe_dump(config, sort_keys=False)


async def ensure(cluster: Cluster, resource: Any, obj: Manifest) -> None:
    """Create an object unless it exists."""
    from clusterheal.kube.ports import ApiError

    try:
        await cluster.create(resource, obj, namespace=obj["metadata"].get("namespace"))
    except ApiError as exc:
        if exc.reason != "AlreadyExists":
            raise


def platform_objects(spec: ClusterSpec) -> list[tuple[Any, Manifest]]:
    """Our namespace, and the policy that lets the engine act by itself in the workloads' namespaces."""
    policy = {
        "apiVersion": resources.REMEDIATION_POLICIES.api_version,
        "kind": "RemediationPolicy",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "mode": "auto",
            "actions": ["restart", "undo", "scale"],
            "targets": {"namespaces": list(spec.namespaces), "kinds": ["Deployment"]},
            "cooldown": "5m",
            "verify": {"after": "5s", "timeout": "4m"},
        },
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [(resources.NAMESPACES, namespace), (resources.REMEDIATION_POLICIES, policy)]


async def wait_for_pods(cluster: Cluster, spec: ClusterSpec) -> None:
    """Until every workload has all its pods ready on a node.

    Raises:
        PermanentError: it took too long, naming the workloads that lack pods.
    """
    from clusterheal.local.world_live import pod_view

    deadline = time.monotonic() + PODS_READY_SECONDS
    while True:
        views = [pod_view(pod, spec) for pod in (await cluster.list(resources.PODS)).items]
        ready = [view.workload.key for view in views if view is not None and view.ready]
        lacking = [w.key for w in spec.workloads if ready.count(w.key) < w.replicas]
        if not lacking:
            return
        if time.monotonic() > deadline:
            raise PermanentError(f"pods of {', '.join(lacking)} were not ready within {PODS_READY_SECONDS:g} s")
        await asyncio.sleep(0.1)


async def start_registry(platform: Platform) -> None:
    """The model registry's development server."""
    db, port = platform.places.out / "registry.sqlite", platform.ports.registry
    argv = (*python_module("clusterheal.local.registry.server"), "--db", str(db), "--port", str(port))
    url = f"http://127.0.0.1:{port}/api/model_registry/v1alpha3/registered_models?pageSize=1"
    child = ChildSpec(name="registry", argv=argv, env=platform.environment(threads=1))
    await platform.supervisor.start(child, ready=lambda: http_ready(url))


async def fill_history(platform: Platform, *, end: int, on_line: Callable[[str], None]) -> None:
    """The history up to `end` (seconds) as TSDB blocks: generated, or replayed.

    Raises:
        ChildDied: the job failed; its message is in the error.
    """
    config, places = platform.config, platform.places
    days = platform.replay.days if platform.replay else config.days
    pods: dict[str, list[tuple[str, str]]] = {}
    if platform.replay is None:
        async with platform.cluster() as cluster:
            pods = await pods_by_workload(cluster, platform.spec)
    job = BackfillConfig(
        folder=str(places.prometheus),
        start=end - round(days * 86_400),
        end=end,
        step_seconds=platform.step_seconds,
        seed=config.seed,
        source=str(config.data) if platform.replay else None,
        series=config.series,
        state=str(places.world_state),
        pods=pods,
    )
    path = places.out / "backfill.json"
    job.write(path)
    argv = (*python_module("clusterheal.local.prometheus_backfill"), str(path))
    await platform.supervisor.run(ChildSpec(name="backfill", argv=argv), on_line=on_line)


async def pods_by_workload(cluster: Cluster, spec: ClusterSpec) -> dict[str, list[tuple[str, str]]]:
    """Name and node of every pod, by workload key."""
    from clusterheal.local.world_live import pod_view

    found: dict[str, list[tuple[str, str]]] = {}
    for pod in (await cluster.list(resources.PODS)).items:
        view = pod_view(pod, spec)
        if view is not None:
            found.setdefault(view.workload.key, []).append((view.place.name, view.place.node))
    return found


async def start_exporter(platform: Platform, *, history_end: int) -> None:
    """The process that exposes live metrics of the emulated cluster."""
    config, places = platform.config, platform.places
    ExporterConfig(
        port=platform.ports.exporter,
        kubeconfig=str(places.kubeconfig),
        seed=config.seed,
        state=None if platform.replay else str(places.world_state),
        data=str(config.data) if platform.replay else None,
        series=config.series,
        history_end=history_end,
    ).write(places.out / "exporter.json")
    argv = (*python_module("clusterheal.local.exporter"), str(places.out / "exporter.json"))
    url = f"http://127.0.0.1:{platform.ports.exporter}/metrics"
    child = ChildSpec(name="exporter", argv=argv, env=platform.environment(threads=1))
    await platform.supervisor.start(child, ready=lambda: http_ready(url))


async def start_metrics(
    platform: Platform, *, jobs: Mapping[str, int] | None = None, rules: tuple[Path, ...] = ()
) -> None:
    """Prometheus over the history, scraping the exporter, the engine and further jobs by their ports."""
    spec = PrometheusSpec(
        folder=platform.places.prometheus,
        port=platform.ports.prometheus,
        exporter_port=platform.ports.exporter,
        alertmanager_port=platform.ports.alertmanager,
        step_seconds=platform.step_seconds,
        jobs={"coordination-engine": platform.ports.engine, **(jobs or {})},
        labels={"namespace": NAMESPACE},
        rules=rules,
    )
    await start_prometheus(platform.supervisor, spec)


async def start_alerting(platform: Platform) -> None:
    """Alertmanager, posting to the engine with a token of this run."""
    places, ports = platform.places, platform.ports
    token = secrets.token_urlsafe(24)
    places.alert_token.touch(mode=0o600)
    places.alert_token.write_text(token)
    spec = AlertmanagerSpec(
        folder=places.alertmanager,
        port=ports.alertmanager,
        webhook_url=f"http://127.0.0.1:{ports.engine}/alerts",
        token_file=places.alert_token,
    )
    await start_alertmanager(platform.supervisor, spec)


async def start_engine(platform: Platform) -> None:
    """The coordination engine, pointed at the served models."""
    child = ChildSpec(
        name="engine", argv=(*python_module("clusterheal.cli"), "engine"), env=platform.environment(threads=1)
    )
    url = f"http://127.0.0.1:{platform.ports.engine}/readyz"
    await platform.supervisor.start(child, ready=lambda: http_ready(url), timeout_seconds=60)


def python_module(name: str) -> tuple[str, str, str]:
    """The command that runs one of our modules with this interpreter."""
    return (sys.executable, "-m", name)


async def retried(work: Callable[[], Any], *, attempts: int = 5) -> Any:
    """Await `work()`, again after errors that may pass.

    Raises:
        ClusterhealError: the last one.
    """
    for attempt in range(attempts):
        try:
            return await work()
        except RetryableError:
            if attempt == attempts - 1:
                raise
            await asyncio.sleep(0.3 * 2**attempt)
    raise ClusterhealError("unreachable: attempts must be at least 1")


__all__ = [
    "Places",
    "Platform",
    "fill_history",
    "initial_settings",
    "pods_by_workload",
    "python_module",
    "retried",
    "start_alerting",
    "start_engine",
    "start_exporter",
    "start_kubernetes",
    "start_metrics",
    "start_registry",
]
