"""What can be set about the forecaster. One configuration serves every kind of metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clusterheal.errors import InvalidInput

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Anchor = Literal["median", "wide_median", "newest"]


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """One network of the ensemble; members differ so that their errors do.

    `anchor`: where its normalised zero lies: the median of the recent steps, of all steps in the window, or the
    mean of the newest eight. `soft`: squash normalised values by asinh, which tames spikes.
    `hidden`: units per layer. `depth`: residual layers after the first.
    """

    anchor: Anchor = "median"
    soft: bool = False
    hidden: int = 128
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """How to train. Counts of steps here are optimiser steps, not time steps.

    `members`: the ensemble, averaged quantile by quantile. `embedding`: width of what is learned about each feature
    of the contract; entities have none, so new entities need no training.
    `batch_rows`: least number of windows per optimiser step; it grows with the data. `max_steps` bounds the training;
    it stops before when the loss on the calibration slice has not improved for `patience` evaluations,
    `evaluate_every` steps apart.
    `refit_share`: after calibration, train on for this share of the steps with the calibration slice included,
    since the newest days tell most; 0 leaves it out. `mask_share`: share of training windows with parts hidden,
    so that gaps are met in training.
    `threads`: of the CPU; networks this small gain nothing from more, and on a busy machine more wait for each
    other (measured: 36 s with one, 232 s with two, on two cores that others used, too).
    `device`: `auto` takes CUDA when there is one. `compiled`: fuse the loss by `torch.compile`; `auto` does so on CUDA
    where Triton and a C compiler are there. On a CPU a step gets a quarter faster, but compiling takes as long as a
    thousand steps, so `auto` leaves it out. `max_seconds`: stop early after this long (costs reproducibility).
    `checkpoint`: folder for checkpoints every `checkpoint_every` steps; an interrupted fit resumes from there.
    """

    members: tuple[MemberConfig, ...] = (
        MemberConfig(),
        MemberConfig(anchor="wide_median", soft=True),
    )
    embedding: int = 8
    dropout: float = 0.2
    batch_rows: int = 256
    max_steps: int = 600
    evaluate_every: int = 100
    patience: int = 5
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    averaging: float = 0.995
    refit_share: float = 0.3
    mask_share: float = 0.15
    seed: int = 7
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    compiled: Literal["auto", "on", "off"] = "auto"
    threads: int = 1
    max_seconds: float | None = None
    checkpoint: Path | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if not self.members:
            raise InvalidInput("the forecaster needs at least one member, got none")
        for name in ("batch_rows", "max_steps", "evaluate_every", "patience", "checkpoint_every", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "averaging", "mask_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.refit_share < 0:
            raise InvalidInput(f"refit_share must not be negative, got {self.refit_share}")

    @classmethod
    def thorough(cls, *, seed: int = 7, device: Literal["auto", "cpu", "cuda"] = "cpu") -> ForecasterConfig:
        """What the benchmark uses: five members, trained longer; minutes where the default takes half a one."""
        members = (
            MemberConfig(),
            MemberConfig(soft=True),
            MemberConfig(anchor="wide_median", soft=True),
            MemberConfig(anchor="newest"),
            MemberConfig(anchor="newest", soft=True),
        )
        return cls(members=members, max_steps=1000, patience=10, seed=seed, device=device)
