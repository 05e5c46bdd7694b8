"""The resource types that this project reads or writes."""

from clusterheal.kube.ports import Resource

PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False)
EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
SERVICES = Resource(group="", version="v1", plural="services", kind="Service")
PERSISTENT_VOLUME_CLAIMS = Resource(
    group="", version="v1", plural="persistentvolumeclaims", kind="PersistentVolumeClaim"
)
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
REPLICA_SETS = Resource(group="apps", version="v1", plural="replicasets", kind="ReplicaSet")
STATEFUL_SETS = Resource(group="apps", version="v1", plural="statefulsets", kind="StatefulSet")
DAEMON_SETS = Resource(group="apps", version="v1", plural="daemonsets", kind="DaemonSet")
JOBS = Resource(group="batch", version="v1", plural="jobs", kind="Job")
CRON_JOBS = Resource(group="batch", version="v1", plural="cronjobs", kind="CronJob")
STORAGE_CLASSES = Resource(
    group="storage.k8s.io", version="v1", plural="storageclasses", kind="StorageClass", namespaced=False
)
POD_DISRUPTION_BUDGETS = Resource(
    group="policy", version="v1", plural="poddisruptionbudgets", kind="PodDisruptionBudget"
)
HORIZONTAL_POD_AUTOSCALERS = Resource(
    group="autoscaling", version="v2", plural="horizontalpodautoscalers", kind="HorizontalPodAutoscaler"
)
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
TOKEN_REVIEWS = Resource(
    group="authentication.k8s.io", version="v1", plural="tokenreviews", kind="TokenReview", namespaced=False
)
SUBJECT_ACCESS_REVIEWS = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="subjectaccessreviews",
    kind="SubjectAccessReview",
    namespaced=False,
)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
MACHINE_CONFIG_POOLS = Resource(
    group="machineconfiguration.openshift.io",
    version="v1",
    plural="machineconfigpools",
    kind="MachineConfigPool",
    namespaced=False,
)
NODE_HEALTH_CHECKS = Resource(
    group="remediation.medik8s.io",
    version="v1alpha1",
    plural="nodehealthchecks",
    kind="NodeHealthCheck",
    namespaced=False,
)
APPLICATIONS = Resource(group="argoproj.io", version="v1alpha1", plural="applications", kind="Application")
INFERENCE_SERVICES = Resource(
    group="serving.kserve.io", version="v1beta1", plural="inferenceservices", kind="InferenceService"
)
INCIDENTS = Resource(group="clusterheal.io", version="v1alpha1", plural="incidents", kind="Incident")
REMEDIATION_POLICIES = Resource(
    group="clusterheal.io", version="v1alpha1", plural="remediationpolicies", kind="RemediationPolicy"
)
