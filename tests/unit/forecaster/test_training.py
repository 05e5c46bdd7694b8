"""How the forecaster is trained: interrupted, out of memory, by several processes, streamed, on any device."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clusterheal_models.compute import World, can_compile, resolve_device
from clusterheal_models.export import run_onnx, session
from clusterheal_models.forecaster import ForecasterConfig, fit
from clusterheal_models.forecaster.network import ForecastNet
from clusterheal_models.forecaster.tables import feature_tables
from clusterheal_models.forecaster.training import Objective, Trainer, TrainSpan, batch_rows, hide_parts
from clusterheal_models.forecaster.windows import Batch, WindowSource
from clusterheal_models.progress import Progress

from clusterheal.contracts import FeaturePanel, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import InvalidInput

from .conftest import SMALL, WINDOW, Fitted, panel_of, planted

WORKER = Path(__file__).with_name("training_worker.py")
QUICK = replace(SMALL, max_steps=40, evaluate_every=10)
CPU = torch.device("cpu")


def saved(folder: Path, panel: FeaturePanel, config: ForecasterConfig) -> Path:
    """What `training_worker.py` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "values.npy", panel.values)
    about = {
        "config": asdict(config) | {"checkpoint": config.checkpoint and str(config.checkpoint)},
        "contract": panel.contract.to_dict(),
        "entities": panel.entities,
        "start_ns": int(panel.timestamps[0]),
    }
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def run_worker(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WORKER)]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command.append(str(WORKER))
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(fitted: Fitted, tmp_path: Path) -> None:
    whole = fit(fitted.panel, fitted.split, QUICK).export(tmp_path / "whole")
    config = replace(QUICK, checkpoint=tmp_path / "checkpoint", checkpoint_every=10)
    folder = saved(tmp_path / "work", fitted.panel, config)
    killed = run_worker(folder, tmp_path / "resumed", 30)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [f.name for f in (tmp_path / "checkpoint").iterdir()] == ["forecaster.safetensors"]
    resumed = run_worker(folder, tmp_path / "resumed")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split("\n")[0] == "train forecaster 30"
    assert ModelPackage.load(tmp_path / "resumed").sha256 == whole.sha256


