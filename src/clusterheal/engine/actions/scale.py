"""More replicas, within the plan's bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp, workload_facts
from clusterheal.engine.views import Snapshot, replicas_wanted
from clusterheal.kube.ports import Manifest


class Scale:
    name = "scale"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return workload_facts(target)

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        expected, wanted = int(parameters["from_replicas"]), int(parameters["to_replicas"])
        have = replicas_wanted(target)
        if have != expected:
            raise Refused(f"expected {expected} replicas, found {have}: somebody else scales it")
        most = parameters.get("max_replicas")
        if wanted < 1 or (most is not None and wanted > int(most)):
            raise Refused(f"{wanted} replicas are outside 1..{most}")
        return Change(patch={"spec": {"replicas": wanted}})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        back = {"from_replicas": parameters["to_replicas"], "to_replicas": parameters["from_replicas"]}
        return "scale", back
