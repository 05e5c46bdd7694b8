"""The forecast benchmark reads recorded tasks and writes what score.py reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clusterheal_models.bench import forecast_peers
from clusterheal_models.bench.forecast import load_tasks, run, summary
from clusterheal_models.bench.forecast_peers import PEERS
from clusterheal_models.forecaster import LEVELS

from clusterheal.cli import build_app
from clusterheal.errors import InvalidInput

from .conftest import SEASON, SMALL

ROWS, TRAIN_ROWS, HORIZON = 1000, 800, 12
ORIGINS = np.arange(TRAIN_ROWS, ROWS - HORIZON, 30)
TINY = replace(SMALL, max_steps=80, evaluate_every=40)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder like the recorded telemetry: one task of three seasonal series."""
    folder = tmp_path / "data" / "forecast"
    (folder / "snaive").mkdir(parents=True)
    rng = np.random.default_rng(0)
    t = np.arange(ROWS)
    columns = {
        f"s{i}": 10 * (i + 1) + np.sin(2 * np.pi * t / SEASON + i) + 0.1 * rng.normal(size=ROWS) for i in range(3)
    }
    pd.DataFrame({"t": t * 1800, **columns}).to_parquet(folder / "toy.parquet")
    values = np.stack(list(columns.values()))
    y = np.stack([values[:, o : o + HORIZON] for o in ORIGINS], axis=1)
    naive = np.stack([values[:, o - SEASON : o - SEASON + HORIZON] for o in ORIGINS], axis=1)
    scale = np.abs(values[:, SEASON:TRAIN_ROWS] - values[:, : TRAIN_ROWS - SEASON]).mean(1)
    np.savez(folder / "toy.true.npz", y=y, scale=scale, names=list(columns), origins=ORIGINS)
    np.savez(folder / "snaive" / "toy.npz", q=naive[..., None] + np.linspace(-0.2, 0.2, 9), levels=LEVELS)
    entry = {"file": "toy.parquet", "horizon": HORIZON, "interval_s": 1800, "season": SEASON, "train_rows": TRAIN_ROWS}
    (folder / "tasks.json").write_text(json.dumps({"toy": entry}))
    return tmp_path / "data"


def test_it_writes_ordered_quantiles_of_every_origin_and_scores_them(recorded: Path, tmp_path: Path) -> None:
    scores = run(recorded, tmp_path / "out", config=TINY, say=lambda line: None)
    saved = np.load(tmp_path / "out" / "toy.npz")
    assert saved["q"].shape == (3, len(ORIGINS), HORIZON, 9)
    assert (np.diff(saved["q"], axis=-1) >= 0).all()
    np.testing.assert_allclose(saved["levels"], LEVELS)
    assert scores[0].rel_scrps < 1.0
    assert "clusterheal" in summary(scores)


def test_every_peer_answers_in_the_same_form(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_peers, "TREE_WINDOWS", 2000)
    monkeypatch.setattr(forecast_peers, "TREES", 10)
    (task,) = load_tasks(recorded)
    for name in ("last value", "seasonal naive", "ridge", "LightGBM"):
        quantiles = PEERS[name](task)
        assert quantiles.shape == (3, len(ORIGINS), HORIZON, 9), name
        assert np.isfinite(quantiles).all(), name
        assert (np.diff(quantiles, axis=-1) >= 0).all(), name


def test_a_wrong_folder_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"tasks\.json does not exist"):
        load_tasks(Path("/nowhere"))


def test_the_command_explains_itself() -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(build_app(), ["bench", "forecast", "--help"])
    assert result.exit_code == 0
    assert "--peers" in result.output
    assert "clusterheal bench forecast --data" in " ".join(result.output.split())


@pytest.mark.shared_data
def test_the_scorer_of_the_recorded_telemetry_agrees_with_ours(
    shared_dir: Path, recorded: Path, tmp_path: Path
) -> None:
    scores = run(recorded, tmp_path / "out", config=TINY, say=lambda line: None)
    truth = recorded / "forecast"
    command = [sys.executable, str(shared_dir / "data" / "score.py"), "forecast", str(tmp_path / "out"), str(truth)]
    command += ["--baseline", str(truth / "snaive"), "--json", str(tmp_path / "scored.json")]
    subprocess.run(command, check=True, capture_output=True)
    table = json.loads((tmp_path / "scored.json").read_text())["table"]["toy"]
    ours = scores[0]
    for name, value in {"rel_sCRPS": ours.rel_scrps, "rel_MASE": ours.rel_mase, "cover80": ours.coverage80}.items():
        assert table[name] == pytest.approx(value, rel=1e-3), name
