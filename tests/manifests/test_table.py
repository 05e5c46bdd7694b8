"""What the two environments are, line by line of the table in manifests/README.md."""

from __future__ import annotations

import re

import pytest
import yaml

from clusterheal.settings import load_settings
from tests.manifests.rendering import (
    NAMESPACES,
    OVERLAYS,
    PLATFORMS,
    Manifest,
    Variants,
    engine,
    environment,
    one,
    pods,
)

pytestmark = pytest.mark.manifests
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
Overlay = tuple[str, list[Manifest]]
GPU = "nvidia.com/gpu"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_in_the_environment_s_namespace(variants: Variants, name: str, platform: str) -> None:
    objects = variants(name, platform)
    stray = [
        (o["kind"], o["metadata"]["name"], o["metadata"].get("namespace"))
        for o in objects
        if o["kind"] not in CLUSTER_SCOPED and o["metadata"].get("namespace") != NAMESPACES[name]
    ]
    assert stray == []
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Namespace"] == [NAMESPACES[name]]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_of_development_speaks_of_production_s_namespace(variants: Variants, platform: str) -> None:
    """Neither in an address, a path, a name, nor a field of its own; the platform's name is no namespace."""
    text = yaml.safe_dump_all(variants("development", platform), width=10_000)
    addresses = re.findall(r"\S*\.self-healing-platform\.svc\S*|/notebook/self-healing-platform/", text)
    fields = re.findall(r"(?:namespace|NAMESPACE): self-healing-platform$|:self-healing-platform$", text, re.MULTILINE)
    assert addresses + fields == []
    assert "coordination-engine.self-healing-platform-dev.svc" in text


@pytest.mark.parametrize("name", OVERLAYS)
def test_bindings_name_the_environment_s_own_accounts(variants: Variants, name: str) -> None:
    bindings = [o for o in variants(name) if o["kind"].endswith("RoleBinding")]
    assert len(bindings) >= 7
    for binding in bindings:
        assert {s["namespace"] for s in binding["subjects"]} == {NAMESPACES[name]}, binding["metadata"]["name"]
        if binding["kind"] == "ClusterRoleBinding":  # or two environments would overwrite each other's
            assert binding["metadata"]["name"].endswith(f":{NAMESPACES[name]}")


@pytest.mark.parametrize(
    ("name", "replicas", "resources", "level"),
    [
        ("development", 1, {"cpu": "100m", "memory": "128Mi"}, "DEBUG"),
        ("production", 3, {"cpu": "500m", "memory": "512Mi"}, "INFO"),
    ],
)
def test_coordination_engine(
    variants: Variants, name: str, replicas: int, resources: dict[str, str], level: str
) -> None:
    objects = variants(name)
    assert one(objects, "Deployment", "coordination-engine")["spec"]["replicas"] == replicas
    assert engine(objects)["resources"] == {"requests": resources, "limits": resources}
    values = environment(engine(objects))
    assert values["CLUSTERHEAL_LOG__LEVEL"] == level
    assert values["CLUSTERHEAL_LOG__FORMAT"] == "json"
    assert values["CLUSTERHEAL_ENGINE__MODE"] == "observe"


