"""Self-Healing Platform: from Prometheus metrics to verified remediations on Kubernetes and OpenShift AI."""

__version__ = "0.1.0"
