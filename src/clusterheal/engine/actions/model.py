"""Back to the model version that was in service before, written as the rollout writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp
from clusterheal.engine.views import Snapshot
from clusterheal.kube.inference_service import (
    FIELD_MANAGER,
    ROLLOUT,
    Placement,
    configuration,
    notes_of,
    placement_of,
)
from clusterheal.kube.ports import Manifest, PatchType


class RollBackModel:
    """`parameters`: `uri` and `labels` of the version to serve, `from_uri` of the one that is served now."""

    name = "roll-back-model"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        placed = placement_of(target)
        return {} if placed is None else {"uri": placed.uri, "labels": dict(placed.labels)}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        meta, placed = target["metadata"], placement_of(target)
        if ROLLOUT in notes_of(target):
            raise Refused("a rollout is under way, which has its own way back")
        if placed is None or placed.uri != parameters["from_uri"]:
            raise Refused(
                f"expected {parameters['from_uri']} in service, found {placed and placed.uri}: somebody rolled on"
            )
        wanted = Placement(uri=str(parameters["uri"]), labels=parameters["labels"])
        config = configuration(meta["name"], meta["namespace"], target, wanted)
        return Change(patch=config, patch_type=PatchType.APPLY, field_manager=FIELD_MANAGER)

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        if "uri" not in before:
            return None
        return self.name, {"uri": before["uri"], "labels": before["labels"], "from_uri": parameters["uri"]}
