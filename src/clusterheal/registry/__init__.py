"""The model registry: register, resolve, promote."""

from clusterheal.registry.registry import Registry
from clusterheal.registry.versions import Lineage, ModelVersion, State

__all__ = ["Lineage", "ModelVersion", "Registry", "State"]
