"""Let a node take pods again, if the cordon is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp
from clusterheal.engine.names import CORDON_OWNER, CORDON_UNTIL
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest


class Uncordon:
    name = "uncordon"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return {}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        owner = (target["metadata"].get("annotations") or {}).get(CORDON_OWNER)
        if owner != parameters.get("owner", stamp.incident):
            raise Refused(f"the cordon belongs to {owner or 'somebody else'} now")
        notes = {CORDON_OWNER: None, CORDON_UNTIL: None}
        return Change(patch={"metadata": {"annotations": notes}, "spec": {"unschedulable": None}})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        return None
