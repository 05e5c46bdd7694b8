"""Every playbook on the emulated API server: it heals and proves it, or hands over with the right explanation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from platform_kit import Platform

from clusterheal.contracts import FeatureContract, IncidentState, Verdict
from clusterheal.engine.names import CORDON_OWNER, SUGGESTION
from clusterheal.engine.signals.gpu import CHANGED_XIDS, CURRENT_XIDS
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.signals.prometheus import FIRING, SINCE
from clusterheal.engine.signals.silences import Matcher, Silence, Silences
from clusterheal.errors import RetryableError
from clusterheal.kube.inference_service import PREVIOUS, VERSION_LABEL, Placement, Previous
from clusterheal.kube.ports import ApiError, Manifest, PatchType, Resource
from clusterheal.kube.resources import (
    APPLICATIONS,
    CRON_JOBS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
)
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.kube.platform import platform_definitions
from clusterheal.local.simulation.scenario import NAMESPACE, SHOP
from clusterheal.local.simulation.virtual_time import START

Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]

WHOLE = frozenset({CURRENT_XIDS, CHANGED_XIDS, FIRING, SINCE})


@dataclass(frozen=True)
class Sample:
    labels: dict[str, str]
    value: float = 1.0


@dataclass
class Scripted:
    """Stands for Prometheus at the network's edge: answers by query, with nothing where nothing was scripted.

    It does not evaluate PromQL; `tests/local` runs the same queries on a real server.
    """

    answers: dict[str, list[Sample]] = field(default_factory=dict)
    down: bool = False
    asked: list[str] = field(default_factory=list)

    async def query(self, promql: str) -> Sequence[Sample]:
        if self.down:
            raise RetryableError("no answer")
        self.asked.append(promql)
        whole = self.answers.get(promql)
        parts = (found for text, found in self.answers.items() if text in promql and text not in WHOLE)
        return whole if whole is not None else next(parts, [])


async def container(p: Platform, name: str = "cart", **resources: Any) -> None:
    """Give the only container of a Deployment these resources, and let the rollout finish."""
    entry = {"name": "main", "image": "registry.example/shop:1", "resources": resources}
    await p.patch(name, {"spec": {"template": {"spec": {"containers": [entry]}}}})
    await asyncio.sleep(60)


async def limit(p: Platform, resource: str, name: str = "cart") -> str:
    found = await p.deployment(name)
    return str(found["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"][resource])


def test_a_container_killed_for_memory_gets_what_it_used_and_some_more(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(resources={"maxMemory": "1Gi"})
        await container(p, limits={"memory": "256Mi"}, requests={"memory": "256Mi"})
        prometheus = Scripted(
            {
                "quantile_over_time(0.5": [Sample({}, 250 * 2.0**20)],
                "quantile_over_time(0.99": [Sample({}, 400 * 2.0**20)],
                "max_over_time": [Sample({}, 410 * 2.0**20)],
            }
        )
        await p.engine(prometheus=prometheus)
        p.needs_memory["cart"] = 300 * 2**20
        p.emulator.controllers.wake()
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED, within=1800)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert ended.diagnosis is not None
        assert "99th percentile 400Mi" in ended.diagnosis.explanation
        assert await limit(p, "memory") == "512Mi"  # 400Mi and a quarter, in steps of 16Mi
        requests = (await p.deployment())["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert requests["memory"] == "512Mi", "the Guaranteed class is kept"
        assert any('namespace="shop",pod=~"cart-[a-z0-9]+-[a-z0-9]{5}"' in q for q in prometheus.asked)

    sim(test)


def test_without_a_bound_in_a_policy_memory_is_not_raised_but_the_figure_is_told(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await container(p, limits={"memory": "256Mi"})
        await p.engine()
        p.needs_memory["cart"] = 300 * 2**20
        p.emulator.controllers.wake()
        ended = await p.until(IncidentState.ESCALATED)
        assert "A limit of 320Mi would have held" in ended.message
        assert "maxMemory" in ended.message
        assert await limit(p, "memory") == "256Mi"

    sim(test)


def test_throttling_raises_the_cpu_limit_within_the_policy(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(resources={"maxCpu": "1"})
        await container(p, limits={"cpu": "500m"})
        engine = await p.engine()
        labels = {"alertname": "CPUThrottlingHigh", "container": "main"}
        began = await p.alert(engine, **labels)
        await p.until(IncidentState.VERIFYING)
        assert await limit(p, "cpu") == "650m"
        await p.alert(engine, "resolved", started=began, **labels)
        ended = await p.until(IncidentState.RESOLVED)
        assert ended.outcome is not None
        assert ended.outcome.verdict is Verdict.HELPED

    sim(test)


def a_claim(size: str = "10Gi", *, class_name: str = "fast") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": SHOP},
        "spec": {"storageClassName": class_name, "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Bound", "capacity": {"storage": size}},
    }


def a_class(*, expands: bool) -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "fast"},
        "provisioner": "csi.example",
        "allowVolumeExpansion": expands,
    }


FILLING = {"alertname": "KubePersistentVolumeFillingUp", "persistentvolumeclaim": "data", "workload": ""}
IN_A_DAY = "kubelet_volume_stats_available_bytes"


async def resized(p: Platform) -> str:
    """Play the storage driver: the volume becomes as large as its claim asks."""
    claim = await p.cluster.get(PERSISTENT_VOLUME_CLAIMS, "data", namespace=SHOP)
    size = str(claim["spec"]["resources"]["requests"]["storage"])
    patch = {"status": {"capacity": {"storage": size}}}
    await p.cluster.patch(
        PERSISTENT_VOLUME_CLAIMS, "data", patch, patch_type=PatchType.MERGE, namespace=SHOP, subresource="status"
    )
    return size


def test_a_filling_volume_is_expanded_where_its_class_allows_it(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        p.emulator.load([a_class(expands=True), a_claim()])
        await p.policy(volumes={"maxSize": "100Gi"})
        engine = await p.engine(prometheus=Scripted({"used_bytes": [Sample({}, 0.72)]}))
        began = await p.alert(engine, **FILLING)
        acting = await p.until(IncidentState.VERIFYING)
        assert (acting.target.kind, acting.target.name) == ("PersistentVolumeClaim", "data")
        await p.alert(engine, "resolved", started=began, **FILLING)
        await asyncio.sleep(60)
        assert (await p.incident()).state is IncidentState.VERIFYING, "the driver has not resized it yet"
        assert await resized(p) == "13Gi"  # a quarter more, in whole Gi
        ended = await p.until(IncidentState.RESOLVED)
        assert ended.outcome is not None
        assert ended.outcome.observed == pytest.approx(0.72)

    sim(test)


def test_a_volume_whose_class_does_not_expand_is_handed_over_with_the_date(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        p.emulator.load([a_class(expands=False), a_claim()])
        await p.policy(volumes={"maxSize": "100Gi"})
        engine = await p.engine(prometheus=Scripted({IN_A_DAY: [Sample({}, 86400.0)]}))
        full = p.clock.now() + timedelta(days=1)
        await p.alert(engine, **FILLING)
        ended = await p.until(IncidentState.ESCALATED)
        assert "StorageClass fast does not allow expansion" in ended.message
        assert f"forecast to be full at {full:%Y-%m-%d}" in ended.message

    sim(test)


@pytest.mark.parametrize(("bound", "says"), [(None, "no policy says"), ({"maxSize": "10Gi"}, "as large as the policy")])
def test_a_volume_grows_only_within_the_policy(sim: Sim, bound: Manifest | None, says: str) -> None:
    async def test(p: Platform) -> None:
        p.emulator.load([a_class(expands=True), a_claim()])
        await p.policy(**({} if bound is None else {"volumes": bound}))
        engine = await p.engine()
        await p.alert(engine, **FILLING)
        assert says in (await p.until(IncidentState.ESCALATED)).message

    sim(test)


def test_an_image_that_cannot_be_pulled_after_a_rollout_is_undone(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        p.bad_images["registry.example/shop:typo"] = "ImagePullBackOff"
        entry = {"name": "main", "image": "registry.example/shop:typo"}
        await p.patch("cart", {"spec": {"template": {"spec": {"containers": [entry]}}}})
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert ended.diagnosis is not None
        assert "registry.example/shop:typo, which cannot be pulled" in ended.diagnosis.explanation
        assert (await p.deployment())["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/shop:1"

    sim(test)


def test_pods_that_no_node_takes_are_explained_by_the_constraint(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        await p.patch("cart", {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}})
        ended = await p.until(IncidentState.ESCALATED, within=900)
        assert ended.diagnosis is not None
        assert ended.diagnosis.cause == "unschedulable"
        assert "node selector or affinity matches no node" in ended.message

    sim(test)


def test_a_rollout_that_never_becomes_ready_is_undone_after_its_deadline(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        p.bad_images["registry.example/shop:3"] = "NeverReady"
        entry = {"name": "main", "image": "registry.example/shop:3"}
        spec = {"progressDeadlineSeconds": 60, "template": {"spec": {"containers": [entry]}}}
        await p.patch("cart", {"spec": spec})
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert ended.plan is not None
        assert ended.plan.playbook == "stuck-rollout"

    sim(test)


def test_a_node_under_disk_pressure_is_drained_and_one_that_only_fills_up_is_explained(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "30m", "timeout": "5m"})
        engine = await p.engine()
        labels = {"alertname": "NodeFilesystemSpaceFillingUp", "node": "worker-1", "namespace": "", "workload": ""}
        await p.alert(engine, **labels, mountpoint="/var", device="/dev/vda4")
        ended = await p.until(IncidentState.ESCALATED)
        assert "File system /var (/dev/vda4) of Node worker-1 fills up" in ended.message
        assert not await cordoned(p, "worker-1")
        await condition(p, "worker-0", "DiskPressure", "True")
        await asyncio.sleep(240)
        drained = (await p.incidents())[-1]
        assert drained.target.name == "worker-0"
        assert await cordoned(p, "worker-0")
        await condition(p, "worker-0", "DiskPressure", "False")
        await asyncio.sleep(120)
        assert (await p.incidents())[-1].state is IncidentState.RESOLVED
        assert not await cordoned(p, "worker-0")

    sim(test)


async def cordoned(p: Platform, node: str) -> bool:
    return bool(((await p.cluster.get(NODES, node)).get("spec") or {}).get("unschedulable"))


async def condition(p: Platform, node: str, kind: str, status: str) -> None:
    found = await p.cluster.get(NODES, node)
    others = [c for c in found["status"]["conditions"] if c["type"] != kind]
    since = f"{p.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    patch = {"status": {"conditions": [*others, {"type": kind, "status": status, "lastTransitionTime": since}]}}
    await p.cluster.patch(NODES, node, patch, patch_type=PatchType.MERGE, subresource="status")


def xid(code: int, node: str = "worker-0") -> list[Sample]:
    return [Sample({"Hostname": node, "gpu": "3", "UUID": "GPU-1"}, float(code))]


def test_a_gpu_that_broke_empties_its_node_until_it_has_booted_anew(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "2h", "timeout": "5m"})
        prometheus = Scripted({CHANGED_XIDS: xid(79), CURRENT_XIDS: xid(79)})
        await boot(p, "one")
        await p.engine(prometheus=prometheus)
        drained = await p.until(IncidentState.ACTING, IncidentState.VERIFYING)
        assert drained.diagnosis is not None
        assert "XID 79" in drained.diagnosis.explanation
        assert (await p.cluster.get(NODES, "worker-0"))["metadata"]["annotations"][CORDON_OWNER] == drained.name
        prometheus.answers = {CURRENT_XIDS: xid(79)}  # the gauge stays set, nothing changes any more
        await asyncio.sleep(1800)
        assert (await p.incident()).state is IncidentState.VERIFYING, "time alone is no recovery"
        await boot(p, "two")
        await p.until(IncidentState.RESOLVED)
        assert not await cordoned(p, "worker-0")
        await asyncio.sleep(600)  # the gauge still shows the old number: no new incident
        assert len(await p.incidents()) == 1

    sim(test)


async def boot(p: Platform, boot_id: str, node: str = "worker-0") -> None:
    patch = {"status": {"nodeInfo": {"bootID": boot_id}}}
    await p.cluster.patch(NODES, node, patch, patch_type=PatchType.MERGE, subresource="status")


def test_a_gpu_gauge_that_was_set_before_opens_nothing_and_a_programs_fault_takes_no_node_away(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        prometheus = Scripted({CURRENT_XIDS: xid(79)})
        await p.engine(prometheus=prometheus)
        await asyncio.sleep(60)
        assert await p.incidents() == []
        prometheus.answers = {CHANGED_XIDS: xid(31), CURRENT_XIDS: xid(31)}
        ended = await p.until(IncidentState.ESCALATED)
        assert "puts it down to the application" in ended.message
        assert not await cordoned(p, "worker-0")

    sim(test)


def firing(p: Platform, **labels: str) -> dict[str, list[Sample]]:
    named = {"alertname": "MemoryLeakPredicted", "namespace": SHOP, "workload": "cart", "prometheus": "k8s", **labels}
    return {
        FIRING: [Sample({**named, "alertstate": "firing", "__name__": "ALERTS"})],
        SINCE: [Sample({**named, "__name__": "ALERTS_FOR_STATE"}, p.clock.now().timestamp() - 60)],
    }


def test_alerts_that_no_webhook_brings_are_polled_and_end_what_they_began(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        prometheus = Scripted(firing(p))
        await p.engine(prometheus=prometheus)
        acted = await p.until(IncidentState.VERIFYING)
        assert acted.observations[0].signal.name == "MemoryLeakPredicted"
        prometheus.down = True  # no answer is not "nothing fires"
        await asyncio.sleep(60)
        assert (await p.incident()).active
        prometheus.down, prometheus.answers = False, {}
        await p.until(IncidentState.RESOLVED)
        assert await p.restarts() == 1

    sim(test)


def test_one_alert_by_webhook_and_by_poll_is_one_signal(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(mode="observe")
        engine = await p.engine(prometheus=Scripted(firing(p)))
        await p.alert(engine)
        await asyncio.sleep(90)
        assert len((await p.incident()).observations) == 1

    sim(test)


async def bad_rollout(p: Platform) -> None:
    p.bad_images["registry.example/shop:2"] = "CrashLoopBackOff"
    entry = {"name": "main", "image": "registry.example/shop:2"}
    await p.patch("cart", {"spec": {"template": {"spec": {"containers": [entry]}}}})


async def note(p: Platform, **notes: str) -> None:
    patch = {"metadata": {"annotations": {k.replace("__", "/").replace("_", "-"): v for k, v in notes.items()}}}
    await p.cluster.patch(DEPLOYMENTS, "cart", patch, patch_type=PatchType.MERGE, namespace=SHOP)


TRACKED = {"argocd.argoproj.io__tracking_id": "shop:apps/Deployment:shop/cart"}
HELM = {"meta.helm.sh__release_name": "shop-1", "meta.helm.sh__release_namespace": "shop"}


@pytest.mark.parametrize(
    ("notes", "command"),
    [(TRACKED, "argocd app rollback shop"), (HELM, "helm rollback shop-1 --namespace shop")],
    ids=["argocd", "helm"],
)
def test_a_bad_rollout_by_git_or_helm_is_a_suggestion_with_the_command(
    sim: Sim, notes: dict[str, str], command: str
) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await note(p, **notes)
        await p.engine()
        await bad_rollout(p)
        ended = await p.until(IncidentState.SUGGESTED)
        assert command in ended.message
        entry = (await p.deployment())["spec"]["template"]["spec"]["containers"][0]
        assert entry["image"] == "registry.example/shop:2", "nothing was patched behind their back"

    sim(test)


@pytest.mark.parametrize(("mode", "noted"), [("auto", True), ("approve", False), ("suggest", False)])
def test_what_git_has_to_change_is_noted_on_the_object_where_the_engine_may_write(
    sim: Sim, mode: str, noted: bool
) -> None:
    async def test(p: Platform) -> None:
        await p.policy(mode=mode)
        await note(p, **TRACKED)
        await p.engine()
        await bad_rollout(p)
        ended = await p.until(IncidentState.SUGGESTED)
        found = await p.deployment()
        text = (found["metadata"].get("annotations") or {}).get(SUGGESTION, "")
        assert (f"incident {ended.name}" in text and "argocd app rollback shop" in text) is noted
        template = found["spec"]["template"]
        assert template["metadata"].get("annotations") is None, "nothing that rolls pods"
        assert template["spec"]["containers"][0]["image"] == "registry.example/shop:2"

    sim(test)


def test_a_note_that_the_server_refuses_does_not_hold_up_the_hand_over(sim: Sim) -> None:
    class Refusing(SimulatedCluster):
        async def patch(self, resource: Resource, name: str, patch: Any, **options: Any) -> Any:
            raise ApiError(403, "Forbidden", f"may not patch {resource.plural} {name}")

    async def test(p: Platform) -> None:
        await p.policy()
        await note(p, **TRACKED)
        await p.engine(cluster=Refusing(p.emulator.api, manager="engine"))
        await bad_rollout(p)
        await p.until(IncidentState.SUGGESTED)
        assert SUGGESTION not in ((await p.deployment())["metadata"].get("annotations") or {})

    sim(test)


def test_what_was_changed_behind_gits_back_is_synced_by_argo_cd(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(targets={"namespaces": ["shop", "openshift-gitops"]})
        await note(p, **TRACKED)
        application = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": "shop", "namespace": "openshift-gitops"},
            "spec": {},
            "status": {"sync": {"status": "OutOfSync", "revision": "4f2a"}},
        }
        p.emulator.load(platform_definitions())
        p.emulator.load([application])
        await p.engine()
        await bad_rollout(p)
        acting = await p.until(IncidentState.VERIFYING)
        assert acting.plan is not None
        assert acting.plan.action == "sync"
        found = await p.cluster.get(APPLICATIONS, "shop", namespace="openshift-gitops")
        assert found["operation"]["sync"]["revision"] == "4f2a"
        assert found["operation"]["sync"]["resources"][0]["name"] == "cart"
        entry = {"name": "main", "image": "registry.example/shop:1"}  # Argo CD does its work
        await p.patch("cart", {"spec": {"template": {"spec": {"containers": [entry]}}}})
        await p.until(IncidentState.RESOLVED)

    sim(test)


def a_model(previous: timedelta | None = timedelta(hours=1), *, now: Any = None) -> Manifest:
    path = "s3://models/anomaly-detector"
    notes = {}
    if previous is not None:
        before = Placement(uri=f"{path}/v000001/", labels={VERSION_LABEL: "v000001"})
        notes = {PREVIOUS: Previous(placement=before, since=now - previous, replaced_by=f"{path}/v000002/").to_json()}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "anomaly-detector",
            "namespace": NAMESPACE,
            "labels": {VERSION_LABEL: "v000002"},
        },
        "status": {"annotations": notes},
        "spec": {
            "predictor": {"model": {"storageUri": f"{path}/v000002/", "modelFormat": {"name": "clusterheal-onnx"}}}
        },
    }


async def serve(p: Platform, ready: str) -> None:
    """Play KServe's controller."""
    since = f"{p.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    patch = {"status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}
    await p.cluster.patch(
        INFERENCE_SERVICES,
        "anomaly-detector",
        patch,
        patch_type=PatchType.MERGE,
        namespace=NAMESPACE,
        subresource="status",
    )


