"""The InferenceService as the rollout sees it: one fenced server-side apply for everything that it owns."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from clusterheal.clock import Clock
from clusterheal.errors import PermanentError, RetryableError
from clusterheal.kube.inference_service import (
    FIELD_MANAGER,
    PREVIOUS,
    Placement,
    Previous,
    configuration,
    path_fields,
    placement_of,
)
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest, PatchType
from clusterheal.kube.resources import INFERENCE_SERVICES
from clusterheal.rollout.state import ANNOTATION, RolloutBusy, RolloutState

log = logging.getLogger(__name__)
T = TypeVar("T")

CONTAINER = "kserve-container"  # KServe's name; its CRD wants it in a canary's model and defaults it only elsewhere
ATTEMPTS = 8  # with doubling waits about half a minute, longer than an API server's restart behind a load balancer


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A second predictor that gets `percent` of the Route's traffic; callers inside the cluster see none of it."""

    name: str
    uri: str
    percent: int

    def entry(self, found: Manifest) -> Manifest:
        """The `spec.canary[]` entry: the predictor in service with another name and path."""
        predictor = copy.deepcopy((found.get("spec") or {}).get("predictor") or {})
        model = predictor.setdefault("model", {})
        model.setdefault("name", CONTAINER)
        own = path_fields(found, self.uri)
        model |= {"storage": {**model.get("storage", {}), **own["storage"]}} if "storage" in own else own
        return {"trafficPercent": self.percent, "predictor": {**predictor, "name": self.name}}


