"""The emulated cluster's own controllers, stepped deterministically over the API server's clock."""

from __future__ import annotations

import logging
from datetime import datetime

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.api import ApiServer
from clusterheal.local.kube.controllers.base import Controller, Timing, World, earliest
from clusterheal.local.kube.controllers.budgets import BudgetController
from clusterheal.local.kube.controllers.deployments import DeploymentController
from clusterheal.local.kube.controllers.housekeeping import GarbageCollector, NamespaceController
from clusterheal.local.kube.controllers.nodes import NodeController
from clusterheal.local.kube.controllers.pods import FaultHook, PodController
from clusterheal.local.kube.controllers.pools import PoolController
from clusterheal.local.kube.controllers.replicasets import ReplicaSetController
from clusterheal.local.kube.controllers.scheduler import Scheduler

_log = logging.getLogger(__name__)
_MOST_PASSES = 100


class _Turn:
    """When a controller has something to do: what it reads has changed, or a time that it waits for has come."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._due: datetime | None = None
        self.seen = -1

    def take(self, world: World) -> datetime | None:
        """Run it if it has something to do; when time alone will give it something."""
        newest = world.newest(self._controller.reads)
        if newest != self.seen or (self._due is not None and world.now >= self._due):
            self._due = self._controller.step(world)
            # Its own writes are news, too: it looks at them once more.
            self.seen = newest
        return self._due


class Controllers:
    """All controllers of a cluster.

    `next_due` is when time alone will change something; `None` = only writes will.
    """

    def __init__(self, api: ApiServer, *, timing: Timing | None = None, faults: FaultHook | None = None) -> None:
        self.world = World(api, timing or Timing())
        self.pods = PodController(faults)
        self.next_due: datetime | None = None
        self.failures = 0
        self._seen = -1
        self._turns = [
            _Turn(controller)
            for controller in (
                NodeController(),
                DeploymentController(),
                ReplicaSetController(),
                Scheduler(),
                self.pods,
                BudgetController(),
                PoolController(),
                GarbageCollector(),
                NamespaceController(),
            )
        ]

    async def step(self) -> None:
        """Reconcile until nothing changes any more at the present moment.

        Raises:
            RuntimeError: two controllers undo each other's work.
        """
        self.settle()

    def settle(self) -> None:
        """As `step`, for callers without an event loop."""
        store = self.world.api.store
        moment = self.world.now
        if store.revision == self._seen and (self.next_due is None or moment < self.next_due):
            return
        for _ in range(_MOST_PASSES):
            before = store.revision
            self.next_due = earliest(*(turn.take(self.world) for turn in self._turns))
            if store.revision == before:
                self._seen = before
                return
        raise RuntimeError(f"controllers still change objects after {_MOST_PASSES} passes at {moment.isoformat()}")

    def wake(self) -> None:
        """Look again though no object changed: a fault hook answers differently now."""
        self._seen = -1
        for turn in self._turns:
            turn.seen = -1

    async def run(self, *, interval: float = 0.2) -> None:
        """Step for ever, every `interval` seconds of the cluster's clock; a failing step is logged and counted."""
        while True:
            try:
                self.settle()
            except Exception:  # noqa: BLE001 - the loop's boundary: one bad object must not stop the cluster
                self.failures += 1
                _log.exception("controllers failed", extra={"failures": self.failures})
            await self.world.api.clock.sleep(interval)

    def set_node_ready(self, name: str, status: str, *, reason: str = "", message: str = "") -> None:
        """Play a node's kubelet: `status` is True, False or Unknown."""
        from clusterheal.local.kube.controllers.base import set_condition

        node = self.world.get("nodes", "", name)
        if node is None:
            raise KeyError(f"no node {name}")
        stamp = self.world.stamp
        self.world.change(
            "nodes", node, lambda obj: set_condition(obj, "Ready", status, stamp, reason=reason, message=message)
        )

    def kill_container(self, namespace: str, pod: str, *, reason: str = "OOMKilled", exit_code: int = 137) -> None:
        """End a pod's containers once; the kubelet restarts them on the next step."""
        found = self.world.get("pods", namespace, pod)
        if found is None:
            raise KeyError(f"no pod {namespace}/{pod}")
        stamp = self.world.stamp

        def edit(obj: Manifest) -> None:
            for container in obj["status"].get("containerStatuses") or ():
                began = container["state"].get("running", {}).get("startedAt", stamp)
                ended = {"exitCode": exit_code, "reason": reason, "startedAt": began, "finishedAt": stamp}
                container.update(
                    ready=False, started=False, state={"terminated": ended}, lastState={"terminated": ended}
                )

        self.world.change("pods", found, edit)


__all__ = ["Controllers", "FaultHook", "Timing"]