@pytest.mark.parametrize("how", ["not-ready", "alert", "contract"])
def test_a_model_in_trouble_after_its_rollout_goes_back_to_the_version_before(sim: Sim, how: str) -> None:
    async def test(p: Platform) -> None:
        p.emulator.load(platform_definitions())
        p.emulator.load([a_model(now=p.clock.now())])
        await p.policy()
        scorer = Mismatched() if how == "contract" else None
        engine = await p.engine(scorer=scorer)
        await serve(p, "False" if how == "not-ready" else "True")
        labels = {"alertname": "ModelDrifting", "model_name": "anomaly-detector", "namespace": "", "workload": ""}
        began = await p.alert(engine, **labels) if how == "alert" else None
        acted = await p.until(IncidentState.VERIFYING, within=900)
        found = await p.cluster.get(INFERENCE_SERVICES, "anomaly-detector", namespace=NAMESPACE)
        assert found["spec"]["predictor"]["model"]["storageUri"] == "s3://models/anomaly-detector/v000001/"
        assert found["spec"]["predictor"]["model"]["modelFormat"] == {"name": "clusterheal-onnx"}
        assert found["metadata"]["labels"][VERSION_LABEL] == "v000001"
        assert acted.diagnosis is not None
        assert "version v000002 replaced v000001" in acted.diagnosis.explanation
        await serve(p, "True")
        if scorer is not None:
            scorer.mended = True
        if began is not None:
            await p.alert(engine, "resolved", started=began, **labels)
        await p.until(IncidentState.RESOLVED)

    sim(test)


