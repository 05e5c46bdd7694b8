"""What a rule sees and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clusterheal.contracts import Diagnosis, Plan, SignalSource
from clusterheal.engine.names import tokens
from clusterheal.engine.records import Observation, Record
from clusterheal.engine.signals.models import path_of
from clusterheal.engine.signals.symptoms import Symptom, symptom
from clusterheal.engine.views import PodView
from clusterheal.engine.world import World
from clusterheal.kube.ports import Manifest


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A diagnosis, and a plan unless the right thing is to tell people.

    `final`: tell them at once, do not wait. `handed_over`: what to do is known, and is for people to do.
    """

    diagnosis: Diagnosis
    plan: Plan | None
    final: bool = False
    handed_over: bool = False


@dataclass(frozen=True)
class Case:
    """One incident in its world."""

    record: Record
    world: World

    @cached_property
    def symptoms(self) -> Mapping[Symptom, list[Observation]]:
        """Active observations by symptom."""
        found: dict[Symptom, list[Observation]] = {}
        for observation in self.record.active:
            found.setdefault(symptom(observation.signal), []).append(observation)
        return found

    @cached_property
    def pods(self) -> list[PodView]:
        return self.world.snapshot.pods_of(self.record.target)

    @cached_property
    def manifest(self) -> Manifest | None:
        return self.world.snapshot.manifest(self.record.target)

    def of(self, *wanted: Symptom) -> list[Observation]:
        return [o for w in wanted for o in self.symptoms.get(w, ())]

    def entity(self, *sources: SignalSource) -> str | None:
        """The models' name for the target, from a model's signal; else from the target itself."""
        for observation in self.record.observations:
            if observation.signal.source in (sources or (SignalSource.DETECTOR, SignalSource.FORECASTER)):
                return str(observation.signal.details.get("entity"))
        target = self.record.target
        if target.kind == "Node":
            return f"node/{target.name}"
        return f"workload/{target.namespace}/{target.name}" if target.namespace else None

    def watched(self, seen: Sequence[Observation], *preferred: str) -> tuple[str | None, float | None]:
        """The feature that will show whether an action helped, and its threshold where a forecast named one.

        The forecast's feature, else the first of `preferred` that the detector named or that is measured: each is a
        word of the name (`memory`) or a whole name.
        """
        for observation in seen:
            if "feature" in observation.signal.details:
                return str(observation.signal.details["feature"]), float(observation.signal.details["threshold"])
        named = [str(n) for o in seen for n in o.signal.details.get("contributions", {})]
        measured = sorted(self.world.models.current.get(self.entity() or "", {}))
        for names in (named, measured):
            for wanted in preferred:
                found = next((n for n in names if n == wanted or wanted in tokens(n)), None)
                if found is not None:
                    return found, None
        return None, None

    def proof(self, feature: str, threshold: float | None, *, lower_is_better: bool = True) -> dict[str, Any]:
        """What verification needs: the feature to watch and its forecast had nothing been done."""
        entity = self.entity()
        proof: dict[str, Any] = {"entity": entity, "feature": feature, "lower_is_better": lower_is_better}
        if threshold is not None:
            proof["threshold"] = threshold
        if entity is None:
            return proof
        current = self.world.models.current.get(entity, {}).get(feature)
        if current is not None:
            proof["baseline"] = round(current, 6)
        forecast = self.world.models.forecasts.get(entity)
        path = path_of(forecast, feature) if forecast is not None else None
        if path is not None:
            proof["counterfactual"] = path.to_dict()
        return proof

    def pods_summary(self) -> list[dict[str, Any]]:
        """Evidence about the target's pods, the unready ones first."""
        rows = [
            {
                "pod": p.name,
                "node": p.node,
                "ready": p.ready,
                "restarts": sum(c.restarts for c in p.containers),
                "waiting": next((c.waiting for c in p.containers if c.waiting), None),
                "last_exit": next((c.last_exit_code for c in p.containers if c.last_exit_code is not None), None),
            }
            for p in self.pods
        ]
        return sorted(rows, key=lambda r: (bool(r["ready"]), str(r["pod"])))[:10]


Rule = Callable[[Case], Finding | None]


def explained(
    case: Case,
    *,
    cause: str,
    explanation: str,
    playbook: str | None,
    evidence: Mapping[str, Any] | None = None,
    origin: str = "rule",
    confidence: float = 1.0,
) -> Diagnosis:
    """A diagnosis with the signals it rests on."""
    signals = [o.signal.summary or o.signal.name for o in case.record.active][:10]
    return Diagnosis(
        cause=cause,
        origin=origin,
        playbook=playbook,
        confidence=confidence,
        explanation=explanation,
        evidence={"signals": signals, **(evidence or {})},
    )


def report(case: Case, *, cause: str, explanation: str, evidence: Mapping[str, Any] | None = None) -> Finding:
    """No action is right: explain, and hand over to people at once."""
    return Finding(
        diagnosis=explained(case, cause=cause, explanation=explanation, playbook=None, evidence=evidence),
        plan=None,
        final=True,
    )