def test_production_s_engine_survives_a_node(variants: Variants) -> None:
    objects = variants("production")
    budget = one(objects, "PodDisruptionBudget", "coordination-engine")["spec"]
    deployment = one(objects, "Deployment", "coordination-engine")["spec"]
    assert budget["minAvailable"] == 2 < deployment["replicas"]
    assert budget["selector"] == deployment["selector"]
    terms = deployment["template"]["spec"]["affinity"]["podAntiAffinity"]
    term = terms["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == deployment["selector"]


def test_enforcing_is_opt_in(variants: Variants) -> None:
    for name in OVERLAYS:
        assert environment(engine(variants(name)))["CLUSTERHEAL_ENGINE__MODE"] == "observe"
        bound = {o["roleRef"]["name"] for o in variants(name) if o["kind"].endswith("RoleBinding")}
        assert bound.isdisjoint({"clusterheal-engine-act", "clusterheal-node-act"})
        enforcing = variants(name, options=["remediation-enforce"])
        assert environment(engine(enforcing))["CLUSTERHEAL_ENGINE__MODE"] == "auto"
        binding = one(enforcing, "ClusterRoleBinding", f"clusterheal:engine-act:{NAMESPACES[name]}")
        assert binding["subjects"][0]["namespace"] == NAMESPACES[name]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("name", "resources", "storage", "gpus"),
    [
        ("development", {"cpu": "1", "memory": "4Gi"}, "5Gi", None),
        ("production", {"cpu": "2", "memory": "8Gi"}, "50Gi", "1"),
    ],
)
def test_workbench(
    variants: Variants, name: str, platform: str, resources: dict[str, str], storage: str, gpus: str | None
) -> None:
    objects = variants(name, platform)
    kind = "Deployment" if platform == "vanilla-kubernetes" else "Notebook"
    pod = one(objects, kind, "self-healing-workbench")["spec"]["template"]["spec"]
    wanted = resources | ({GPU: gpus} if gpus else {})
    assert pod["containers"][0]["resources"] == {"requests": wanted, "limits": wanted}
    claim = one(objects, "PersistentVolumeClaim", "self-healing-workbench")["spec"]
    assert claim["resources"]["requests"]["storage"] == storage
    assert any(t["key"] == GPU for t in pod["tolerations"]) is bool(gpus)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_workbench_can_submit_pipelines(
    variants: Variants, name: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the server, and the image that the runs' pods can pull."""
    objects = variants(name, platform)
    kind = "Deployment" if platform == "vanilla-kubernetes" else "Notebook"
    container = one(objects, kind, "self-healing-workbench")["spec"]["template"]["spec"]["containers"][0]
    for key, value in environment(container).items():
        if key.startswith("CLUSTERHEAL_"):
            monkeypatch.setenv(key, value.replace("$(NAMESPACE)", NAMESPACES[name]))
    settings = load_settings().pipelines
    assert settings.url is not None
    assert "/pipeline@sha256:" in str(settings.image)
    if platform == "vanilla-kubernetes":
        assert settings.url.host == "ml-pipeline.kubeflow.svc"
    else:
        assert settings.url.host == f"ds-pipeline-dspa.{NAMESPACES[name]}.svc"
        assert None not in (settings.token_file, settings.ca_file)


@pytest.mark.parametrize(
    ("name", "requests", "limits", "gpus"),
    [
        ("development", {"cpu": "500m", "memory": "1Gi"}, {"cpu": "500m", "memory": "1Gi"}, None),
        ("production", {"cpu": "1", "memory": "2Gi"}, {"cpu": "2", "memory": "4Gi"}, "1"),
    ],
)
def test_model_serving(
    variants: Variants, name: str, requests: dict[str, str], limits: dict[str, str], gpus: str | None
) -> None:
    objects = variants(name)
    runtime = one(objects, "ServingRuntime", "clusterheal-model-server")["spec"]
    gpu = {GPU: gpus} if gpus else {}
    assert runtime["containers"][0]["resources"] == {"requests": requests | gpu, "limits": limits | gpu}
    assert ("model-server-gpu@" in runtime["containers"][0]["image"]) is bool(gpus)
    services = [o for o in objects if o["kind"] == "InferenceService"]
    assert {o["metadata"]["name"] for o in services} == {"anomaly-detector", "predictive-analytics"}
    for service in services:  # or one rollout would need a second GPU
        assert service["spec"]["predictor"]["deploymentStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_models_have_10gi_of_storage_in_development_and_200gi_in_production(variants: Variants) -> None:
    store = one(variants("development"), "DataSciencePipelinesApplication", "dspa")["spec"]["objectStorage"]
    assert (store["minio"]["pvcSize"], store["minio"]["storageClassName"]) == ("10Gi", "standard")
    bucket = one(variants("production"), "ObjectBucketClaim", "self-healing")["spec"]
    assert bucket["additionalConfig"] == {"maxSize": "200Gi"}
    assert bucket["storageClassName"] == "ocs-storagecluster-ceph-rgw"


@pytest.mark.parametrize(
    ("name", "storage_class"), [("development", "standard"), ("production", "ocs-storagecluster-ceph-rbd")]
)
def test_storage_classes(variants: Variants, name: str, storage_class: str) -> None:
    objects = variants(name)
    claims = [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    assert claims
    assert {c["spec"]["storageClassName"] for c in claims} == {storage_class}
    pipelines = one(objects, "DataSciencePipelinesApplication", "dspa")["spec"]
    assert pipelines["database"]["mariaDB"]["storageClassName"] == storage_class


@pytest.mark.parametrize("name", OVERLAYS)
def test_plain_kubernetes_lets_kserve_s_storage_initializer_in(variants: Variants, name: str) -> None:
    """It has no security context of its own, and the level restricted would refuse every predictor's pod."""
    labels = one(variants(name, "vanilla-kubernetes"), "Namespace", NAMESPACES[name])["metadata"]["labels"]
    modes = {mode: labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")}
    assert modes == {"enforce": "baseline", "warn": "restricted", "audit": "restricted"}


def test_security(variants: Variants) -> None:
    for name in OVERLAYS:
        namespace = one(variants(name), "Namespace", NAMESPACES[name])
        for mode in ("enforce", "warn", "audit"):
            assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
    development, production = (variants(name) for name in OVERLAYS)
    kinds = {o["kind"] for o in production} - {o["kind"] for o in development}
    assert {"NetworkPolicy", "ExternalSecret", "PodDisruptionBudget"} <= kinds
    deny = one(production, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    accounts = {o["metadata"]["name"] for o in production if o["kind"] == "ServiceAccount"}
    assert accounts == {"self-healing-operator", "clusterheal-schedules"}
    assert not any(o["kind"] == "Secret" for name in OVERLAYS for o in variants(name))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_engine_s_variables_are_settings_that_it_has(
    variants: Variants, name: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment(engine(variants(name, platform))).items():
        assert key.startswith("CLUSTERHEAL_")
        resolved = value.replace("$(CLUSTERHEAL_KUBERNETES__NAMESPACE)", NAMESPACES[name])
        monkeypatch.setenv(key, resolved or NAMESPACES[name])
    settings = load_settings()
    assert settings.kubernetes.namespace == NAMESPACES[name]
    assert settings.engine.port == engine(variants(name, platform))["ports"][0]["containerPort"]
    tls = platform != "vanilla-kubernetes"
    assert (settings.engine.tls_cert_file is not None) is tls
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        scheme = engine(variants(name, platform))[probe]["httpGet"]["scheme"]
        assert scheme == ("HTTPS" if tls else "HTTP")
    assert NAMESPACES[name] in str(settings.engine.detector_url) or platform == "vanilla-kubernetes"


def test_the_workbench_answers_under_its_namespace_s_path(overlay: Overlay) -> None:
    name, objects = overlay
    notebook = one(objects, "Notebook", "self-healing-workbench")
    container = next(pods(notebook))["containers"][0]
    base = f"/notebook/{NAMESPACES[name]}/self-healing-workbench"
    assert f"--ServerApp.base_url={base}" in environment(container)["NOTEBOOK_ARGS"].splitlines()
    assert container["readinessProbe"]["httpGet"]["path"] == f"{base}/api"
    assert container["livenessProbe"]["httpGet"]["path"] == f"{base}/api"
    assert container["name"] == notebook["metadata"]["name"]