class Mismatched:
    """A scorer whose models disagree on the feature contract until `mended`."""

    mended = False

    @property
    def contract(self) -> FeatureContract:
        raise AssertionError("no verdict, so nobody asks")

    async def score(self, end: datetime) -> ModelVerdicts:
        if self.mended:
            return ModelVerdicts(scored_at=end, problem="no series")
        return ModelVerdicts(scored_at=end, problem="feature contract: v2 is not v1", mismatch=True)


@pytest.mark.parametrize(
    ("previous", "says"),
    [(None, "no version before it is noted"), (timedelta(days=30), "the rollout is not the cause")],
)
def test_a_model_without_a_recent_rollout_is_handed_over(sim: Sim, previous: timedelta | None, says: str) -> None:
    async def test(p: Platform) -> None:
        p.emulator.load(platform_definitions())
        p.emulator.load([a_model(previous, now=p.clock.now())])
        await p.policy()
        await p.engine()
        await serve(p, "False")
        ended = await p.until(IncidentState.ESCALATED, within=900)
        assert says in ended.message
        assert "rules alone" in ended.message

    sim(test)


async def a_job(p: Platform, *, failed: bool, number: int) -> Manifest:
    cron = await p.cluster.get(CRON_JOBS, "report", namespace=SHOP)
    now = f"{p.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "report", "controller": True}
    owner["uid"] = cron["metadata"]["uid"]
    state = {"type": "Failed" if failed else "Complete", "status": "True", "lastTransitionTime": now}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"report-{number}",
            "namespace": SHOP,
            "creationTimestamp": now,
            "ownerReferences": [owner],
        },
        "spec": {},
        "status": {"failed": 7, "conditions": [{**state, "reason": "BackoffLimitExceeded" if failed else ""}]},
    }


