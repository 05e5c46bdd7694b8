"""What the engine can do to a cluster: one module per action, and one way to apply them all."""

from __future__ import annotations

from collections.abc import Mapping

from clusterheal.engine.actions import drain, model, resources, restart, scale, sync, uncordon, undo, volume
from clusterheal.engine.actions.base import Action, Change, Gone, Refused, Stamp

ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        restart.Restart(),
        undo.Undo(),
        scale.Scale(),
        drain.Drain(),
        uncordon.Uncordon(),
        resources.PatchResources(),
        volume.ExpandVolume(),
        sync.Sync(),
        model.RollBackModel(),
    )
}

__all__ = ["ACTIONS", "Action", "Change", "Gone", "Refused", "Stamp"]
