"""Labels, annotations and other names that the engine writes into a cluster, in one place."""

from __future__ import annotations

import hashlib
import re

from clusterheal.contracts import ObjectRef

GROUP = "clusterheal.io"
FIELD_MANAGER = "clusterheal-engine"
LEASE_NAME = "clusterheal-engine"
PAUSE_CONFIG_MAP = "clusterheal-pause"

ACTION = f"{GROUP}/action"  # on a target: id of the last action applied to it, written in the same patch as the change
INCIDENT = f"{GROUP}/incident"  # on a target: the incident that acted
SUGGESTION = f"{GROUP}/suggestion"  # on an object that Git owns: what a person should do, of when and of which incident
INSTANCE = f"{GROUP}/instance"  # on a Deployment: the `instance` label its recorded series carry
PAUSE_LABEL = f"{GROUP}/pause"  # on a namespace or object: "true" or a UTC time such as 20261123T101500Z
ROOT_LABEL = f"{GROUP}/root"  # on an Incident: hash of its root object
CORDON_OWNER = f"{GROUP}/cordoned-by"  # on a node: the incident that cordoned it
CORDON_UNTIL = f"{GROUP}/cordoned-until"  # on a node: when the cordon lapses, RFC 3339
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
REVISION = "deployment.kubernetes.io/revision"


def digest(*parts: str, length: int = 10) -> str:
    """A short stable hash, safe in names and labels."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:length]


def root_key(ref: ObjectRef) -> str:
    """One string per object: what incidents are correlated on and what an action holds."""
    return f"{ref.kind}/{ref.namespace or ''}/{ref.name}"


def incident_name(ref: ObjectRef, sequence: int) -> str:
    """The same on every replica, so that two replicas that see the same trouble create one incident.

    `sequence` counts the incidents of one root object from 1.
    """
    readable = re.sub(r"[^a-z0-9-]+", "-", f"{ref.kind}-{ref.name}".lower()).strip("-")[:40].strip("-")
    return f"{readable}-{digest(root_key(ref), length=8)}-{sequence}"


def tokens(name: str) -> frozenset[str]:
    """The words of a snake_case, kebab-case or CamelCase name, lower case.

    Meaning is read from whole words: "os" is no part of "postgres".
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", name)
    return frozenset(word.lower() for word in spaced.split())