def test_a_checkpoint_of_other_data_is_refused_and_a_damaged_one_named(fitted: Fitted, tmp_path: Path) -> None:
    config = replace(QUICK, checkpoint=tmp_path, checkpoint_every=20)
    fit(fitted.panel, fitted.split, config)
    other = replace(fitted.panel, values=fitted.panel.values * 2)
    with pytest.raises(InvalidInput, match="comes from other data or another configuration"):
        fit(other, fitted.split, config)
    (tmp_path / "forecaster.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(InvalidInput, match="not a readable checkpoint"):
        fit(fitted.panel, fitted.split, config)


def test_two_processes_train_what_one_would(fitted: Fitted, tmp_path: Path) -> None:
    # Each process draws its own dropout, so only without it can the two be the same.
    config = replace(QUICK, dropout=0.0)
    folder = saved(tmp_path / "work", fitted.panel, config)
    done = run_worker(folder, tmp_path / "both", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train forecaster 40") == 1  # one process reports, not both
    both = ModelPackage.load(tmp_path / "both")
    alone = fit(fitted.panel, fitted.split, config).export(tmp_path / "alone")
    inputs = model_inputs(fitted.panel, origin=800).tensors()
    answers = [run_onnx(session(p.model_path), inputs)["quantiles"] for p in (alone, both)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-3)
    losses = [[h["loss"] for h in p.metrics["training"]["history"]] for p in (alone, both)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


class Shy(Objective):
    """Runs out of memory above a number of windows, as a small GPU would."""

    largest = 64

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.net.training and len(batch.feature) > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(batch)


def test_out_of_memory_halves_the_batch_and_says_so(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clusterheal_models.forecaster.training.Objective", Shy)
    with caplog.at_level(logging.WARNING):
        model = fit(fitted.panel, fitted.split, replace(QUICK, batch_rows=256))
    assert [r.batch_rows for r in caplog.records] == [128, 64]
    assert "going on with half the batch, 64 windows a step" in caplog.text
    assert model.state.batch_rows == 64
    assert model.state.step == QUICK.max_steps


@contextmanager
def no_more_memory_than(more: int) -> Iterator[None]:
    """The process may take `more` bytes beside what it has; further allocations fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    has = 1024 * int(Path("/proc/self/status").read_text().split("VmData:", 1)[1].split(None, 1)[0])
    resource.setrlimit(resource.RLIMIT_DATA, (has + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_a_batch_that_is_too_large_for_the_machine_is_halved(fitted: Fitted, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing stands in here for the lack: the kernel refuses 400 MiB."""
    huge = replace(QUICK, batch_rows=1 << 18, max_steps=3, evaluate_every=3, refit_share=0.0)
    with no_more_memory_than(400 * 2**20), caplog.at_level(logging.WARNING):
        model = fit(fitted.panel, fitted.split, huge)
    assert "out of memory on cpu: going on with half the batch, 131072 windows a step" in caplog.text
    assert 16 <= model.state.batch_rows < huge.batch_rows
    assert model.state.step == 3


def test_another_error_is_no_lack_of_memory(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Objective, batch: Batch) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(fitted.panel, fitted.split, QUICK)


def test_memory_that_is_too_small_for_any_batch_is_an_error(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterheal_models.forecaster.training.Objective", Shy)
    monkeypatch.setattr(Shy, "largest", 1)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fit(fitted.panel, fitted.split, QUICK)


def test_training_stops_early_when_later_time_gets_no_better(fitted: Fitted) -> None:
    """White noise has nothing to learn: soon the network only remembers what it saw, and later time tells."""
    noise = panel_of(np.random.default_rng(3).normal(size=(3, 300, 3)))
    config = replace(SMALL, dropout=0.0, weight_decay=0.0, max_steps=2000, evaluate_every=10, patience=3)
    state = fit(noise, TimeSplit.by_fraction(noise.timestamps), config).state
    losses = dict(state.history)
    assert state.step < config.max_steps
    assert state.step == state.best_step + config.patience * config.evaluate_every
    assert state.best_loss == losses[state.best_step] == min(losses.values())
    assert losses[state.step] > state.best_loss


def test_a_training_that_was_interrupted_in_its_refit_goes_on_to_the_same_bytes(fitted: Fitted, tmp_path: Path) -> None:
    config = replace(QUICK, refit_share=1.0, checkpoint=tmp_path / "checkpoint", checkpoint_every=20)

    def interrupted(report: Progress) -> None:
        if report.phase == "refit forecaster":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(fitted.panel, fitted.split, config, progress=interrupted)
    resumed = fit(fitted.panel, fitted.split, config).export(tmp_path / "resumed")
    whole = fit(fitted.panel, fitted.split, replace(config, checkpoint=None)).export(tmp_path / "whole")
    assert resumed.sha256 == whole.sha256


def test_mixed_precision_and_compiling_are_left_to_cuda(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype, bool]] = []
    forward = Objective.forward

    def watched(self: Objective, batch: Batch) -> torch.Tensor:
        result = forward(self, batch)
        seen.append((torch.is_autocast_enabled("cpu"), result.dtype, self._compiled_call_impl is not None))
        return result

    monkeypatch.setattr(Objective, "forward", watched)
    fit(fitted.panel, fitted.split, replace(QUICK, max_steps=2, evaluate_every=1))
    assert set(seen) == {(False, torch.float32, False)}
    assert not can_compile(CPU)


def test_progress_tells_loss_throughput_and_time_left(fitted: Fitted) -> None:
    seen: list[Progress] = []
    fit(fitted.panel, fitted.split, replace(QUICK, refit_share=0.5), progress=seen.append)
    training = [p for p in seen if p.phase == "train forecaster"]
    assert [(p.done, p.total) for p in training] == [(10, 40), (20, 40), (30, 40), (40, 40)]
    assert {p.phase for p in seen} == {"train forecaster", "refit forecaster"}
    for report in seen:
        assert 0 < (report.loss or 0) < 10
        assert (report.samples_per_second or 0) > 0
        assert report.seconds_left is not None
        assert report.seconds_left >= 0
    assert training[-1].seconds_left == 0


def test_streamed_windows_are_those_of_memory(fitted: Fitted, tmp_path: Path) -> None:
    np.save(tmp_path / "values.npy", fitted.panel.values)
    mapped = replace(fitted.panel, values=np.load(tmp_path / "values.npy", mmap_mode="r"))
    sources = [
        WindowSource(fitted.panel, train_end=600, device=CPU, resident=True),
        WindowSource(mapped, train_end=600, device=CPU, resident=False),
    ]
    for origin in (0, 5, 300, 899):
        series = torch.arange(len(sources[0]))
        cut = [s.batch(series, torch.full_like(series, origin)) for s in sources]
        for field in fields(Batch):
            torch.testing.assert_close(*(getattr(b, field.name) for b in cut), rtol=0, atol=0, equal_nan=True)


def test_data_that_does_not_fit_is_streamed_to_the_same_model(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(fitted.panel, fitted.split, QUICK).export(tmp_path / "whole")
    monkeypatch.setattr("clusterheal_models.compute.free_bytes", lambda device: 1000)
    with caplog.at_level(logging.INFO):
        streamed = fit(fitted.panel, fitted.split, QUICK).export(tmp_path / "streamed")
    assert "windows are streamed" in caplog.text
    assert streamed.sha256 == whole.sha256


def test_a_step_runs_wholly_on_the_device_that_was_asked_for(fitted: Fitted) -> None:
    """Tensors on `meta` have no values but refuse to be mixed with others, so a device wired in anywhere fails here."""
    panel = fitted.panel
    source = WindowSource(panel, train_end=600, device=CPU)
    for name, value in vars(source).items():
        if isinstance(value, torch.Tensor):
            setattr(source, name, value.to("meta"))
    net = ForecastNet(QUICK, WINDOW, panel.contract.step_ns, feature_tables(panel), weekly=True).to("meta")
    rows = torch.zeros(32, dtype=torch.int64, device="meta")
    batch = hide_parts(source.batch(rows, rows + 100), torch.rand(32, 4, device="meta"), 0.15)
    assert {getattr(batch, f.name).device.type for f in fields(Batch)} == {"meta"}
    losses = Objective(net)(batch)
    losses.sum().backward()
    assert losses.device.type == "meta"
    assert {p.grad.device.type for p in net.parameters() if p.grad is not None} == {"meta"}


@pytest.mark.gpu
def test_a_gpu_trains_as_well_as_a_cpu(fitted: Fitted) -> None:
    models = [fit(fitted.panel, fitted.split, replace(SMALL, device=d)) for d in ("cpu", "cuda")]
    losses = [m.state.best_loss for m in models]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="torch sees no CUDA device"):
        resolve_device("cuda")


def test_the_batch_grows_with_the_data_and_so_does_the_cost() -> None:
    rows = [batch_rows(ForecasterConfig(), n) for n in (1_000_000, 10_000_000, 100_000_000, 4_000_000_000)]
    assert rows == [256, 1280, 12_800, 65_536]


def test_with_many_series_validation_looks_at_all_kinds_of_them() -> None:
    values = np.repeat(planted(n_entities=5), 40, axis=0)[:, :200]
    source = WindowSource(panel_of(values), train_end=150, device=CPU)
    series, origin = source.grid(150, 200, windows=50)
    assert len(series) == 200
    assert series.min() == 0
    assert series.max() == len(source) - 1
    assert (origin + 1 >= 150).all()
    assert (origin + WINDOW.horizon_steps < 200).all()


def test_the_loss_compiles_as_one_graph(fitted: Fitted) -> None:
    """What `torch.compile` fuses on CUDA; every break would be a return to Python in each step."""
    panel = fitted.panel
    source = WindowSource(panel, train_end=600, device=CPU)
    net = ForecastNet(QUICK, WINDOW, panel.contract.step_ns, feature_tables(panel), weekly=True)
    rows = torch.zeros(32, dtype=torch.int64)
    found = torch._dynamo.explain(Objective(net))(source.batch(rows, rows + 100))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.gpu
def test_a_compiled_loss_is_the_same_loss(fitted: Fitted) -> None:
    panel = fitted.panel
    device = torch.device("cuda", 0)
    losses = []
    for compiled in ("off", "on"):
        torch.manual_seed(3)
        net = ForecastNet(QUICK, WINDOW, panel.contract.step_ns, feature_tables(panel), weekly=False).to(device)
        source = WindowSource(panel, train_end=600, device=device)
        config = replace(QUICK, dropout=0.0, compiled=compiled)
        span = TrainSpan(first=24, end=600, later_end=700)
        trainer = Trainer(net.eval(), source, span, config, world=World(device=device))
        losses.append(trainer._losses(trainer._draw(0, 600)))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
