"""Which model an InferenceService serves, and the one apply configuration that says so.

The rollout owns the model's path and the version labels by server-side apply. The engine, when it returns to the
version before, writes the same fields as the same field manager: two owners of one path would only conflict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlparse

from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import INFERENCE_SERVICES

FIELD_MANAGER = "clusterheal-rollout"
# Notes, in `status.annotations`: KServe copies an InferenceService's own annotations into its pods, so that each change
# of one replaces them.
ROLLOUT = "clusterheal.io/rollout"  # a rollout is under way
PREVIOUS = "clusterheal.io/previous"  # what the model in service replaced, to go back to
VERSION_LABEL = "clusterheal.io/model-version"
REGISTRY_LABELS = "modelregistry.opendatahub.io"
_OWN_LABELS = (
    VERSION_LABEL,
    f"{REGISTRY_LABELS}/name",
    f"{REGISTRY_LABELS}/registered-model-id",
    f"{REGISTRY_LABELS}/model-version-id",
)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What decides which model an InferenceService serves: its path and the labels that name the version."""

    uri: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        return self.labels.get(VERSION_LABEL)


@dataclass(frozen=True, kw_only=True)
class Previous:
    """The registered version that was in service before, since when it is not any more, and the path of what is."""

    placement: Placement
    since: datetime
    replaced_by: str

    def to_json(self) -> str:
        data = {
            "uri": self.placement.uri,
            "labels": dict(self.placement.labels),
            "since": self.since.isoformat(),
            "replaced_by": self.replaced_by,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"))


def notes_of(service: Manifest) -> Mapping[str, str]:
    """What the rollout has noted on the object."""
    return (service.get("status") or {}).get("annotations") or {}


def notes_patch(found: Manifest, notes: Mapping[str, str | None]) -> Manifest:
    """A merge patch of the status, refused when the object has changed since it was `found`; `None` removes a note."""
    metadata = {key: found["metadata"][key] for key in ("resourceVersion", "uid")}
    return {"metadata": metadata, "status": {"annotations": dict(notes)}}


def previous_of(service: Manifest) -> Previous | None:
    """What the last rollout replaced; `None` when there was none, something else is served since, or the note cannot
    be read."""
    text = notes_of(service).get(PREVIOUS)
    current = placement_of(service)
    if text is None or current is None:
        return None
    try:
        data = json.loads(text)
        placement = Placement(uri=data["uri"], labels=data["labels"])
        since, replaced_by = datetime.fromisoformat(data["since"]), data["replaced_by"]
    except (ValueError, KeyError, TypeError):
        return None  # written by hand: no version to trust
    if replaced_by != current.uri:
        return None
    return Previous(placement=placement, since=since, replaced_by=replaced_by)


def placement_of(service: Manifest) -> Placement | None:
    """What the object serves by its spec; None when it has no model path."""
    model = model_of(service)
    labels = service["metadata"].get("labels") or {}
    storage = model.get("storage") or {}
    uri = model.get("storageUri") or storage.get("path")
    if not uri:
        return None
    return Placement(uri=str(uri), labels={k: labels[k] for k in _OWN_LABELS if k in labels})


def model_of(service: Manifest | None) -> Mapping[str, Any]:
    """`spec.predictor.model`."""
    return (((service or {}).get("spec") or {}).get("predictor") or {}).get("model") or {}


def configuration(name: str, namespace: str, found: Manifest | None, placement: Placement | None) -> Manifest:
    """All that the field manager says of the object; what it leaves out is taken back."""
    metadata: Manifest = {"name": name, "namespace": namespace}
    if found is not None:
        metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        metadata["uid"] = found["metadata"]["uid"]
    config: Manifest = {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.kind,
        "metadata": metadata,
    }
    if placement is not None:
        metadata["labels"] = dict(placement.labels)
        model: Manifest = path_fields(found, placement.uri)
        model |= _shell_fields(found)
        config["spec"] = {"predictor": {"model": model}}
    return config


def path_fields(found: Manifest | None, uri: str) -> Manifest:
    """`storageUri`, or the path in the connection that the object already names."""
    if found is not None and model_of(found).get("storage"):
        path = urlparse(uri).path.lstrip("/") if "://" in uri else uri
        return {"storage": {"path": path}}
    return {"storageUri": uri}


def set_path(model: Manifest, found: Manifest, uri: str) -> None:
    """Let `model`, a copy of the one of `found`, be loaded from `uri`."""
    own = path_fields(found, uri)
    if "storage" in own:
        model["storage"] = {**model.get("storage", {}), **own["storage"]}
    else:
        model |= own


def _shell_fields(found: Manifest | None) -> Manifest:
    """What an object needs that this rollout creates, and has to repeat as long as it is ours: an apply takes back
    what it leaves out."""
    if found is None:
        return {"modelFormat": {"name": "clusterheal-onnx", "version": "1"}, "protocolVersion": "v2"}
    owned: Mapping[str, Any] = next(
        (
            entry.get("fieldsV1", {}).get("f:spec", {}).get("f:predictor", {}).get("f:model", {})
            for entry in found["metadata"].get("managedFields") or []
            if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        ),
        {},
    )
    return {key: model_of(found)[key] for key in ("modelFormat", "protocolVersion") if f"f:{key}" in owned}