def test_a_failed_run_of_a_cron_job_is_explained_and_the_next_good_one_ends_it(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        cron = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "report", "namespace": SHOP},
            "spec": {"schedule": "0 3 * * *"},
            "status": {"lastSuccessfulTime": "2026-01-04T03:00:00Z"},
        }
        p.emulator.load([cron])
        p.emulator.load([await a_job(p, failed=True, number=1)])
        await p.policy()
        await p.engine()
        ended = await p.until(IncidentState.ESCALATED)
        assert str(ended.target) == "CronJob shop/report"
        assert "in run report-1: its pods failed more often than its backoffLimit allows" in ended.message
        assert "It runs at 0 3 * * *; it last succeeded at 2026-01-04T03:00:00Z" in ended.message
        p.emulator.load([await a_job(p, failed=False, number=2)])
        await asyncio.sleep(60)
        assert not (await p.incident()).active

    sim(test)


@pytest.mark.parametrize(
    ("labels", "target", "says"),
    [
        (
            {"alertname": "CertManagerCertExpirySoon", "name": "shop-tls", "workload": ""},
            "Certificate shop/shop-tls",
            "expires soon",
        ),
        (
            {"alertname": "TargetDown", "service": "cart-metrics", "job": "cart-metrics", "workload": ""},
            "Service shop/cart-metrics",
            "Prometheus cannot scrape Service shop/cart-metrics (job cart-metrics)",
        ),
    ],
    ids=["certificate", "target-down"],
)
def test_what_is_not_ours_to_mend_is_told_at_once(sim: Sim, labels: dict[str, str], target: str, says: str) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        await p.alert(engine, **labels)
        ended = await p.until(IncidentState.ESCALATED, within=60)
        assert str(ended.target) == target
        assert says in ended.message

    sim(test)


class Muted:
    """Stands for the reader of Alertmanager's silences; `tests/local` reads a real one."""

    def __init__(self, until: datetime) -> None:
        matcher = Matcher(name="namespace", value=SHOP, regex=False, equal=True)
        self._silence = Silence(
            id="s", matchers=(matcher,), starts_at=START, ends_at=until, created_by="ann", comment="moving it"
        )
        self.now: Callable[[], datetime] = lambda: START

    async def read(self) -> Silences:
        return Silences(known=(self._silence,), read_at=self.now())


def test_what_is_silenced_waits_and_goes_on_when_the_silence_ends(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        reader = Muted(p.clock.now() + timedelta(minutes=3))
        reader.now = p.clock.now
        engine = await p.engine(silences=reader)
        await p.alert(engine)
        await asyncio.sleep(60)
        assert "silenced by ann" in (await p.incident()).message
        assert await p.restarts() == 0
        await asyncio.sleep(180)
        assert await p.restarts() == 1

    sim(test)
