"""What the steps need of a cluster: addresses, credentials, CA, GPU, labels, limits. kfp.local ignores all of it.

Addresses come as `CLUSTERHEAL_*` variables from the ConfigMap `clusterheal-pipelines`, credentials from the Secret
`model-storage`: a pipeline's package is the same for every cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterheal_components.image import IMAGE

CONFIG_MAP = "clusterheal-pipelines"
STORAGE_SECRET = "model-storage"  # noqa: S105 - a Secret's name
CA_BUNDLES = {  # ConfigMap -> where it is mounted; each only where the namespace has it
    "openshift-service-ca.crt": "/etc/clusterheal/service-ca",  # services of the cluster
    "odh-trusted-ca-bundle": "/etc/clusterheal/trusted-ca",  # what the cluster's admin trusts: an S3 store's, say
}
SCRATCH, SHARED_MEMORY = "/tmp", "/dev/shm"  # noqa: S108 - where the pod's own volumes are mounted
GPU_TAINT = "nvidia.com/gpu"
IMAGE_VARIABLE = "CLUSTERHEAL_BUILD__IMAGE"  # so that a registered version names the image that made it

# Keys of the ConfigMap are the variables' names, and it must have them all: `optional` is newer than a 2.14 backend.
# An empty value counts as not set.
VARIABLES = (
    "CLUSTERHEAL_PROMETHEUS__URL",
    "CLUSTERHEAL_PROMETHEUS__TOKEN_FILE",
    "CLUSTERHEAL_PROMETHEUS__CA_FILE",
    "CLUSTERHEAL_DATASET__PATH",
    "CLUSTERHEAL_DATASET__S3_ENDPOINT",
    "CLUSTERHEAL_DATASET__S3_CA_FILE",
    "CLUSTERHEAL_REGISTRY__URL",
    "CLUSTERHEAL_REGISTRY__TOKEN_FILE",
    "CLUSTERHEAL_REGISTRY__CA_FILE",
    "CLUSTERHEAL_REGISTRY__STORAGE",
    "CLUSTERHEAL_REGISTRY__STORAGE_ENDPOINT",
    "CLUSTERHEAL_REGISTRY__STORAGE_CA_FILE",
    "CLUSTERHEAL_TRAINING__NOTIFY_URL",
    "CLUSTERHEAL_KUBERNETES__NAMESPACE",
    "CLUSTERHEAL_INFERENCE__TOKEN_FILE",
    "CLUSTERHEAL_INFERENCE__CA_FILE",
)
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may use, and what it is counted as.

    `cost` groups pods in a bill. `seconds` ends the step. `scratch` is the room in /tmp, since the image is read-only;
    `shared_memory` the room in /dev/shm, which data loaders and collectives need. There are no retries here: a step
    repeats itself while a server is away, and the backend would repeat it after any error (ADR 013).
    """

    cost: str
    cpu: str = "1"
    memory: str = "2Gi"
    seconds: int = 1800
    scratch: str = "2Gi"
    shared_memory: str | None = None


PURE = Limits(cost="judging", cpu="500m", memory="1Gi", seconds=600)
QUICK = Limits(cost="registry", cpu="500m", memory="1Gi", seconds=600)
FETCH = Limits(cost="collection", cpu="1", memory="2Gi", seconds=7200)
JUDGE = Limits(cost="judging", cpu="2", memory="4Gi", seconds=3600, scratch="10Gi")
FIT = Limits(cost="training", cpu="4", memory="8Gi", seconds=14_400, scratch="20Gi", shared_memory="2Gi")
ROLL = Limits(cost="rollout", cpu="500m", memory="1Gi", seconds=7200)


def on_cluster(task: Any, title: str, limits: Limits = QUICK, *, cached: bool = False) -> Any:
    """Give the step its title, limits, variables, CA, volumes and labels.

    `cached` is only for steps that read nothing else than their inputs.
    """
    from kfp import kubernetes

    task.set_display_name(title)
    task.set_caching_options(enable_caching=cached)
    task.set_cpu_limit(limits.cpu).set_memory_limit(limits.memory)
    task.set_env_variable(IMAGE_VARIABLE, IMAGE)
    kubernetes.set_timeout(task, seconds=limits.seconds)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in VARIABLES})
    kubernetes.use_secret_as_env(task, STORAGE_SECRET, {name: name for name in SECRET_VARIABLES})
    for kind in ("configMapAsEnv", "secretAsEnv"):
        for entry in task.platform_config["kubernetes"][kind]:
            entry.pop("optional", None)  # it is False, and a 2.14 backend refuses the field itself
    for bundle, path in CA_BUNDLES.items():
        kubernetes.use_config_map_as_volume(task, bundle, mount_path=path, optional=True)
    kubernetes.empty_dir_mount(task, "scratch", SCRATCH, size_limit=limits.scratch)
    if limits.shared_memory is not None:
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit=limits.shared_memory)
    for label, value in _labels(title, limits).items():
        kubernetes.add_pod_label(task, label, value)
    return task


def _labels(title: str, limits: Limits) -> dict[str, str]:
    return {
        "app.kubernetes.io/part-of": "self-healing-platform",
        "app.kubernetes.io/component": "pipeline",
        "clusterheal.io/step": title.lower().replace(" ", "-"),
        "clusterheal.io/cost": limits.cost,
    }


def on_gpu(task: Any, accelerator_type: Any, accelerator_limit: Any, node_selector: Any) -> Any:
    """Ask for GPUs: the resource's name (`nvidia.com/gpu`, or a MIG profile's), how many (0: none), and which nodes."""
    from kfp import kubernetes

    task.set_accelerator_type(accelerator_type).set_accelerator_limit(accelerator_limit)
    kubernetes.add_toleration(task, key=GPU_TAINT, operator="Exists", effect="NoSchedule")
    kubernetes.add_node_selector_json(task, node_selector)
    return task
