"""Every overlay is rendered with kustomize and its promises are asserted on what comes out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from clusterheal.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("development", "production")
NAMESPACES = {"development": "self-healing-platform-dev", "production": "self-healing-platform"}
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
# Made by the platform or by people, never in Git: the manifests README says how.
MADE_ELSEWHERE = {
    ("Secret", "engine-alert-token"),
    ("ConfigMap", "openshift-service-ca.crt"),
    ("ServiceAccount", "self-healing-workbench"),
}


class CrdLoader(yaml.CSafeLoader):
    """YAML 1.1 reads a bare `=`, an operator in some schemas' enums, as a tag of its own; here it is a string."""


CrdLoader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))

pytestmark = pytest.mark.manifests
Manifest = dict[str, Any]


def render(path: Path) -> list[Manifest]:
    done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [doc for doc in yaml.safe_load_all(done.stdout) if doc]


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> tuple[str, list[Manifest]]:
    return request.param, render(ROOT / "manifests/overlays" / request.param)


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]


def engine_env(objects: list[Manifest]) -> dict[str, str]:
    container = one(objects, "Deployment", "coordination-engine")["spec"]["template"]["spec"]["containers"][0]
    return {e["name"]: e.get("value", "") for e in container["env"]}


def test_every_namespaced_object_is_in_the_overlay_s_namespace(overlay: tuple[str, list[Manifest]]) -> None:
    name, objects = overlay
    stray = [
        f"{o['kind']}/{o['metadata']['name']}"
        for o in objects
        if o["kind"] not in CLUSTER_SCOPED and o["metadata"].get("namespace") != NAMESPACES[name]
    ]
    assert stray == []
    assert one(objects, "Namespace", NAMESPACES[name])


def test_bindings_name_accounts_of_the_overlay_s_namespace(overlay: tuple[str, list[Manifest]]) -> None:
    name, objects = overlay
    subjects = [s for o in objects if o["kind"].endswith("RoleBinding") for s in o["subjects"]]
    assert len(subjects) == 2
    assert {s["namespace"] for s in subjects} == {NAMESPACES[name]}


def test_nothing_dangles(overlay: tuple[str, list[Manifest]]) -> None:
    _, objects = overlay
    present = {(o["kind"], o["metadata"]["name"]) for o in objects} | MADE_ELSEWHERE
    for o in objects:
        pod = o.get("spec", {}).get("template", {}).get("spec")
        if not pod:
            continue
        wanted = {("ServiceAccount", pod["serviceAccountName"])} if "serviceAccountName" in pod else set()
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                wanted.add(("Secret", volume["secret"]["secretName"]))
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        assert wanted <= present, f"{o['kind']} {o['metadata']['name']} lacks {wanted - present}"


def test_inference_services_name_a_runtime_that_is_there(overlay: tuple[str, list[Manifest]]) -> None:
    _, objects = overlay
    services = [o for o in objects if o["kind"] == "InferenceService"]
    assert {o["metadata"]["name"] for o in services} == {"anomaly-detector", "predictive-analytics"}
    for service in services:
        model = service["spec"]["predictor"]["model"]
        runtime = one(objects, "ServingRuntime", model["runtime"])
        assert model["modelFormat"]["name"] in {f["name"] for f in runtime["spec"]["supportedModelFormats"]}


