"""The training loop: metric-aligned loss, averaged weights, early stopping on later time, resumable."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clusterheal_models.forecaster.checkpoint import load_checkpoint, save_checkpoint
from clusterheal_models.forecaster.config import ForecasterConfig
from clusterheal_models.forecaster.network import ForecastNet, pinball
from clusterheal_models.forecaster.windows import Batch, WindowSource
from clusterheal_models.progress import Progress, ProgressCallback

log = logging.getLogger(__name__)

WARM_UP_STEPS = 50
FINAL_RATE = 0.02
LINEAR_SHARE = 0.3
MIN_BATCH_ROWS = 16
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


class Trainer:
    """Trains a `ForecastNet` in place; afterwards it holds the averaged weights of the best evaluation."""

    def __init__(
        self,
        net: ForecastNet,
        source: WindowSource,
        span: TrainSpan,
        config: ForecasterConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.net, self.source, self.span, self.config, self.progress = net, source, span, config, progress
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimiser = _optimiser(net, config)
        self.state = TrainState(batch_rows=config.batch_rows, averaged=_copy(net))
        self.validation = self._validation_batches()
        if config.checkpoint is not None:
            load_checkpoint(config.checkpoint, self)

    def run(self) -> TrainState:
        """Train until the last step, until patience ends or time is up; leaves the best averaged weights in the net."""
        began, first = time.monotonic(), self.state.step
        loss = math.nan
        while self.state.step < self.config.max_steps:
            loss = self._guarded_step()
            self.state.step += 1
            done = self.state.step
            if done % self.config.evaluate_every == 0 or done == self.config.max_steps:
                self._evaluate()
                self._report(began, first, loss)
                if self._stale():
                    break
            if self.config.checkpoint is not None and done % self.config.checkpoint_every == 0:
                save_checkpoint(self.config.checkpoint, self)
            if self.config.max_seconds is not None and time.monotonic() - began > self.config.max_seconds:
                self._evaluate()
                break
        self.net.load_state_dict(self.state.best or self.state.averaged)
        self.net.eval()
        return self.state

    def refit(self, steps: int) -> None:
        """Train on for `steps` with the later slice included, the rate falling from a tenth to its end."""
        low, high = self.span.first, self.span.later_end
        self.state.averaged = _copy(self.net)
        for step in range(steps):
            self._set_rate(0.3 * self.config.learning_rate * (1 - step / steps))
            self._step(low, high)
        self.net.load_state_dict(self.state.averaged)
        self.net.eval()

    def _guarded_step(self) -> float:
        """One step; when the device runs out of memory, with half the batch from then on."""
        config = self.config
        share = self.state.step / config.max_steps
        cosine = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        self._set_rate(config.learning_rate * cosine * min(1.0, (self.state.step + 1) / WARM_UP_STEPS))
        while True:
            try:
                return self._step(self.span.first, self.span.end)
            except torch.OutOfMemoryError:
                if self.state.batch_rows // 2 < MIN_BATCH_ROWS:
                    raise
                self.state.batch_rows //= 2
                torch.cuda.empty_cache()
                log.warning("out of device memory, halving the batch", extra={"batch_rows": self.state.batch_rows})

    def _step(self, low: int, high: int) -> float:
        self.net.train()
        batch = self.source.sample(self.state.batch_rows, low, high, self.generator)
        batch = hide_parts(batch, self.config.mask_share, self.generator)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.source.device.type, torch.bfloat16, enabled=self.source.device.type == "cuda"):
            losses = self.member_losses(batch)
        total = losses.sum()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self._average()
        return float(total.detach()) / len(losses)

    def member_losses(self, batch: Batch) -> Tensor:
        """Weighted pinball loss of each member `(n_members,)`: in raw units over the series' typical change."""
        known = torch.isfinite(batch.target)
        target = torch.where(known, batch.target, torch.zeros_like(batch.target))
        members = self.net.rows(batch.recent, batch.seasonal, batch.timestamp, batch.feature)
        losses = []
        for quantiles in members:
            usable = known & torch.isfinite(quantiles[..., 0])
            loss = pinball(torch.nan_to_num(quantiles.float()), target) * usable * batch.weight.unsqueeze(-1)
            losses.append(loss.sum() / known.sum().clamp(min=1))
        return torch.stack(losses)

    def _average(self) -> None:
        decay = min(self.config.averaging, (self.state.step + 1) / (self.state.step + 10))
        averaged = [self.state.averaged[name] for name, _ in self.net.named_parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list(self.net.parameters()), 1 - decay)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    def _validation_batches(self) -> list[Batch]:
        per_series = max(4, VALIDATION_WINDOWS // len(self.source))
        series, origin = self.source.grid(self.span.end, self.span.later_end, per_series=per_series)
        return [
            self.source.batch(series[i : i + VALIDATION_BATCH], origin[i : i + VALIDATION_BATCH])
            for i in range(0, min(len(series), 4 * VALIDATION_WINDOWS), VALIDATION_BATCH)
        ]

    def _evaluate(self) -> None:
        """Loss of the averaged weights on later time; the best are kept."""
        current = _copy(self.net)
        self.net.load_state_dict(self.state.averaged)
        self.net.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self.validation:
                total += float(self.member_losses(batch).mean()) * len(batch.feature)
                count += len(batch.feature)
        loss = total / max(count, 1)
        self.state.history.append((self.state.step, loss))
        if loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step = loss, self.state.step
            self.state.best = {k: v.clone() for k, v in self.state.averaged.items()}
        self.net.load_state_dict(current)

    def _stale(self) -> bool:
        return self.state.step - self.state.best_step >= self.config.patience * self.config.evaluate_every

    def _report(self, began: float, first: int, loss: float) -> None:
        if self.progress is None:
            return
        seconds = max(time.monotonic() - began, 1e-9)
        rate = (self.state.step - first) / seconds
        self.progress(
            Progress(
                phase="train forecaster",
                done=self.state.step,
                total=self.config.max_steps,
                loss=loss,
                samples_per_second=rate * self.state.batch_rows,
                seconds_left=(self.config.max_steps - self.state.step) / max(rate, 1e-9),
            )
        )


def hide_parts(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """Make gaps in `share` of the windows: a truncated history, a hole in the recent steps, or a lost season."""
    n, recent_steps = batch.recent.shape
    draw = torch.rand((n, 4), generator=generator)
    hit = (draw[:, 0] < share).to(batch.recent.device)
    draw = draw.to(batch.recent.device)
    position = torch.arange(recent_steps, device=batch.recent.device) / recent_steps
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
