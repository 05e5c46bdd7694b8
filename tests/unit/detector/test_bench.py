"""`clusterheal bench anomaly`: formats, one fit without labels, causal scores, peers beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusterheal_models.bench.anomaly import detect, read_series, run
from clusterheal_models.bench.anomaly_peers import PEERS, peer_scores
from clusterheal_models.detector import DetectorConfig

from clusterheal.errors import InvalidInput

from .conftest import correlated_noise

N_TRAIN, N_TEST, INTERVAL = 900, 600, 300
SMALL = DetectorConfig(max_windows=1500, prototypes=20)


def recorded(path: Path, *, seed: int = 0, label: int = 0, tail: float = 0.0) -> npt.NDArray[np.float32]:
    """Write a series with a fault at test rows 300..329; `tail` is added to the last 100 rows."""
    rng = np.random.default_rng(seed)
    n = N_TRAIN + N_TEST
    season = np.sin(2 * np.pi * np.arange(n) / 288)
    values = np.stack([0.5 + 0.1 * season + 0.02 * correlated_noise(n, rng) for _ in range(3)], 1).astype(np.float32)
    values[N_TRAIN + 300 : N_TRAIN + 330, 1] += 0.6
    values[-100:] += tail
    columns = {
        "t": np.arange(n, dtype=np.int64) * INTERVAL,
        "split": (np.arange(n) >= N_TRAIN).astype(np.int8),
        "label": np.full(n, label, np.int8),
        **{f"m{j:02d}": values[:, j] for j in range(3)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return values


def test_scores_alarms_and_contributions_are_written_as_they_are_read(tmp_path: Path) -> None:
    recorded(tmp_path / "data" / "anomaly" / "X__one.parquet")
    said: list[str] = []
    assert run(tmp_path / "data", tmp_path / "out", peers=True, say=said.append) == ""
    scores = np.load(tmp_path / "out" / "X__one.npy")
    contributions = np.load(tmp_path / "out" / "contributions" / "X__one.npy")
    assert scores.shape == (N_TEST, 2)
    assert contributions.shape == (N_TEST, 3)
    assert set(np.unique(scores[:, 1])) <= {0.0, 1.0}
    assert scores[300:330, 0].min() > np.quantile(scores[:300, 0], 0.99)
    assert scores[300:330, 1].any()
    assert contributions[300:330].mean(0).argmax() == 1
    assert {p.name for p in (tmp_path / "out" / "peers").iterdir()} == set(PEERS)
    assert any("1/1" in line for line in said)
    assert any("score.py" in line for line in said)


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    results = []
    for label in (0, 1):
        path = tmp_path / f"{label}" / "one.parquet"
        recorded(path, label=label)
        results.append(detect(read_series(path), SMALL))
    np.testing.assert_array_equal(results[0].score, results[1].score)


def test_later_rows_do_not_change_a_score(tmp_path: Path) -> None:
    results = []
    for tail in (0.0, 3.0):
        path = tmp_path / f"{tail}" / "one.parquet"
        recorded(path, tail=tail)
        results.append(detect(read_series(path), SMALL))
    np.testing.assert_array_equal(results[0].score[:-100], results[1].score[:-100])
    np.testing.assert_array_equal(results[0].contribution[:-100], results[1].contribution[:-100])


@pytest.mark.parametrize("name", sorted(PEERS))
def test_peers_score_a_fault_higher_than_normal_rows(tmp_path: Path, name: str) -> None:
    values = recorded(tmp_path / "one.parquet").astype(np.float64)
    scores = peer_scores(values, N_TRAIN, 288)[name]
    assert scores.shape == (N_TEST,)
    assert np.isfinite(scores).all()
    assert scores[300:330].max() > np.quantile(scores[:300], 0.95)


def test_a_folder_without_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="found none"):
        run(tmp_path, tmp_path / "out")


def test_a_file_that_is_no_series_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "one.parquet"
    broken.write_bytes(b"not parquet")
    with pytest.raises(InvalidInput, match="Parquet"):
        read_series(broken)


@pytest.mark.shared_data
def test_a_recorded_series_is_judged(shared_dir: Path, tmp_path: Path) -> None:
    table = run(shared_dir / "data", tmp_path, only=("MSC__outbound-01",), say=lambda _line: None)
    assert "VUS-PR" in table
    assert "own alarm" in table
