"""Nothing points at what is not there. What others make is listed in one table of the README, no more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.manifests.rendering import (
    MANIFESTS,
    OPTIONS,
    OVERLAYS,
    PLATFORMS,
    Manifest,
    Variants,
    containers,
    kustomize,
    label,
    one,
    pods,
)

pytestmark = pytest.mark.manifests
Reference = tuple[str, str]

# Labels of pods that KServe, the notebook controller, the pipelines' operator and Argo make.


def predictor_pod(name: str, predictor: str | None = None) -> dict[str, str]:
    """Labels that KServe gives; a canary's `predictor` has a name of its own."""
    app = f"isvc.{predictor or name}-predictor"
    return {"component": "predictor", "serving.kserve.io/inferenceservice": name, "app": app}


KSERVE = predictor_pod("anomaly-detector")
OTHERS_PODS: tuple[Mapping[str, str], ...] = (
    KSERVE,
    predictor_pod("predictive-analytics"),
    {"notebook-name": "self-healing-workbench"},
    {"component": "data-science-pipelines", "app": "ds-pipeline-dspa"},
    {"workflows.argoproj.io/workflow": "any", "app.kubernetes.io/part-of": "self-healing-platform"},
)


def made_elsewhere(platform: str = "rhoai-3x") -> set[Reference]:
    """The table; on plain Kubernetes without what OpenShift and its operators make."""
    text = (MANIFESTS / "README.md").read_text()
    section = text.split("### Made outside these manifests")[1].split("\n#")[0]
    rows = re.findall(r"^\| (\w+) \| `([^`]+)` \|.*\| ([^|]+) \|$", section, re.MULTILINE)
    names = [(kind, name) for kind, name, _ in rows]
    assert len(names) == len(set(names)) > 10
    openshift = platform != "vanilla-kubernetes"
    return {(kind, name) for kind, name, maker in rows if openshift or not maker.startswith("OpenShift")}


