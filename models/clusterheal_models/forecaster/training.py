"""The training loop: metric-aligned loss, averaged weights, early stopping on later time, resumable.

Everything random about an optimiser step follows from the seed and the step's number: a resumed training draws what
the killed one would have drawn, and processes that train together draw the same batch and take a part each.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clusterheal_models.compute import World, can_compile, is_out_of_memory
from clusterheal_models.forecaster.checkpoint import load_checkpoint, save_checkpoint
from clusterheal_models.forecaster.config import ForecasterConfig
from clusterheal_models.forecaster.network import ForecastNet, pinball
from clusterheal_models.forecaster.windows import Batch, WindowSource
from clusterheal_models.progress import Progress, ProgressCallback

log = logging.getLogger(__name__)

WARM_UP_STEPS = 50
FINAL_RATE = 0.02
REFIT_RATE = 0.3
LINEAR_SHARE = 0.3
MIN_BATCH_ROWS = 16
MOST_BATCH_ROWS = 65_536
ROWS_PER_SAMPLE = 128e-6  # so that a step's rows, and with them the cost of training, grow with the data
VALIDATION_WINDOWS = 3000
VALIDATION_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class TrainSpan:
    """Steps of the panel that targets may lie in: `[first, end)` to learn from, `[end, later_end)` to stop by."""

    first: int
    end: int
    later_end: int


@dataclass(kw_only=True)
class TrainState:
    """What a checkpoint holds; `history` has (step, validation loss)."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    history: list[tuple[int, float]] = field(default_factory=list)
    batch_rows: int = 256
    averaged: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """The loss as a module: what is compiled, and what DDP wraps."""

    def __init__(self, net: ForecastNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Batch) -> Tensor:
        """Summed weighted pinball loss of each member `(n_members,)`: in raw units over the series' typical change."""
        known = torch.isfinite(batch.target)
        target = torch.where(known, batch.target, torch.zeros_like(batch.target))
        members = self.net.rows(batch.recent, batch.seasonal, batch.timestamp, batch.feature)
        losses = []
        for quantiles in members:
            usable = known & torch.isfinite(quantiles[..., 0])
            loss = pinball(torch.nan_to_num(quantiles.float()), target) * usable * batch.weight.unsqueeze(-1)
            losses.append(loss.sum())
        return torch.stack(losses)


