"""YAML as Kubernetes reads it."""

from __future__ import annotations

import yaml

_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class KubernetesLoader(_Base):  # type: ignore[valid-type,misc]
    """A safe loader for which a bare `=`, an operator in some definitions' enums, is text: YAML 1.1 gives it a tag."""


KubernetesLoader.add_constructor("tag:yaml.org,2002:value", lambda _loader, node: str(node.value))