def values_of(value: Any, key: str) -> Iterator[Any]:
    """Every value of `key` at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from values_of(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from values_of(inner, key)


def pod_references(pod: Manifest) -> Iterator[Reference]:
    if pod.get("serviceAccountName"):
        yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes") or []:
        if "secret" in volume and not volume["secret"].get("optional"):
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
        for key, kind in (
            ("configMapRef", "ConfigMap"),
            ("configMapKeyRef", "ConfigMap"),
            ("secretRef", "Secret"),
            ("secretKeyRef", "Secret"),
        ):
            for found in values_of([container.get("env"), container.get("envFrom")], key):
                yield kind, found["name"]


def references(o: Manifest) -> Iterator[Reference]:
    spec = o.get("spec") or {}
    for pod in pods(o):
        yield from pod_references(pod)
    if o["kind"] in ("RoleBinding", "ClusterRoleBinding"):
        yield o["roleRef"]["kind"], o["roleRef"]["name"]
        yield from (("ServiceAccount", s["name"]) for s in o["subjects"] if s["kind"] == "ServiceAccount")
    if o["kind"] == "InferenceService":
        yield "ServingRuntime", spec["predictor"]["model"]["runtime"]
        yield "Secret", spec["predictor"]["model"]["storage"]["key"]
        for metric in (spec["predictor"].get("autoScaling") or {}).get("metrics", []):
            if "authenticationRef" in metric["external"]:
                yield "TriggerAuthentication", metric["external"]["authenticationRef"]["authenticationRef"]["name"]
    if o["kind"] == "DataSciencePipelinesApplication":
        yield from (("Secret", s["secretName"]) for s in values_of(spec, "s3CredentialsSecret"))
        yield from (("ConfigMap", c["configMapName"]) for c in values_of(spec, "cABundle"))
    if o["kind"] == "ModelRegistry":
        yield from (("Secret", s["name"]) for s in values_of(spec, "passwordSecret"))
    if o["kind"] == "ExternalSecret":
        yield spec["secretStoreRef"]["kind"], spec["secretStoreRef"]["name"]
    if o["kind"] in ("ServiceMonitor", "AlertmanagerConfig", "PodMonitor"):
        for tls in values_of(spec, "tlsConfig"):
            if "ca" in tls:
                yield "ConfigMap", tls["ca"]["configMap"]["name"]
        yield from (("Secret", s["name"]) for s in values_of(spec, "credentials"))
    if o["kind"] == "GrafanaDatasource":
        yield from (("Secret", s["name"]) for s in values_of(spec, "secretKeyRef"))
        yield from (("ConfigMap", s["name"]) for s in values_of(spec, "configMapKeyRef"))
    yield from (("StorageClass", c) for c in values_of(spec, "storageClassName"))


def provided(objects: Sequence[Manifest]) -> set[Reference]:
    given = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for o in objects:
        if o["kind"] == "ExternalSecret":
            given.add(("Secret", o["spec"]["target"]["name"]))
        certificate = (o["metadata"].get("annotations") or {}).get("service.beta.openshift.io/serving-cert-secret-name")
        if certificate:
            given.add(("Secret", certificate))
    return given


@pytest.fixture(scope="session")
def cluster_layer() -> list[Manifest]:
    return kustomize(MANIFESTS / "cluster")


@pytest.mark.parametrize("options", [(), OPTIONS], ids=["as it stands", "all options"])
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_dangles(
    variants: Variants, cluster_layer: list[Manifest], name: str, platform: str, options: tuple[str, ...]
) -> None:
    objects = variants(name, platform, options)
    known = provided(objects) | provided(cluster_layer) | made_elsewhere(platform)
    missing = {(label(o), *r) for o in objects for r in references(o) if r not in known}
    assert missing == set()


def test_what_is_said_to_be_made_elsewhere_is_needed_and_not_made_here(
    variants: Variants, cluster_layer: list[Manifest]
) -> None:
    layers = [*variants.everywhere().values()]
    layers += [kustomize(MANIFESTS / layer) for layer in ("cluster", "cluster/model-registry", "kubeflow")]
    wanted = {r for objects in layers for o in objects for r in references(o)} | {("Secret", "ds-pipeline-config")}
    assert made_elsewhere() - wanted == set(), "in the table, and nothing refers to it"
    made = {r for objects in [*layers, cluster_layer] for o in objects for r in [(o["kind"], o["metadata"]["name"])]}
    assert made_elsewhere() & made <= {("ServiceAccount", "self-healing-workbench")}, "in the table, and made here"


def test_the_registry_layer_s_references_are_in_the_table() -> None:
    objects = kustomize(MANIFESTS / "cluster/model-registry")
    known = provided(objects) | made_elsewhere()
    assert {r for o in objects for r in references(o)} <= known


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_key_that_is_asked_for_exists(variants: Variants, name: str, platform: str) -> None:
    objects = variants(name, platform)
    for o in objects:
        for pod in pods(o):
            for reference in values_of(pod["containers"], "configMapKeyRef"):
                data = one(objects, "ConfigMap", reference["name"])["data"]
                assert reference["key"] in data, label(o)


def pod_labels(objects: Sequence[Manifest]) -> list[Mapping[str, str]]:
    own = [o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] in ("Deployment", "Job")]
    return [*own, *OTHERS_PODS]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        if expression["operator"] == "Exists" and value is None:
            return False
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_selector_finds_pods(variants: Variants, name: str, platform: str) -> None:
    objects = variants(name, platform, OPTIONS)
    labels = pod_labels(objects)

    def selectors(o: Manifest) -> Iterator[Mapping[str, Any]]:
        spec = o["spec"]
        if o["kind"] == "Service":
            yield {"matchLabels": spec["selector"]}
        elif o["kind"] == "NetworkPolicy":
            yield spec["podSelector"]
            yield from values_of([spec.get("ingress"), spec.get("egress")], "podSelector")
        elif o["kind"] in ("PodDisruptionBudget", "Deployment", "PeerAuthentication", "AuthorizationPolicy"):
            yield spec.get("selector", {})

    for o in objects:
        if o["kind"] in ("Service", "NetworkPolicy", "PodDisruptionBudget", "Deployment") or "istio" in o["apiVersion"]:
            for selector in selectors(o):
                assert any(matches(selector, known) for known in labels), f"{label(o)}: {selector}"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_service_port_is_a_port_of_its_pods(variants: Variants, name: str, platform: str) -> None:
    objects = variants(name, platform)
    for service in (o for o in objects if o["kind"] == "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        backends = [
            o
            for o in objects
            if o["kind"] == "Deployment" and matches(selector, o["spec"]["template"]["metadata"]["labels"])
        ]
        if not backends:  # the predictors', which KServe makes of the runtime
            assert matches(selector, KSERVE) or matches(selector, OTHERS_PODS[1]), label(service)
            backends = [one(objects, "ServingRuntime", "clusterheal-model-server")]
        ports = [p for o in backends for _, c in containers(o) for p in c["ports"]]
        offered = {p.get("name") for p in ports} | {p["containerPort"] for p in ports}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in offered, label(service)
    for monitor in (o for o in objects if o["kind"] == "ServiceMonitor" and o["metadata"]["name"] != "predictors"):
        services = [
            o
            for o in objects
            if o["kind"] == "Service" and matches(monitor["spec"]["selector"], o["metadata"].get("labels", {}))
        ]
        assert len(services) == 1, label(monitor)
        names = {p["name"] for p in services[0]["spec"]["ports"]}
        assert {e["port"] for e in monitor["spec"]["endpoints"]} <= names


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_hash_of_a_generated_name_reaches_custom_resources(variants: Variants, name: str, platform: str) -> None:
    objects = variants(name, platform)
    runtime = one(objects, "ServingRuntime", "clusterheal-model-server")["spec"]["containers"][0]
    names = [entry["configMapRef"]["name"] for entry in runtime["envFrom"]]
    assert len(names) == 1
    assert re.fullmatch(r"model-server-settings-[a-z0-9]{10}", names[0])
    assert one(objects, "ConfigMap", names[0])["data"]["CLUSTERHEAL_LOG__FORMAT"] == "json"


def test_a_changed_setting_restarts_the_predictors(variants: Variants) -> None:
    names = set()
    for overlay in OVERLAYS:  # they differ by the log level
        runtime = one(variants(overlay), "ServingRuntime", "clusterheal-model-server")["spec"]["containers"][0]
        names.add(runtime["envFrom"][0]["configMapRef"]["name"])
    assert len(names) == 2


def test_inference_services_ask_for_a_format_that_their_runtime_serves(overlay: tuple[str, list[Manifest]]) -> None:
    _, objects = overlay
    for service in (o for o in objects if o["kind"] == "InferenceService"):
        model = service["spec"]["predictor"]["model"]
        runtime = one(objects, "ServingRuntime", model["runtime"])["spec"]
        assert model["modelFormat"]["name"] in {f["name"] for f in runtime["supportedModelFormats"]}
        assert model["protocolVersion"] in runtime["protocolVersions"]
        assert len(service["metadata"]["name"] + "-shadow") <= 53
        assert "path" not in model["storage"], "the rollout's"
        assert "storageUri" not in model, "the rollout's"


def test_network_policies_name_ports_that_something_listens_on(variants: Variants) -> None:
    """Their ports are pods' ports: a Service's port that differs would be refused silently."""
    listened = {
        "engine": {8090},
        "predictors": {8080, 8081, 8443},  # with the auth proxy
        "workbench": {8443, 8888},
        "pipelines": {3306, 8443, 8888},
        "cluster": {443, 5353, 6443, 9091, 9095},
    }
    known = set().union(*listened.values())
    for o in variants("production"):
        if o["kind"] == "NetworkPolicy":
            for port in values_of(o["spec"], "ports"):
                assert {p["port"] for p in port} <= known, label(o)


def test_the_predictors_services_leave_a_canary_alone(variants: Variants) -> None:
    objects = variants("development", "vanilla-kubernetes")
    selector = {"matchLabels": one(objects, "Service", "anomaly-detector-models")["spec"]["selector"]}
    assert matches(selector, KSERVE)
    assert not matches(selector, predictor_pod("anomaly-detector", "anomaly-detector-v000002"))
