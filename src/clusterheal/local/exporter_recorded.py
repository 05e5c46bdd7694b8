"""The live part of a replayed recording: `recorded_metric` of each instance, shifted by faults of its pods."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clusterheal.kube.ports import Manifest
from clusterheal.local.faults import Fault
from clusterheal.local.replay import Recording, Replay
from clusterheal.local.world import ClusterSpec
from clusterheal.local.world_live import PodView, Sample, pod_status_samples, pod_view, render
from clusterheal.local.world_signals import Float64

SHIFTED_METRICS = 4
SHIFT_IN_SPREADS = 3.0
RECENT_DAYS = 2.0


@dataclass(kw_only=True)
class RecordedWorld:
    """Goes on with the recording from `history_end` (seconds) in real time; pods matter only for faults."""

    spec: ClusterSpec
    replay: Replay
    history_end: int
    faults: list[Fault] = field(default_factory=list)
    pods: list[PodView] = field(default_factory=list)
    _samples: list[Sample] = field(default_factory=list)

    def observe(self, pods: Sequence[Manifest], deployments: Sequence[Manifest], *, now: float) -> None:
        """Take over the cluster's pods as they are now; the Deployments have no metrics here."""
        views = [pod_view(pod, self.spec) for pod in pods]
        self.pods = [view for view in views if view is not None]

    def advance(self, now: float) -> None:
        """Compute every sample at `now` (seconds)."""
        samples: list[Sample] = []
        for recording in self.replay.recordings:
            row = self.replay.live_row(recording, end=self.history_end, now=now) + self._shift(recording, now)
            for metric, value in zip(recording.metrics, row.tolist(), strict=True):
                if np.isfinite(value):
                    labels = {"instance": recording.instance, "metric": metric}
                    samples.append(("recorded_metric", labels, value))
        for view in self.pods:
            samples += pod_status_samples(view)
        self._samples = samples

    def out_of_memory(self) -> list[PodView]:
        """Recorded instances have no memory limit."""
        return []

    def render(self) -> str:
        """The exposition that Prometheus scrapes."""
        return render(self._samples)

    def _shift(self, recording: Recording, now: float) -> Float64:
        """What the faults add to each metric: in full while all victims live, nothing once they are replaced."""
        shift = np.zeros(len(recording.metrics))
        living = {view.uid for view in self.pods}
        for fault in self.faults:
            if fault.instance != recording.instance or not fault.victims:
                continue
            share = len(fault.victims & living) / len(fault.victims)
            for metric, size in fault.metrics.items():
                shift[recording.metrics.index(metric)] += size * fault.progress(now) * share
        return shift


def shifts(recording: Recording, *, seed: int) -> dict[str, float]:
    """Which metrics a fault moves and by how much: the liveliest ones, away from where they are, clear of their range.

    Sizes are in the metrics' own units: `SHIFT_IN_SPREADS` times the spread (1st to 99th percentile) of the
    last days.
    """
    recent = recording.values[-int(RECENT_DAYS * 86_400 / recording.step_seconds) :]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric without samples is not usable, and not chosen below
        low, middle, high = np.nanpercentile(recent, [1, 50, 99], axis=0)
        moves = np.nanmean(np.abs(np.diff(recent, axis=0)) > 0, axis=0)
    spread = high - low
    usable = np.flatnonzero(np.isfinite(spread) & (spread > 0))
    liveliest = usable[np.argsort(-moves[usable], kind="stable")][: 2 * SHIFTED_METRICS]
    chosen = np.random.default_rng(seed).permutation(liveliest)[:SHIFTED_METRICS]
    upwards = high - middle >= middle - low
    return {
        recording.metrics[i]: float(SHIFT_IN_SPREADS * spread[i] * (1.0 if upwards[i] else -1.0))
        for i in sorted(chosen.tolist())
    }


__all__ = ["RecordedWorld", "shifts"]
