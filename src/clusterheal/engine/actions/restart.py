"""A rolling restart, as `kubectl rollout restart` does it: one annotation on the pod template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Stamp, workload_facts
from clusterheal.engine.names import RESTARTED_AT
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest


class Restart:
    name = "restart"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return workload_facts(target)

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        annotations = {RESTARTED_AT: stamp.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return Change(patch={"spec": {"template": {"metadata": {"annotations": annotations}}}})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        return None