class Service:
    """Reads and writes one InferenceService for one holder.

    Everything written is one apply configuration of one field manager: the model's path, the version labels, and the
    annotation with the rollout's state. Each write carries the resourceVersion in which this holder was seen to
    hold the lease, so that a rollout that was taken over cannot write any more.
    """

    def __init__(
        self, cluster: Cluster, *, namespace: str, name: str, holder: str, lease: timedelta, clock: Clock
    ) -> None:
        self.name = name
        self.namespace = namespace
        self._cluster = cluster
        self._holder = holder
        self._lease = lease
        self._clock = clock

    async def read(self) -> Manifest | None:
        """The object, or None when there is none."""
        try:
            return await self.retrying(
                lambda: self._cluster.get(INFERENCE_SERVICES, self.name, namespace=self.namespace)
            )
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise

    async def acquire(self, begin: Callable[[Manifest | None], RolloutState]) -> tuple[RolloutState, bool]:
        """Take the lease; the state is `begin(object)`, or what a dead holder left, and whether it was left.

        Raises:
            RolloutBusy: a living holder has it.
            PermanentError: fields that this rollout must own are owned by somebody else.
        """
        for _ in range(ATTEMPTS):
            found = await self.read()
            left = state_of(found) if found is not None else None
            if left is not None and left.holder != self._holder and left.expires > self._clock.now():
                raise RolloutBusy(
                    f"InferenceService {self.namespace}/{self.name} is being rolled out by {left.holder} "
                    f"({left.target.version}, step {left.step}) until {left.expires:%H:%M:%S}; try again later"
                )
            state = self._renewed(left if left is not None else begin(found))
            live = placement_of(found) if found is not None else state.target
            if await self._apply(found, live, state):
                return state, left is not None
        raise self._too_busy()

    async def write(
        self, state: RolloutState, placement: Placement | None, canary: Canary | None = None
    ) -> RolloutState:
        """Make the object serve `placement` (None: our fields are taken back) and keep `state`, renewing the lease.

        `canary` gets its share of the Route's traffic beside it; without one, an earlier canary entry is dropped.

        Raises:
            RolloutBusy: the lease was lost.
            PermanentError: the object is gone, or somebody else owns a field.
        """
        state = self._renewed(state)
        await self._fenced(placement, state, canary)
        return state

    async def renew(self, state: RolloutState) -> RolloutState:
        """Keep the lease when half of it is used up; otherwise nothing is written."""
        if state.expires - self._clock.now() > self._lease / 2:
            return state
        found = await self._held()
        state = self._renewed(state)
        await self._fenced(placement_of(found), state, canary_of(found))
        return state

    async def hand_over(self, state: RolloutState, within: timedelta) -> RolloutState:
        """Keep the lease for `within`, in which the same holder's next step is to go on."""
        found = await self._held()
        state = replace(self._renewed(state), expires=self._clock.now() + within)
        await self._fenced(placement_of(found), state, canary_of(found))
        return state

    async def release(self, placement: Placement | None, *, replaced: Placement | None = None) -> None:
        """Serve `placement` and drop the state: the rollout is over. What it `replaced` is noted, to go back to."""
        kept = replaced is not None and placement is not None and replaced.uri != placement.uri
        previous = Previous(placement=replaced, since=self._clock.now()) if kept and replaced is not None else None
        found = await self._held()
        for _ in range(ATTEMPTS):
            if await self._apply(found, placement, None, previous=previous):
                return
            again = await self.read()
            if again is not None and state_of(again) is None:
                return  # that write did take effect, only its answer was lost
            found = await self._held()
        raise self._too_busy()

    async def delete(self) -> None:
        """Remove the object that this rollout created."""
        found = await self._held()
        uid = found["metadata"].get("uid")
        await self.retrying(
            lambda: self._cluster.delete(INFERENCE_SERVICES, self.name, namespace=self.namespace, uid=uid), gone=True
        )

    async def _fenced(
        self, placement: Placement | None, state: RolloutState | None, canary: Canary | None = None
    ) -> None:
        for _ in range(ATTEMPTS):
            if await self._apply(await self._held(), placement, state, canary):
                return
        raise self._too_busy()

    def _too_busy(self) -> RetryableError:
        return RetryableError(f"InferenceService {self.namespace}/{self.name} changes faster than it can be written")

    async def _held(self) -> Manifest:
        found = await self.read()
        if found is None:
            raise PermanentError(f"InferenceService {self.namespace}/{self.name} was deleted during the rollout")
        state = state_of(found)
        if state is None or state.holder != self._holder:
            by = "nobody" if state is None else state.holder
            raise RolloutBusy(f"InferenceService {self.namespace}/{self.name}: the lease was lost, it is held by {by}")
        return found

    async def _apply(
        self,
        found: Manifest | None,
        placement: Placement | None,
        state: RolloutState | None,
        canary: Canary | None = None,
        previous: Previous | None = None,
    ) -> bool:
        """False when the object changed meanwhile; then read again."""
        notes = {} if state is None else {ANNOTATION: state.to_json()}
        if state is None and previous is not None:
            notes = {PREVIOUS: previous.to_json()}
        config = configuration(self.name, self.namespace, found, placement, notes)
        if canary is not None and found is not None:
            config["spec"]["canary"] = [canary.entry(found)]
        try:
            await self.retrying(
                lambda: self._cluster.patch(
                    INFERENCE_SERVICES,
                    self.name,
                    config,
                    patch_type=PatchType.APPLY,
                    namespace=self.namespace,
                    field_manager=FIELD_MANAGER,
                ),
                attempts=1,
            )
        except ApiRetryable as exc:
            log.info("write to be repeated", extra={"service": self.name, "reason": str(exc)})
            await self._clock.sleep(0.2)
            return False
        except ApiError as exc:
            if exc.status == 409 and not _field_conflict(exc):
                return False
            if exc.status == 409:
                raise PermanentError(
                    f"InferenceService {self.namespace}/{self.name}: somebody else owns the model path: {exc.message}; "
                    "let GitOps ignore spec.predictor.model.storageUri and the version labels"
                ) from exc
            raise
        return True

    async def retrying(
        self, call: Callable[[], Awaitable[T]], *, attempts: int = ATTEMPTS, gone: bool = False
    ) -> T | Any:
        """`call`, again on `ApiRetryable`, waiting twice as long each time; `gone`: a 404 is success."""
        wait = 0.2
        while True:
            try:
                return await call()
            except ApiRetryable as exc:
                attempts -= 1
                if attempts <= 0:
                    raise
                await self._clock.sleep(exc.retry_after or wait)
                wait *= 2
            except ApiError as exc:
                if gone and exc.status == 404:
                    return None
                raise

    def _renewed(self, state: RolloutState) -> RolloutState:
        return replace(state, holder=self._holder, expires=self._clock.now() + self._lease)


def state_of(service: Manifest) -> RolloutState | None:
    """The rollout that is under way, by the object's annotation."""
    text = (service["metadata"].get("annotations") or {}).get(ANNOTATION)
    return RolloutState.from_json(text) if text else None


def canary_of(service: Manifest) -> Canary | None:
    """The canary entry that the object has, if any."""
    for entry in (service.get("spec") or {}).get("canary") or []:
        predictor = entry.get("predictor") or {}
        model = predictor.get("model") or {}
        uri = model.get("storageUri") or (model.get("storage") or {}).get("path")
        if uri:
            return Canary(name=str(predictor.get("name", "")), uri=str(uri), percent=int(entry["trafficPercent"]))
    return None


def address_of(service: Manifest) -> str | None:
    """Where callers inside the cluster reach the predictor."""
    status = service.get("status") or {}
    url = (status.get("address") or {}).get("url") or status.get("url")
    return str(url) if url else None


def _field_conflict(exc: ApiError) -> bool:
    causes = exc.details.get("causes") or []
    return any(c.get("reason") == "FieldManagerConflict" for c in causes if isinstance(c, dict))