class Trainer:
    """Trains a `ForecastNet` in place; afterwards it holds the averaged weights of the best evaluation."""

    def __init__(
        self,
        net: ForecastNet,
        source: WindowSource,
        span: TrainSpan,
        config: ForecasterConfig,
        *,
        world: World,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.net, self.source, self.span, self.config, self.progress = net, source, span, config, progress
        self.world = world
        self.generator = torch.Generator(device=source.device)
        self.optimiser = _optimiser(net, config)
        self.state = TrainState(batch_rows=batch_rows(config, source.n_samples), averaged=_copy(net))
        self.validation = self._validation_batches()
        self.objective: nn.Module = Objective(net)
        if config.compiled == "on" or (config.compiled == "auto" and can_compile(source.device)):
            self.objective.compile()
        if world.size > 1:
            self._agree_on_batch()
            self.objective = DistributedDataParallel(self.objective, broadcast_buffers=False)
        if config.checkpoint is not None:
            load_checkpoint(config.checkpoint, self)

    def run(self) -> TrainState:
        """Train until the last step, until patience ends or time is up; leaves the best averaged weights in the net."""
        began, first = time.monotonic(), self.state.step
        loss = torch.tensor(math.nan)
        while self.state.step < self.config.max_steps:
            loss = self._guarded_step()
            self.state.step += 1
            done = self.state.step
            if done % self.config.evaluate_every == 0 or done == self.config.max_steps:
                self._evaluate()
                self._report("train forecaster", began, done - first, done, self.config.max_steps, loss)
                if self._stale():
                    break
            if self.config.checkpoint is not None and done % self.config.checkpoint_every == 0:
                if self.world.first:
                    save_checkpoint(self.config.checkpoint, self)
                self.world.wait()
            if self.config.max_seconds is not None and self.world.any(
                time.monotonic() - began > self.config.max_seconds
            ):
                self._evaluate()
                break
        self.net.load_state_dict(self.state.best or self.state.averaged)
        self.net.eval()
        return self.state

    def refit(self, steps: int) -> None:
        """Train on for `steps` with the later slice included, the rate falling to nothing."""
        self.state.averaged = _copy(self.net)
        began = time.monotonic()
        for step in range(steps):
            self._set_rate(REFIT_RATE * self.config.learning_rate * (1 - step / steps))
            # Counted on from the last possible step, so that no step of the training is drawn again.
            loss = self._step(self.config.max_steps + step, self.span.later_end)
            if (step + 1) % self.config.evaluate_every == 0:
                self._report("refit forecaster", began, step + 1, step + 1, steps, loss)
        self.net.load_state_dict(self.state.averaged)
        self.net.eval()

    def _guarded_step(self) -> Tensor:
        """One step; when the device runs out of memory, with half the batch from then on."""
        config = self.config
        share = self.state.step / config.max_steps
        cosine = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        self._set_rate(config.learning_rate * cosine * min(1.0, (self.state.step + 1) / WARM_UP_STEPS))
        while True:
            try:
                return self._step(self.state.step, self.span.end)
            except (RuntimeError, MemoryError) as error:
                # Processes that train together agreed on a size that fits; one alone must not change it.
                smallest = self.world.size > 1 or self.state.batch_rows // 2 < MIN_BATCH_ROWS
                if smallest or not is_out_of_memory(error):
                    raise
            self._halve()  # not above: there, the error still holds on to the memory

    def _halve(self) -> None:
        self.state.batch_rows //= 2
        self.optimiser.zero_grad(set_to_none=True)
        if self.source.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory on %s: going on with half the batch, %d windows a step",
            self.source.device,
            self.state.batch_rows,
            extra={"batch_rows": self.state.batch_rows, "step": self.state.step},
        )

    def _agree_on_batch(self) -> None:
        """Try a step without learning from it, halve the batch while it does not fit, and take the smallest of all."""
        while True:
            try:
                self._losses(self._draw(0, self.span.end)).sum().backward()  # type: ignore[no-untyped-call]
                break
            except (RuntimeError, MemoryError) as error:
                if self.state.batch_rows // 2 < MIN_BATCH_ROWS or not is_out_of_memory(error):
                    raise
            self._halve()
        self.optimiser.zero_grad(set_to_none=True)
        self.state.batch_rows = self.world.least(self.state.batch_rows)

    def _step(self, number: int, high: int) -> Tensor:
        """One optimiser step on targets before `high`; the mean loss of the members, still on the device."""
        self.net.train()
        batch = self._draw(number, high)
        known = self.world.total(batch.known()).clamp(min=1)
        self.optimiser.zero_grad(set_to_none=True)
        losses = self._losses(batch) / known
        # DDP averages gradients over the processes, but the parts' losses add up.
        (losses.sum() * self.world.size).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self._average(number)
        return losses.detach().mean()

    def _draw(self, number: int, high: int) -> Batch:
        """This process's part of the batch of a step; also sets torch's generators for its dropout."""
        seed = _mix(self.config.seed, number)
        self.generator.manual_seed(seed)
        series, origin = self.source.draw(self.state.batch_rows, self.span.first, high, self.generator)
        holes = torch.rand((len(series), 4), generator=self.generator, device=self.generator.device)
        torch.manual_seed(seed + self.world.rank)
        part = self.world.part
        return hide_parts(self.source.batch(part(series), part(origin)), part(holes), self.config.mask_share)

    def _losses(self, batch: Batch) -> Tensor:
        kind = self.source.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            losses: Tensor = self.objective(batch)
        return losses

    def _average(self, number: int) -> None:
        decay = min(self.config.averaging, (number + 2) / (number + 11))
        averaged = [self.state.averaged[name] for name, _ in self.net.named_parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list(self.net.parameters()), 1 - decay)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    def _validation_batches(self) -> list[Batch]:
        """This process's part of evenly spaced windows of the later slice."""
        grid = self.source.grid(self.span.end, self.span.later_end, windows=VALIDATION_WINDOWS)
        series, origin = map(self.world.part, grid)
        return [
            self.source.batch(series[i : i + VALIDATION_BATCH], origin[i : i + VALIDATION_BATCH])
            for i in range(0, len(series), VALIDATION_BATCH)
        ]

    def _evaluate(self) -> None:
        """Loss of the averaged weights on later time; the best are kept."""
        current = _copy(self.net)
        self.net.load_state_dict(self.state.averaged)
        self.net.eval()
        objective = Objective(self.net)
        sums = torch.zeros(2, dtype=torch.float64, device=self.source.device)
        with torch.no_grad():
            for batch in self.validation:
                sums += torch.stack([objective(batch).double().mean(), batch.known().double()])
        total, count = self.world.total(sums).tolist()
        loss = total / max(count, 1.0)
        self.state.history.append((self.state.step, loss))
        if loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step = loss, self.state.step
            self.state.best = {k: v.clone() for k, v in self.state.averaged.items()}
        self.net.load_state_dict(current)

    def _stale(self) -> bool:
        return self.state.step - self.state.best_step >= self.config.patience * self.config.evaluate_every

    def _report(self, phase: str, began: float, fresh: int, done: int, total: int, loss: Tensor) -> None:
        """`fresh` steps were made since `began`; before that, a resumed training had made others of those `done`."""
        if self.progress is None or not self.world.first:
            return
        rate = fresh / max(time.monotonic() - began, 1e-9)
        self.progress(
            Progress(
                phase=phase,
                done=done,
                total=total,
                loss=float(loss),
                samples_per_second=rate * self.state.batch_rows,
                seconds_left=(total - done) / max(rate, 1e-9),
            )
        )