def test_engine_settings_in_the_deployment_are_settings_we_have(
    overlay: tuple[str, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, objects = overlay
    for key, value in engine_env(objects).items():
        assert key.startswith("CLUSTERHEAL_")
        monkeypatch.setenv(key, value or "from-the-downward-api")
    settings = load_settings()
    assert settings.engine.mode == "observe"
    assert settings.log.format == "json"


def test_environments_differ_as_the_table_says() -> None:
    development, production = (render(ROOT / "manifests/overlays" / o) for o in OVERLAYS)

    def engine(objects: list[Manifest]) -> tuple[int, dict[str, str], str]:
        spec = one(objects, "Deployment", "coordination-engine")["spec"]
        container = spec["template"]["spec"]["containers"][0]
        return spec["replicas"], container["resources"]["limits"], engine_env(objects)["CLUSTERHEAL_LOG__LEVEL"]

    assert engine(development) == (1, {"cpu": "100m", "memory": "128Mi"}, "DEBUG")
    assert engine(production) == (3, {"cpu": "500m", "memory": "512Mi"}, "INFO")
    assert one(production, "PodDisruptionBudget", "coordination-engine")["spec"]["minAvailable"] == 2

    def workbench(objects: list[Manifest]) -> dict[str, str]:
        spec = one(objects, "Notebook", "self-healing-workbench")["spec"]["template"]["spec"]
        return dict(spec["containers"][0]["resources"]["limits"])

    assert workbench(development) == {"cpu": "1", "memory": "4Gi"}
    assert workbench(production) == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}

    def volume(objects: list[Manifest], name: str) -> tuple[str, str]:
        spec = one(objects, "PersistentVolumeClaim", name)["spec"]
        return spec["resources"]["requests"]["storage"], spec["storageClassName"]

    assert volume(development, "self-healing-workbench") == ("5Gi", "standard")
    assert volume(production, "self-healing-workbench") == ("50Gi", "ocs-storagecluster-ceph-rbd")
    assert volume(production, "metrics-dataset") == ("200Gi", "ocs-storagecluster-ceph-rbd")


def test_containers_are_restricted(overlay: tuple[str, list[Manifest]]) -> None:
    _, objects = overlay
    for o in objects:
        spec = o.get("spec", {})
        pod = spec.get("template", {}).get("spec") or (spec if o["kind"] == "ServingRuntime" else None)
        for container in (pod or {}).get("containers", []):
            context = {**(pod or {}).get("securityContext", {}), **container["securityContext"]}
            assert context["runAsNonRoot"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "runAsUser" not in context, "restricted-v2 assigns it"
            assert set(container["resources"]) == {"requests", "limits"}


def test_the_engine_cannot_act_without_the_enforcing_component(tmp_path: Path) -> None:
    for name in OVERLAYS:
        objects = render(ROOT / "manifests/overlays" / name)
        assert not any(o["metadata"]["name"] == "clusterheal-engine-act" for o in objects)
        verbs = {v for o in objects if o["kind"] == "Role" for r in o["rules"] for v in r["verbs"]}
        assert "*" not in verbs


def test_enforcing_component_binds_the_acting_role_and_sets_the_mode() -> None:
    folder = ROOT / "manifests/overlays/.test-enforce"
    folder.mkdir(exist_ok=True)
    try:
        (folder / "kustomization.yaml").write_text(
            "resources: [../production]\ncomponents: [../../components/remediation-enforce]\n"
        )
        objects = render(folder)
    finally:
        (folder / "kustomization.yaml").unlink()
        folder.rmdir()
    assert engine_env(objects)["CLUSTERHEAL_ENGINE__MODE"] == "auto"
    assert (
        one(objects, "ClusterRoleBinding", "clusterheal-engine-act")["subjects"][0]["namespace"]
        == NAMESPACES["production"]
    )


def test_cluster_layer_has_no_wildcard_and_never_writes_machine_configs() -> None:
    objects = render(ROOT / "manifests/cluster")
    rules = [r for o in objects if o["kind"] == "ClusterRole" for r in o["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "machineconfiguration.openshift.io" in rule["apiGroups"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_custom_resources_fit_their_schemas(overlay: tuple[str, list[Manifest]], shared_dir: Path) -> None:
    _, objects = overlay
    checked = []
    for o in objects:
        group, _, version = o["apiVersion"].rpartition("/")
        file = shared_dir / "crds" / f"{group}_{o['kind'].lower()}s.yaml"
        if not file.is_file():
            continue
        crd = yaml.load(file.read_text(), Loader=CrdLoader)
        schema = next(v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == version)
        jsonschema.validate(o, _closed(schema))
        checked.append(o["kind"])
    assert set(checked) == {
        "DataSciencePipelinesApplication",
        "InferenceService",
        "Notebook",
        "AlertmanagerConfig",
        "PrometheusRule",
        "ServiceMonitor",
        "ServingRuntime",
    }


def _closed(schema: Any) -> Any:
    """The structural schema as JSON Schema that refuses fields the API server would drop."""
    if isinstance(schema, list):
        return [_closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {k: ({n: _closed(p) for n, p in v.items()} if k == "properties" else _closed(v)) for k, v in schema.items()}
    if "(?i)" in str(out.get("pattern", "")):  # Go takes the flag anywhere, Python only in front
        out["pattern"] = "(?i)" + out["pattern"].replace("(?i)", "")
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        out["additionalProperties"] = False
    if schema.get("nullable"):
        return {"anyOf": [out, {"type": "null"}]}
    return out
