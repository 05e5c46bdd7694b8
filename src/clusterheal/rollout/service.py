"""The InferenceService as the rollout sees it: fenced writes of what it owns."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from clusterheal.clock import Clock
from clusterheal.errors import PermanentError, RetryableError
from clusterheal.kube.inference_service import (
    FIELD_MANAGER,
    PREVIOUS,
    ROLLOUT,
    Placement,
    Previous,
    configuration,
    notes_of,
    notes_patch,
    placement_of,
    set_path,
)
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest, PatchType
from clusterheal.kube.resources import INFERENCE_SERVICES
from clusterheal.rollout.state import RolloutBusy, RolloutState

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
        set_path(model, found, self.uri)
        return {"trafficPercent": self.percent, "predictor": {**predictor, "name": self.name}}


class Service:
    """Reads and writes one InferenceService for one holder.

    The model's path and the version labels are one apply configuration of one field manager. The rollout's state is a
    note in the status, since a change of the object's annotations or labels would make KServe replace the pods. Each
    write carries the resourceVersion in which this holder was seen to hold the lease, so that a rollout that was taken
    over cannot write any more.
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
        created: RolloutState | None = None
        for _ in range(ATTEMPTS):
            found = await self.read()
            left = state_of(found) if found is not None else None
            if left is not None and left.holder != self._holder and left.expires > self._clock.now():
                raise RolloutBusy(
                    f"InferenceService {self.namespace}/{self.name} is being rolled out by {left.holder} "
                    f"({left.target.version}, step {left.step}) until {left.expires:%H:%M:%S}; try again later"
                )
            state = self._renewed(left or created or begin(found))
            if found is None:
                created = state
                await self._apply(None, state.target)  # then read again: another holder may have made it just now
            elif await self._note(found, {ROLLOUT: state.to_json()}) is not None:
                await self._own_fields(left)
                return state, left is not None
        raise self._too_busy()

    async def _own_fields(self, left: RolloutState | None) -> None:
        """Own what is served already, by writing it as it is; without that nothing else can be written either."""
        try:
            await self._fenced(lambda found: self._apply(found, placement_of(found)))
        except PermanentError:
            await self._fenced(lambda found: self._note(found, {ROLLOUT: None if left is None else left.to_json()}))
            raise

    async def write(
        self, state: RolloutState, placement: Placement | None, canary: Canary | None = None
    ) -> RolloutState:
        """Make the object serve `placement` (None: our fields are taken back) and keep `state`, renewing the lease.

        The state is written first: what was cut off between the two is done again by whoever reads it.
        `canary` gets its share of the Route's traffic beside it; without one, an earlier canary entry is dropped.

        Raises:
            RolloutBusy: the lease was lost.
            PermanentError: the object is gone, or somebody else owns a field.
        """
        state = await self._keep(self._renewed(state))
        await self._fenced(lambda found: self._apply(found, placement, canary))
        return state

    async def renew(self, state: RolloutState) -> RolloutState:
        """Keep the lease when half of it is used up; otherwise nothing is written."""
        if state.expires - self._clock.now() > self._lease / 2:
            return state
        return await self._keep(self._renewed(state))

    async def hand_over(self, state: RolloutState, within: timedelta) -> RolloutState:
        """Keep the lease for `within`, in which the same holder's next step is to go on."""
        return await self._keep(replace(self._renewed(state), expires=self._clock.now() + within))

    async def release(self, placement: Placement | None, *, replaced: Placement | None = None) -> None:
        """Serve `placement` and drop the state: the rollout is over. What it `replaced` is noted, to go back to."""
        previous = None
        if replaced is not None and placement is not None and replaced.uri != placement.uri:
            previous = Previous(placement=replaced, since=self._clock.now(), replaced_by=placement.uri).to_json()
        await self._fenced(lambda found: self._apply(found, placement))
        found = await self._held()
        for _ in range(ATTEMPTS):
            if await self._note(found, {ROLLOUT: None, PREVIOUS: previous}) is not None:
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

    async def _keep(self, state: RolloutState) -> RolloutState:
        await self._fenced(lambda found: self._note(found, {ROLLOUT: state.to_json()}))
        return state

    async def _fenced(self, write: Callable[[Manifest], Awaitable[Manifest | None]]) -> None:
        """Repeat `write`, each time of the object as it is then, with our lease on it."""
        for _ in range(ATTEMPTS):
            if await write(await self._held()) is not None:
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
        self, found: Manifest | None, placement: Placement | None, canary: Canary | None = None
    ) -> Manifest | None:
        """The object as written; None when it changed meanwhile: then read again."""
        config = configuration(self.name, self.namespace, found, placement)
        if canary is not None and found is not None:
            config["spec"]["canary"] = [canary.entry(found)]
        try:
            return await self._once(
                self._cluster.patch(
                    INFERENCE_SERVICES,
                    self.name,
                    config,
                    patch_type=PatchType.APPLY,
                    namespace=self.namespace,
                    field_manager=FIELD_MANAGER,
                )
            )
        except ApiError as exc:
            if exc.status == 409 and _field_conflict(exc):
                raise PermanentError(
                    f"InferenceService {self.namespace}/{self.name}: somebody else owns the model path: {exc.message}; "
                    "let GitOps ignore spec.predictor.model.storageUri and the version labels"
                ) from exc
            if exc.status == 409:
                return None
            raise

    async def _note(self, found: Manifest, notes: Mapping[str, str | None]) -> Manifest | None:
        """The object with these notes; None when it changed meanwhile: then read again."""
        try:
            return await self._once(
                self._cluster.patch(
                    INFERENCE_SERVICES,
                    self.name,
                    notes_patch(found, notes),
                    patch_type=PatchType.MERGE,
                    namespace=self.namespace,
                    subresource="status",
                    field_manager=FIELD_MANAGER,
                )
            )
        except ApiError as exc:
            if exc.status == 409:
                return None
            raise

    async def _once(self, write: Awaitable[Manifest]) -> Manifest | None:
        try:
            return await write
        except ApiRetryable as exc:  # perhaps it was written: only another look can tell
            log.info("write to be repeated", extra={"service": self.name, "reason": str(exc)})
            await self._clock.sleep(exc.retry_after or 0.2)
            return None

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
    """The rollout that is under way, by what it noted."""
    text = notes_of(service).get(ROLLOUT)
    return RolloutState.from_json(text) if text else None


def address_of(service: Manifest) -> str | None:
    """Where callers inside the cluster reach the predictor."""
    status = service.get("status") or {}
    url = (status.get("address") or {}).get("url") or status.get("url")
    return str(url) if url else None


def _field_conflict(exc: ApiError) -> bool:
    causes = exc.details.get("causes") or []
    return any(c.get("reason") == "FieldManagerConflict" for c in causes if isinstance(c, dict))