def batch_rows(config: ForecasterConfig, n_samples: int) -> int:
    """Windows per optimiser step for `n_samples` grid cells of training data."""
    return max(config.batch_rows, min(MOST_BATCH_ROWS, round(ROWS_PER_SAMPLE * n_samples)))


def hide_parts(batch: Batch, draw: Tensor, share: float) -> Batch:
    """Make gaps in `share` of the windows: a truncated history, a hole in the recent steps, or a lost season.

    `draw` `(N, 4)`, uniform in [0, 1), decides which and where.
    """
    recent_steps = batch.recent.shape[1]
    hit = draw[:, 0] < share
    position = torch.arange(recent_steps, device=draw.device) / recent_steps
    kind = (draw[:, 1] * 3).long()
    start = torch.where(kind == 0, torch.zeros_like(draw[:, 2]), draw[:, 2])
    end = torch.where(kind == 0, draw[:, 2], start + 0.5 * draw[:, 3])
    hole = (position >= start[:, None]) & (position < end[:, None]) & (hit & (kind < 2))[:, None]
    n_lags = batch.seasonal.shape[1]
    lost = (draw[:, 2:3] * (n_lags + 1)).long() <= torch.arange(n_lags, device=draw.device)
    lost = lost & (hit & (kind == 2))[:, None]
    return Batch(
        recent=batch.recent.masked_fill(hole, float("nan")),
        seasonal=batch.seasonal.masked_fill(lost[:, :, None], float("nan")),
        timestamp=batch.timestamp,
        feature=batch.feature,
        target=batch.target,
        weight=batch.weight,
    )


def _optimiser(net: ForecastNet, config: ForecasterConfig) -> torch.optim.AdamW:
    """AdamW; the linear maps go slower, since hundreds of inputs move their output at once."""
    named = list(net.named_parameters())
    linear = [p for name, p in named if ".linear." in name]
    rest = [p for name, p in named if ".linear." not in name]
    groups = [{"params": rest, "share": 1.0}, {"params": linear, "share": LINEAR_SHARE}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
    )


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def _mix(seed: int, number: int) -> int:
    """One seed for torch from the run's seed and a step's number; neighbours share nothing."""
    return (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xBF58476D1CE4E5B9) % 2**63
