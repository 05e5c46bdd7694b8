"""Deletion with preconditions, grace and finalizers; eviction under disruption budgets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from clusterheal.kube.ports import ApiError, Manifest
from clusterheal.local.kube import failures
from clusterheal.local.kube.kinds import ResourceType
from clusterheal.local.kube.objects import Stamp, parse_time, rfc3339
from clusterheal.local.kube.selectors import matches_object
from clusterheal.local.kube.store import Store, clone
from clusterheal.local.kube.writing import Writer

_POLICY_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}
_VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."


class Remover:
    def __init__(self, *, store: Store, writer: Writer, stamp: Stamp) -> None:
        self._store = store
        self._writer = writer
        self._stamp = stamp
        self.removed: list[Callable[[ResourceType, Manifest], None]] = []

    def delete(
        self, kind: ResourceType, namespace: str, name: str, options: Manifest, *, dry_run: bool = False
    ) -> Manifest:
        """
        Raises:
            ApiError: 404, 409 where a precondition does not hold.
        """
        obj = self._store.get(kind.key, namespace, name)
        if obj is None:
            raise failures.not_found(kind.resource, name)
        self._check_preconditions(kind, obj, options.get("preconditions") or {})
        dry_run = dry_run or bool(options.get("dryRun"))
        marked = self._marked(kind, obj, options)
        if marked is None:
            if not dry_run:
                self._remove(kind, obj)
            return clone(obj) if kind.resource.kind == "Pod" else _success(kind, obj)
        if not dry_run and marked != obj:
            self._writer.store_as_is(kind, marked)
        return clone(marked)

    @staticmethod
    def _check_preconditions(kind: ResourceType, obj: Manifest, wanted: Manifest) -> None:
        metadata = obj["metadata"]
        for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            want = wanted.get(field)
            if want is not None and want != metadata[field]:
                why = (
                    f"the {label} in the precondition ({want}) does not match the {label} in record "
                    f"({metadata[field]}). The object might have been "
                    + ("deleted and then recreated" if field == "uid" else "modified")
                )
                raise failures.conflict(kind.resource, metadata["name"], why)

    def _marked(self, kind: ResourceType, obj: Manifest, options: Manifest) -> Manifest | None:
        """The object as its deletion begins, or `None` where it goes at once."""
        metadata = obj["metadata"]
        finalizers = list(metadata.get("finalizers") or ())
        policy = _POLICY_FINALIZERS.get(options.get("propagationPolicy") or "")
        if policy and policy not in finalizers:
            finalizers.append(policy)
        grace = self._grace(kind, obj, options)
        waits = kind.resource.kind == "Namespace" and bool((obj.get("spec") or {}).get("finalizers"))
        if not finalizers and not grace and not waits:
            return None
        already = metadata.get("deletionTimestamp")
        if (
            already
            and grace >= metadata.get("deletionGracePeriodSeconds", 0)
            and finalizers == (metadata.get("finalizers") or [])
        ):
            return obj
        marked = clone(obj)
        if finalizers:
            marked["metadata"]["finalizers"] = finalizers
        end = self._stamp.clock.now() + timedelta(seconds=grace)
        marked["metadata"]["deletionTimestamp"] = min(already, rfc3339(end)) if already else rfc3339(end)
        marked["metadata"]["deletionGracePeriodSeconds"] = grace
        if metadata.get("generation") and not already:
            marked["metadata"]["generation"] = metadata["generation"] + 1
        if waits:
            marked["status"] = {**(marked.get("status") or {}), "phase": "Terminating"}
        return marked

    @staticmethod
    def _grace(kind: ResourceType, obj: Manifest, options: Manifest) -> int:
        """Seconds that a pod gets to end; only one that is on a node and still runs gets any."""
        if kind.resource.kind != "Pod" or not obj["spec"].get("nodeName"):
            return 0
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        asked = options.get("gracePeriodSeconds")
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else max(asked, 0))

    def _remove(self, kind: ResourceType, obj: Manifest) -> None:
        metadata = obj["metadata"]
        gone = self._store.remove(kind.key, metadata.get("namespace", ""), metadata["name"])
        for hook in self.removed:
            hook(kind, gone)

    def finish_if_due(self, kind: ResourceType, obj: Manifest) -> None:
        """Remove an object whose deletion has nothing left to wait for."""
        metadata = obj["metadata"]
        if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
            return
        if metadata.get("deletionGracePeriodSeconds") or (
            kind.resource.kind == "Namespace" and obj["spec"].get("finalizers")
        ):
            return
        if self._store.get(kind.key, metadata.get("namespace", ""), metadata["name"]) is not None:
            self._remove(kind, obj)

    def evict(self, namespace: str, pod_name: str, eviction: Manifest, *, dry_run: bool = False) -> Manifest:
        """
        Raises:
            ApiError: 404, 409 (uid), 429 where a budget forbids it now, 500 for two budgets over one pod.
        """
        kind = self._writer.kind_by_key("pods")
        pod = self._store.get("pods", namespace, pod_name)
        if pod is None:
            raise failures.not_found(kind.resource, pod_name)
        if (eviction.get("metadata") or {}).get("name", pod_name) != pod_name:
            raise failures.bad_request("name in URL does not match name in Eviction object")
        options = eviction.get("deleteOptions") or {}
        dry_run = dry_run or bool(options.get("dryRun"))
        self._check_preconditions(kind, pod, options.get("preconditions") or {})
        budget = self._budget_of(pod)
        if budget is not None and not _ignores_budget(pod, budget):
            self._spend(budget, pod_name, dry_run=dry_run)
        self.delete(kind, namespace, pod_name, options, dry_run=dry_run)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _budget_of(self, pod: Manifest) -> Manifest | None:
        labels = pod["metadata"].get("labels") or {}
        budgets = self._store.items("poddisruptionbudgets.policy", pod["metadata"]["namespace"])
        over = [b for b in budgets if matches_object((b.get("spec") or {}).get("selector"), labels)]
        if len(over) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "InternalError", text)
        return over[0] if over else None

    def _spend(self, budget: Manifest, pod_name: str, *, dry_run: bool) -> None:
        """Take one disruption from the budget's status, as the real server does before it deletes."""
        status, metadata = budget.get("status") or {}, budget["metadata"]
        name = metadata["name"]
        if status.get("observedGeneration", 0) < metadata.get("generation", 0):
            cause = f"The disruption budget {name} is still being processed by the server."
            raise failures.too_many_requests(_VIOLATES, {"retryAfterSeconds": 10, "causes": [_cause(cause)]})
        if status.get("disruptionsAllowed", 0) < 1:
            cause = (
                f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods "
                f"and has {status.get('currentHealthy', 0)} currently"
            )
            raise failures.too_many_requests(_VIOLATES, {"causes": [_cause(cause)]})
        if dry_run:
            return
        spent = clone(budget)
        spent["status"]["disruptionsAllowed"] = status["disruptionsAllowed"] - 1
        spent["status"].setdefault("disruptedPods", {})[pod_name] = self._stamp.now()
        self._writer.store_as_is(self._writer.kind_by_key("poddisruptionbudgets.policy"), spent)


def _cause(message: str) -> Manifest:
    return {"reason": "DisruptionBudget", "message": message}


def is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _ignores_budget(pod: Manifest, budget: Manifest) -> bool:
    """Pods that serve nobody do not count against a budget."""
    status = budget.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") in ("Succeeded", "Failed", "Pending"):
        return True
    if is_ready(pod):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    return bool(status.get("desiredHealthy", 0) > 0 and status.get("currentHealthy", 0) >= status["desiredHealthy"])


def _success(kind: ResourceType, obj: Manifest) -> Manifest:
    details = {"name": obj["metadata"]["name"], "kind": kind.resource.plural, "uid": obj["metadata"]["uid"]}
    if kind.resource.group:
        details["group"] = kind.resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


__all__ = ["Remover", "is_ready", "parse_time"]
