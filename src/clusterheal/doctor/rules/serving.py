"""InferenceServices and ServingRuntimes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import FieldPath, Object, Platform, Scene, mappings

BOOK = RuleBook()
MODE = "serving.kserve.io/deploymentMode"
AUTH = "security.opendatahub.io/enable-auth"
VISIBILITY = "networking.kserve.io/visibility"
MAX_NAME = 53
SHIPPED = frozenset({"kserve-ovms", "mlserver", "kserve-mlserver"})
SHIPPED_BY_KSERVE = SHIPPED | {
    f"kserve-{name}"
    for name in (
        "huggingfaceserver", "huggingfaceserver-multinode", "lgbserver", "paddleserver", "pmmlserver",
        "predictiveserver", "sklearnserver", "tensorflow-serving", "torchserve", "tritonserver", "xgbserver",
    )
}  # fmt: skip
KNATIVE = ("Serverless", "Knative")  # one mode: KServe 0.16 gave it the second name
_NUMBERED = re.compile(r"(?:^|/)(v|version-?)(\d+)/?\Z", re.IGNORECASE)
_PREDICTOR = re.compile(r"^(?P<scheme>https?)://(?P<name>[a-z0-9-]+)-predictor(?P<rest>[.:/][^ ]*)?$")
PREDICTOR: FieldPath = ("spec", "predictor")


@BOOK.add(
    "CH301",
    "deployment-mode",
    Severity.ERROR,
    why="Serverless is gone in OpenShift AI 3.x, whose raw mode is called Standard; 2.25 knows it as "
    "RawDeployment, beside Serverless and ModelMesh. Without the annotation the cluster's default decides.",
    fix=f"{MODE}: Standard for 3.x, RawDeployment for 2.x",
)
def deployment_mode(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    old = scene.platform is Platform.RHOAI_2
    wanted = "RawDeployment" if old else "Standard"
    for o in scene.of("InferenceService"):
        mode = o.annotations.get(MODE)
        if mode != wanted and not (old and mode in ("Serverless", "ModelMesh")):
            said = f"{o.annotations.get(MODE) or 'no mode'}, expected {wanted} on {scene.platform}"
            yield Problem(obj=o, path=("metadata", "annotations", MODE), said=said)


@BOOK.add(
    "CH302",
    "canary-ignored",
    Severity.ERROR,
    why="canaryTrafficPercent works with Knative only (Serverless); in RawDeployment and Standard it is ignored "
    "without a word, and the new model gets all of the traffic.",
    fix="spec.canary[] where KServe has it (0.20, Standard), otherwise a second InferenceService as shadow",
)
def canary_ignored(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        path = (*PREDICTOR, "canaryTrafficPercent")
        mode = o.annotations.get(MODE)
        by_default = mode is None and not scene.openshift  # KServe's own default may be Knative
        if o.at(*path) is not None and mode not in KNATIVE and not by_default:
            yield Problem(obj=o, path=path, said="canaryTrafficPercent without Knative")


@BOOK.add(
    "CH303",
    "canary-list",
    Severity.ERROR,
    why="spec.canary[] needs KServe 0.20 (OpenShift AI 3.5) and exactly the mode Standard, and each predictor a "
    "name of its own; an older CRD drops the field.",
    fix="check the CRD's version first, set the mode, and give predictor.name to both",
)
def canary_list(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        canaries = list(mappings(o.at("spec", "canary")))
        if not canaries:
            continue
        if o.annotations.get(MODE) != "Standard" or scene.platform is Platform.RHOAI_2:
            yield Problem(obj=o, path=("spec", "canary"), said="spec.canary without the mode Standard of 3.5")
        names = [o.at(*PREDICTOR, "name"), *((c.get("predictor") or {}).get("name") for _, c in canaries)]
        if None in names or len(set(names)) != len(names):
            yield Problem(
                obj=o, path=("spec", "canary"), said=f"predictor names {names} are not all there and different"
            )


@BOOK.add(
    "CH304",
    "model-path",
    Severity.WARNING,
    why="an S3 prefix v1 also downloads v10, and a path that is written again is not loaded again: pods keep the "
    "old model until they restart, then differ.",
    fix="a new, zero-padded folder for every version, with a slash at the end: .../v000003/",
)
def model_path(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        for path in ((*PREDICTOR, "model", "storageUri"), (*PREDICTOR, "model", "storage", "path")):
            place = str(o.at(*path, default=""))
            if not place or place.startswith(("oci://", "pvc://")):
                continue
            numbered = _NUMBERED.search(place)
            if numbered is None:
                yield Problem(obj=o, path=path, said=f"{place!r} names no version")
            elif len(numbered[2]) < 3 or not place.endswith("/"):
                yield Problem(obj=o, path=path, said=f"{place!r} is not zero-padded with a slash at the end")


@BOOK.add(
    "CH305",
    "runtime-not-named",
    Severity.ERROR,
    why="of OpenShift AI's runtimes none is chosen for ONNX by itself: the service stays without a pod, with "
    "RuntimeNotRecognized.",
    fix="spec.predictor.model.runtime: the runtime's name",
)
def runtime_not_named(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    offered = {
        r.namespace
        for r in scene.of("ServingRuntime", "ClusterServingRuntime")
        for _, f in mappings(r.at("spec", "supportedModelFormats"))
        if f.get("name") == "onnx" and f.get("autoSelect") is True
    }
    for o in scene.of("InferenceService"):
        model = o.at(*PREDICTOR, "model", default={})
        chosen = bool(offered & {o.namespace, None})  # a ClusterServingRuntime has no namespace
        if (model.get("modelFormat") or {}).get("name") == "onnx" and not model.get("runtime") and not chosen:
            yield Problem(obj=o, path=(*PREDICTOR, "model"), said="format onnx without a runtime")


@BOOK.add(
    "CH306",
    "runtime-not-there",
    Severity.ERROR,
    why="a runtime that is neither deployed with the service nor shipped leaves it without a pod; Triton is not "
    "shipped.",
    fix="add the ServingRuntime to the namespace, or name kserve-ovms or MLServer's",
)
def runtime_not_there(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        path = (*PREDICTOR, "model", "runtime")
        name = o.at(*path)
        known = scene.has("ServingRuntime", str(name), o.namespace) or scene.has("ClusterServingRuntime", str(name))
        if name and not known and name not in (SHIPPED if scene.openshift else SHIPPED_BY_KSERVE):
            yield Problem(obj=o, path=path, said=f"no ServingRuntime {name!r} in {o.namespace}")


@BOOK.add(
    "CH307",
    "gpu-surge",
    Severity.ERROR,
    why="a rolling update starts the new pod before it stops the old one; without a spare GPU it waits for ever.",
    fix="spec.predictor.deploymentStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
)
def gpu_surge(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods("InferenceService"):
        strategy = pod.spec.get("deploymentStrategy") or {}
        surge = (strategy.get("rollingUpdate") or {}).get("maxSurge")
        if any(True for _ in pod.gpus()) and strategy.get("type") != "Recreate" and surge not in (0, "0", "0%"):
            yield Problem(
                obj=pod.owner, path=PREDICTOR, said=f"a GPU, and maxSurge {surge if surge is not None else '25%'}"
            )


@BOOK.add(
    "CH308",
    "service-name-too-long",
    Severity.ERROR,
    why="names derived from it pass the 63 characters of a DNS label, and nothing is created.",
    fix=f"at most {MAX_NAME} characters",
)
def name_too_long(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        if len(o.name) > MAX_NAME:
            yield Problem(obj=o, path=("metadata", "name"), said=f"{len(o.name)} characters")


@BOOK.add(
    "CH309",
    "serverless-left-over",
    Severity.WARNING,
    why="Knative and service mesh are no longer part of serving; their annotations do nothing, and what they promised "
    "(scale to zero, mTLS) is not there.",
    fix="remove them; serving certificates and NetworkPolicy take the mesh's place, KEDA the scaler's",
)
def serverless_left_over(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService", "ServingRuntime"):
        if o.annotations.get(MODE) == "Serverless":
            continue
        for key in o.annotations:
            if key.startswith(("serving.knative.", "autoscaling.knative.", "sidecar.istio.io/")):
                yield Problem(obj=o, path=("metadata", "annotations", key), said=f"{key} has no effect")


@BOOK.add(
    "CH310",
    "readiness-always-true",
    Severity.ERROR,
    why="/v2/health/ready answers 200 with no model loaded: pods get traffic that they cannot answer, and a bad "
    "revision counts as rolled out.",
    fix="probe /v2/models/<model>/ready",
)
def readiness_always_true(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods("ServingRuntime", "ClusterServingRuntime", "InferenceService"):
        for path, container in pod.containers():
            where = ((container.get("readinessProbe") or {}).get("httpGet") or {}).get("path")
            if where in ("/v2/health/ready", "/v2/health/live", "/"):
                said = f"readiness by {where}"
                yield Problem(obj=pod.owner, path=(*path, "readinessProbe", "httpGet", "path"), said=said)


@BOOK.add(
    "CH311",
    "metrics-scraped-twice",
    Severity.WARNING,
    why="odh-model-controller makes a ServiceMonitor <service>-metrics itself; a second one doubles every series.",
    fix="remove it",
)
def scraped_twice(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    derived = {f"{o.name}-metrics" for o in scene.of("InferenceService")}
    for monitor in scene.of("ServiceMonitor"):
        if monitor.name in derived and not monitor.at("metadata", "ownerReferences"):
            yield Problem(obj=monitor, path=("metadata", "name"), said=f"{monitor.name} is made by the platform")


@BOOK.add(
    "CH312",
    "exposed-without-auth",
    Severity.ERROR,
    why="visibility: exposed makes a route to the outside; without enable-auth anybody may call the model.",
    fix=f'{AUTH}: "true"',
)
def exposed_without_auth(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        if scene.openshift and o.labels.get(VISIBILITY) == "exposed" and o.annotations.get(AUTH) != "true":
            yield Problem(obj=o, path=("metadata", "labels", VISIBILITY), said="exposed, and enable-auth is not true")


@BOOK.add(
    "CH313",
    "call-past-auth",
    Severity.ERROR,
    why="a service with enable-auth listens with TLS on 8443 and wants a bearer token; plain HTTP on another port "
    "is refused.",
    fix="https://<service>-predictor.<namespace>.svc:8443, with token and CA, and `get` on the InferenceService",
)
def call_past_auth(scene: Scene) -> Iterator[Problem]:
    guarded = {o.name for o in scene.of("InferenceService") if o.annotations.get(AUTH) == "true"}
    if not scene.openshift:
        return
    for pod in scene.pods():
        for path, name, value in pod.env():
            call = _PREDICTOR.match(value)
            if call and call["name"] in guarded and (call["scheme"] != "https" or ":8443" not in (call["rest"] or "")):
                yield Problem(obj=pod.owner, path=path, said=f"{name}={value}, while {call['name']} has enable-auth")


@BOOK.add(
    "CH314",
    "connection-secret",
    Severity.WARNING,
    why="only a Secret with the dashboard's labels and connection annotations becomes a connection: "
    "storage-config and the download account are not made from another.",
    fix='labels opendatahub.io/dashboard: "true", opendatahub.io/managed: "true"; annotation '
    "opendatahub.io/connection-type-protocol: s3",
)
def connection_secret(scene: Scene) -> Iterator[Problem]:
    named = {o.at(*PREDICTOR, "model", "storage", "key") for o in scene.of("InferenceService")} - {None}
    for secret in scene.of("Secret", "ExternalSecret"):
        metadata = _secret_metadata(secret)
        if not scene.openshift or secret.name not in named:
            continue
        labels, annotations = metadata
        kinds = {"opendatahub.io/connection-type", "opendatahub.io/connection-type-protocol"}
        if labels.get("opendatahub.io/dashboard") != "true" or not kinds & set(annotations):
            yield Problem(
                obj=secret, path=("metadata",), said=f"{secret.name} is used as a connection and is not marked as one"
            )


def _secret_metadata(o: Object) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations of the Secret that comes of it."""
    if o.kind == "ExternalSecret":
        made = o.at("spec", "target", "template", "metadata", default={})
        return dict(made.get("labels") or {}), dict(made.get("annotations") or {})
    return dict(o.labels), dict(o.annotations)


@BOOK.add(
    "CH315",
    "keda-annotation",
    Severity.ERROR,
    why="an external metric is read only with the KEDA autoscaler class; otherwise an HPA on CPU is made and the "
    "metric ignored. Thanos refuses a query without credentials.",
    fix="serving.kserve.io/autoscalerClass: keda, and authenticationRef on the metric",
)
def keda_annotation(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("InferenceService"):
        path = (*PREDICTOR, "autoScaling", "metrics")
        for i, metric in mappings(o.at(*path)):
            external = metric.get("external") or {}
            if metric.get("type") != "External" and not external:
                continue
            if o.annotations.get("serving.kserve.io/autoscalerClass") != "keda":
                yield Problem(obj=o, path=(*path, i), said="an external metric without autoscalerClass keda")
            if "thanos" in str((external.get("metric") or {}).get("serverAddress")) and not external.get(
                "authenticationRef"
            ):
                yield Problem(obj=o, path=(*path, i), said="Thanos without authenticationRef")
