"""The frozen training set: what comes back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusterheal_components.snapshot import freeze, thaw

from clusterheal.contracts import FeatureContract, FeaturePanel
from clusterheal.errors import DataQualityError, InvalidInput
from tests.components.conftest import make_panel


def test_a_panel_comes_back_as_it_was_frozen(frozen: Path, panel: FeaturePanel) -> None:
    back = thaw(frozen)
    np.testing.assert_array_equal(back.panel.values, panel.values)
    np.testing.assert_array_equal(back.panel.timestamps, panel.timestamps)
    assert back.panel.entities == panel.entities
    assert back.panel.contract == panel.contract
    assert back.split.train_end_ns == panel.timestamps[int(0.7 * len(panel.timestamps))]


def test_the_hash_follows_values_and_split(tmp_path: Path, panel: FeaturePanel, contract: FeatureContract) -> None:
    same = [freeze(panel, tmp_path / f"same-{i}", train=0.7, calibration=0.15).sha256 for i in range(2)]
    other_split = freeze(panel, tmp_path / "split", train=0.6, calibration=0.15).sha256
    other_values = freeze(make_panel(contract, days=6, seed=1), tmp_path / "values", train=0.7, calibration=0.15).sha256
    assert same[0] == same[1]
    assert len({same[0], other_split, other_values}) == 3


def test_writing_into_a_thawed_panel_leaves_the_file_alone(tmp_path: Path, panel: FeaturePanel) -> None:
    freeze(panel, tmp_path, train=0.7, calibration=0.15)
    thaw(tmp_path).panel.values[0, 0, 0] = 99.0
    assert thaw(tmp_path).panel.values[0, 0, 0] == panel.values[0, 0, 0]


def test_changed_values_are_noticed(tmp_path: Path, panel: FeaturePanel) -> None:
    freeze(panel, tmp_path, train=0.7, calibration=0.15)
    np.save(tmp_path / "panel.npy", panel.values + 1)
    with pytest.raises(InvalidInput, match="changed after it was frozen"):
        thaw(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", json.dumps({"entities": []})])
def test_what_is_no_snapshot_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "snapshot.json").write_text(content)
    with pytest.raises(InvalidInput, match="no training snapshot"):
        thaw(tmp_path)


def test_a_short_history_is_told_how_much_is_needed(tmp_path: Path, panel: FeaturePanel) -> None:
    short = panel.between(None, int(panel.timestamps[300]))
    with pytest.raises(DataQualityError, match=r"covers 300 steps .* collect 1\d\d\d steps or more"):
        freeze(short, tmp_path, train=0.7, calibration=0.15)


@pytest.mark.parametrize(("train", "calibration"), [(0.9, 0.1), (0.95, 0.2), (1.2, 0.1)])
def test_shares_that_leave_nothing_to_judge_on_are_refused(
    tmp_path: Path, panel: FeaturePanel, train: float, calibration: float
) -> None:
    with pytest.raises(DataQualityError, match="too short to train"):
        freeze(panel, tmp_path, train=train, calibration=calibration)


def test_an_empty_panel_and_one_without_samples_are_refused(tmp_path: Path, panel: FeaturePanel) -> None:
    nobody = FeaturePanel(values=panel.values[:0], timestamps=panel.timestamps, entities=(), contract=panel.contract)
    with pytest.raises(DataQualityError, match="0 entities"):
        freeze(nobody, tmp_path, train=0.7, calibration=0.15)
    silent = FeaturePanel(
        values=np.full_like(panel.values, np.nan),
        timestamps=panel.timestamps,
        entities=panel.entities,
        contract=panel.contract,
    )
    with pytest.raises(DataQualityError, match="missing"):
        freeze(silent, tmp_path, train=0.7, calibration=0.15)


@pytest.mark.parametrize(
    ("first", "end", "told"), [(0, 0.7, "train"), (0.68, 0.86, "calibrate"), (0.8, 1, "to judge on")]
)
def test_a_part_of_the_split_without_samples_is_refused(
    tmp_path: Path, panel: FeaturePanel, first: float, end: float, told: str
) -> None:
    values, n_steps = panel.values.copy(), len(panel.timestamps)
    values[:, round(first * n_steps) : round(end * n_steps)] = np.nan
    gone = replace(panel, values=values)
    with pytest.raises(DataQualityError, match=f"every value from .* UTC is missing, so there is nothing.*{told}"):
        freeze(gone, tmp_path / "frozen", train=0.7, calibration=0.15)
    assert not (tmp_path / "frozen").exists()
