"""What the steps need of a cluster: addresses, credentials, CA, GPU, labels, limits. kfp.local ignores all of it.

Addresses come as `CLUSTERHEAL_*` variables from the ConfigMap `clusterheal-pipelines`, credentials from the Secret
`model-storage`: a pipeline's package is the same for every cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONFIG_MAP = "clusterheal-pipelines"
STORAGE_SECRET = "model-storage"  # noqa: S105 - a Secret's name
SERVICE_CA = "openshift-service-ca.crt"
SERVICE_CA_PATH = "/etc/clusterheal/service-ca"
GPU_TAINT = "nvidia.com/gpu"

# Keys of the ConfigMap are the variables' names, and it must have them all: `optional` is newer than a 2.14 backend.
VARIABLES = (
    "CLUSTERHEAL_PROMETHEUS__URL",
    "CLUSTERHEAL_PROMETHEUS__TOKEN_FILE",
    "CLUSTERHEAL_PROMETHEUS__CA_FILE",
    "CLUSTERHEAL_DATASET__PATH",
    "CLUSTERHEAL_DATASET__S3_ENDPOINT",
    "CLUSTERHEAL_REGISTRY__URL",
    "CLUSTERHEAL_REGISTRY__TOKEN_FILE",
    "CLUSTERHEAL_REGISTRY__CA_FILE",
    "CLUSTERHEAL_REGISTRY__STORAGE",
    "CLUSTERHEAL_REGISTRY__STORAGE_ENDPOINT",
    "CLUSTERHEAL_KUBERNETES__NAMESPACE",
)
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may use. `seconds` ends it; `retries` are for lost pods: the libraries retry calls themselves."""

    cpu: str = "1"
    memory: str = "2Gi"
    seconds: int = 1800
    retries: int = 2


QUICK = Limits(cpu="500m", memory="1Gi", seconds=600)
FETCH = Limits(cpu="1", memory="2Gi", seconds=7200)
JUDGE = Limits(cpu="2", memory="4Gi", seconds=3600)
FIT = Limits(cpu="4", memory="8Gi", seconds=14_400, retries=1)
ROLL = Limits(cpu="500m", memory="1Gi", seconds=7200)


def on_cluster(task: Any, title: str, limits: Limits = QUICK, *, cached: bool = False, exit_task: bool = False) -> Any:
    """Give the step its title, limits, variables, CA and labels. `cached` is only for steps that read nothing else
    than their inputs; an exit task may not be retried."""
    from kfp import kubernetes

    task.set_display_name(title)
    task.set_caching_options(enable_caching=cached)
    task.set_cpu_limit(limits.cpu).set_memory_limit(limits.memory)
    if not exit_task:
        task.set_retry(
            num_retries=limits.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="300s"
        )
    kubernetes.set_timeout(task, seconds=limits.seconds)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in VARIABLES})
    kubernetes.use_secret_as_env(task, STORAGE_SECRET, {name: name for name in SECRET_VARIABLES})
    for kind in ("configMapAsEnv", "secretAsEnv"):
        for entry in task.platform_config["kubernetes"][kind]:
            entry.pop("optional", None)  # it is False, and a 2.14 backend refuses the field itself
    kubernetes.use_config_map_as_volume(task, SERVICE_CA, mount_path=SERVICE_CA_PATH, optional=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "self-healing-platform")
    kubernetes.add_pod_label(task, "clusterheal.io/step", title.lower().replace(" ", "-"))
    return task


def on_gpu(task: Any, accelerator_type: Any, accelerator_limit: Any) -> Any:
    """Ask for GPUs: the resource's name (`nvidia.com/gpu`, or a MIG profile's) and how many; 0 asks for none."""
    from kfp import kubernetes

    task.set_accelerator_type(accelerator_type).set_accelerator_limit(accelerator_limit)
    kubernetes.add_toleration(task, key=GPU_TAINT, operator="Exists", effect="NoSchedule")
    return task
