"""Whether a served model is the right one and answers as its package says: never by the server's word alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clusterheal.clock import Clock
from clusterheal.contracts import DETECTOR, FeatureContract, ModelPackage
from clusterheal.contracts.requests import Tensor, golden_tensors
from clusterheal.errors import ClusterhealError, PermanentError, RetryableError
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.wire import Answer
from clusterheal.kube.ports import Manifest
from clusterheal.rollout.service import address_of
from clusterheal.rollout.state import StepFailed
from clusterheal.settings import InferenceSettings

FAILED_POLLS = 30  # looks in a row: a pod of the earlier spec may still fail, and be looked at, long after a write

Connect = Callable[[str, FeatureContract | None, InferenceSettings], InferenceClient]
"""A client for the predictor at an address, sending requests for that contract."""


def not_ready_reason(service: Manifest) -> str | None:
    """Why KServe does not call the service ready; None when it does.

    That may still be said of an earlier spec. `status.observedGeneration` does not tell: in Standard mode it is the
    Deployment's, which has generations of its own. Who needs to know asks the model which package it is.
    """
    status = service.get("status") or {}
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    if ready is None or ready.get("status") != "True":
        detail = "" if ready is None else f": {ready.get('reason', '')} {ready.get('message', '')}".rstrip()
        return f"condition Ready is {'absent' if ready is None else ready.get('status')}{detail}"
    if address_of(service) is None:
        return "the status has no address"
    return None


def load_failure(service: Manifest) -> str | None:
    """What KServe says when it has given a spec up for now, perhaps an earlier one; None otherwise."""
    model = (service.get("status") or {}).get("modelStatus") or {}
    if model.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
        return None
    info = model.get("lastFailureInfo") or {}
    return f"{model['transitionStatus']}: {info.get('message') or info.get('reason') or 'no message'}"


async def identity_problem(client: InferenceClient, package: ModelPackage) -> str | None:
    """Why the model behind `client` is not `package`, ready to answer; None when it is.

    Raises:
        StepFailed: another contract is served, which waiting does not change.
    """
    if not await client.ready(package.name):
        return f"/v2/models/{package.name}/ready does not say ready"
    try:
        metadata = await client.metadata(package.name)
    except (RetryableError, PermanentError) as exc:
        return str(exc)
    if metadata.package_sha256 != package.sha256:
        return f"package {_short(metadata.package_sha256)} is served, expected {_short(package.sha256)}"
    if metadata.contract_sha256 != package.contract.sha256:
        raise StepFailed(
            f"contract {_short(metadata.contract_sha256)} is served, expected {_short(package.contract.sha256)}"
        )
    return None


async def check_golden(client: InferenceClient, package: ModelPackage, tolerance: float) -> float:
    """Send the package's sample request; the largest relative difference of the answer.

    Raises:
        StepFailed: an output is missing, of another shape, or differs by more than `tolerance`; or no answer.
    """
    inputs, expected = golden_tensors(package.sample_request)
    try:
        answer = await client.infer(package.name, inputs)
    except ClusterhealError as exc:
        raise StepFailed(f"golden request: {exc}") from exc
    if answer.package_sha256 != package.sha256:
        raise StepFailed(f"golden request: answered by package {_short(answer.package_sha256)}")
    worst = 0.0
    for name, wanted in expected.items():
        got = answer.tensors.get(name)
        if got is None or got.shape != wanted.shape:
            shape = None if got is None else list(got.shape)
            raise StepFailed(f"golden request: output {name!r} has shape {shape}, expected {list(wanted.shape)}")
        worst = max(worst, difference := _difference(got, wanted))
        if difference > tolerance:
            raise StepFailed(
                f"golden request: output {name!r} differs by {difference:.3g} (relative), allowed is {tolerance:g}"
            )
    return worst


def _difference(got: Tensor, wanted: Tensor) -> float:
    """Largest relative difference; values under 1 % of the tensor's largest count as that large. NaN equals NaN."""
    if wanted.dtype.kind != "f":
        return 0.0 if bool((got == wanted).all()) else 1.0
    if got.dtype.kind != "f" or not np.array_equal(np.isfinite(got), np.isfinite(wanted)):
        return float("inf")
    known = np.isfinite(wanted)
    if not known.any():
        return 0.0
    a, b = got[known].astype(np.float64), wanted[known].astype(np.float64)
    floor = max(0.01 * float(np.abs(b).max()), 1e-9)
    return float((np.abs(a - b) / np.maximum(np.abs(b), floor)).max())


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one model did on a set of windows. `seconds` per answered request; `answers` is None where it failed."""

    answers: tuple[Answer | None, ...]
    seconds: tuple[float, ...]
    errors: tuple[str, ...]

    @property
    def error_rate(self) -> float:
        return len(self.errors) / max(len(self.answers), 1)

    @property
    def p99(self) -> float | None:
        return float(np.quantile(self.seconds, 0.99)) if self.seconds else None

    @property
    def alarm_rate(self) -> float | None:
        """Share of rows with an alarm; None for a model that raises none."""
        alarms = [a.tensors["alarm"] for a in self.answers if a is not None and "alarm" in a.tensors]
        return float(np.concatenate(alarms).mean()) if alarms else None


async def play(
    client: InferenceClient,
    model: str,
    windows: Sequence[Mapping[str, Tensor]],
    *,
    clock: Clock,
    keep: Callable[[], Awaitable[None]] | None = None,
    max_errors: int = 3,
) -> Round:
    """Ask for every window's tensors, one after the other; stop after `max_errors`.

    `keep` is called between them (to renew a lease).
    """
    answers: list[Answer | None] = []
    seconds: list[float] = []
    errors: list[str] = []
    for window in windows:
        began = clock.monotonic()
        try:
            answers.append(await client.infer(model, window))
            seconds.append(clock.monotonic() - began)
        except ClusterhealError as exc:
            answers.append(None)
            errors.append(str(exc))
        if len(errors) >= max_errors:
            break
        if keep is not None:
            await keep()
    return Round(answers=tuple(answers), seconds=tuple(seconds), errors=tuple(errors))


def agreement(model: str, candidate: Round, incumbent: Round) -> float | None:
    """Share of verdicts that agree, over windows that both answered; None when there is none.

    Detectors agree on a row when both or neither alarm; forecasters on a value when the candidate's median lies
    inside the incumbent's outermost quantiles.
    """
    shares: list[float] = []
    for mine, theirs in zip(candidate.answers, incumbent.answers, strict=False):
        if mine is None or theirs is None:
            continue
        share = _alarms_agree(mine, theirs) if model == DETECTOR else _medians_inside(mine, theirs)
        shares += [] if share is None else [share]
    return float(np.mean(shares)) if shares else None


def _alarms_agree(mine: Answer, theirs: Answer) -> float:
    return float((mine.tensors["alarm"] == theirs.tensors["alarm"]).mean())


def _medians_inside(mine: Answer, theirs: Answer) -> float | None:
    levels: Mapping[str, Tensor] = mine.tensors
    middle = int(np.abs(levels["levels"] - 0.5).argmin())
    median, band = mine.tensors["quantiles"][..., middle], theirs.tensors["quantiles"]
    known = np.isfinite(median) & np.isfinite(band).all(axis=-1)
    if not known.any():
        return None
    inside = (median >= band[..., 0]) & (median <= band[..., -1])
    return float(inside[known].mean())


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else sha256[:12]
