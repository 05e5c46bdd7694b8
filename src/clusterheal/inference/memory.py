"""What the detector asks to be handed in with an entity's next window: a predictor itself remembers nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clusterheal.contracts import Detection, FeatureContract, ModelInputs
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import PermanentError
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.wire import Answer


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Of one entity: what was handed in with the window of `time_ns`, and what its answer asks for next."""

    time_ns: int
    before: Tensor
    after: Tensor


class DetectorMemory:
    """Keeps what answers ask for, by entity, and hands it in again a step of the contract or more later.

    A window that is less than a step newer gets what the one before it got: asking often does not make time pass
    faster. What is older than a whole recent window is forgotten, and so is everything when another package
    answers or a request is refused. Without memory the detector judges as it was calibrated.
    """

    def __init__(self, contract: FeatureContract) -> None:
        self._step_ns = contract.step_ns
        self._forget_ns = contract.step_ns * contract.window.recent_steps
        self._kept: dict[str, _Kept] = {}
        self._package: str | None = None

    def forget(self) -> None:
        """Begin anew, as after a refusal: another package may answer by now, with a memory of another width."""
        self._kept.clear()

    def handed_in(self, inputs: ModelInputs) -> Tensor | None:
        """float32 `(batch, width)`, NaN where nothing is remembered; `None` while nothing is at all."""
        if not self._kept:
            return None
        width = len(next(iter(self._kept.values())).after)
        rows = np.full((len(inputs.entity), width), np.nan, np.float32)
        for row, (entity, time_ns) in enumerate(zip(inputs.entity, inputs.timestamp.tolist(), strict=True)):
            kept = self._kept.get(entity)
            if kept is not None and 0 <= time_ns - kept.time_ns <= self._forget_ns:
                rows[row] = kept.after if time_ns - kept.time_ns >= self._step_ns else kept.before
        return rows

    def keep(self, inputs: ModelInputs, handed_in: Tensor | None, answer: Answer) -> None:
        """Remember what the answer to `inputs`, sent with `handed_in`, asks for.

        Raises:
            PermanentError: the answer's memory has another shape.
        """
        if answer.package_sha256 != self._package:
            stale = bool(self._kept)
            self._kept.clear()
            self._package = answer.package_sha256
            if stale:  # it was judged by what another package remembered
                return
        after = answer.tensors.get("memory_after")
        if after is None:
            return
        width = after.shape[1:] if handed_in is None else handed_in.shape[1:]
        if after.ndim != 2 or after.shape != (len(inputs.entity), *width):
            raise PermanentError(f"the served model must answer 'memory_after' for each row, got {list(after.shape)}")
        before = np.full_like(after, np.nan) if handed_in is None else handed_in
        for row, (entity, time_ns) in enumerate(zip(inputs.entity, inputs.timestamp.tolist(), strict=True)):
            kept = self._kept.get(entity)
            if kept is None or time_ns - kept.time_ns >= self._step_ns:
                self._kept[entity] = _Kept(time_ns=time_ns, before=before[row], after=after[row])
        newest = int(inputs.timestamp.max(initial=0))
        gone = [entity for entity, kept in self._kept.items() if newest - kept.time_ns > self._forget_ns]
        for entity in gone:
            del self._kept[entity]


class RememberingDetector:
    """The served detector, asked round by round by one caller."""

    def __init__(self, client: InferenceClient, contract: FeatureContract) -> None:
        self._client = client
        self._memory = DetectorMemory(contract)

    async def detect(self, inputs: ModelInputs) -> list[Detection]:
        """As `InferenceClient.detect`."""
        return await self._client.detect(inputs, memory=self._memory)
