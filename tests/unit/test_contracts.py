from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeaturePanel,
    FeatureSpec,
    ModelPackage,
    TimeSplit,
    WindowSpec,
    entity_key,
    model_inputs,
    seal_package,
    split_entity_key,
)
from clusterheal.contracts.packages import FILES
from clusterheal.errors import ContractMismatch, InvalidInput, PackageInvalid

STEP = timedelta(seconds=60)
WINDOW = WindowSpec(
    recent_steps=4, season_steps=10, season_lags=(1, 2), seasonal_before=1, seasonal_steps=3, horizon_steps=2
)


def contract(**changes: object) -> FeatureContract:
    base = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=(
            FeatureSpec(name="cpu", promql="cpu", unit="ratio", entity_kind="node", low=0, high=1),
            FeatureSpec(name="memory", promql="mem", unit="bytes", entity_kind="node", low=0, scale="log"),
        ),
        step=STEP,
        window=WINDOW,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def panel(n_steps: int) -> FeaturePanel:
    values = np.arange(n_steps, dtype=np.float32)[None, :, None] * np.array([1.0, 100.0], np.float32)
    return FeaturePanel(
        values=np.ascontiguousarray(values),
        timestamps=np.arange(n_steps, dtype=np.int64) * 60_000_000_000,
        entities=("node/a",),
        contract=contract(),
    )


def test_contract_survives_json_with_the_same_hash() -> None:
    again = FeatureContract.from_json(contract().to_json())
    assert again == contract()
    assert again.sha256 == contract().sha256


@pytest.mark.parametrize(
    "changed",
    [
        {"features": contract().features[::-1]},
        {"step": timedelta(seconds=30)},
        {"window": replace(WINDOW, horizon_steps=3)},
        {"features": (replace(contract().features[0], unit="percent"), contract().features[1])},
        {"features": (replace(contract().features[0], promql="cpu * 100"), contract().features[1])},
    ],
)
def test_any_change_of_meaning_changes_the_hash_and_is_refused(changed: dict[str, object]) -> None:
    other = contract(**changed)
    assert other.sha256 != contract().sha256
    with pytest.raises(ContractMismatch, match=r"at the server: expected .{12}, got .{12}"):
        contract().require_same(other.sha256, where="the server")


def test_contract_refuses_duplicate_features_and_unknown_kinds() -> None:
    twice = contract().features[:1] * 2
    with pytest.raises(InvalidInput, match="unique"):
        contract(features=twice)
    with pytest.raises(InvalidInput, match="entity kind 'pod'"):
        contract(features=(replace(contract().features[0], entity_kind="pod"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "JSON object"),
        ("{", "not JSON"),
        ('{"schema_version": 99}', "schema_version"),
        ('{"schema_version": 1}', "malformed"),
    ],
)
def test_malformed_contract_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        FeatureContract.from_json(text)


def test_recent_window_ends_at_the_origin() -> None:
    inputs = model_inputs(panel(30), origin=20)
    assert inputs.recent[0, :, 0].tolist() == [17, 18, 19, 20]
    assert inputs.timestamp[0] == 20 * 60_000_000_000


def test_seasonal_blocks_start_before_the_same_time_one_season_earlier() -> None:
    inputs = model_inputs(panel(30), origin=25)
    assert inputs.seasonal.shape == (1, 2, 3, 2)
    assert inputs.seasonal[0, 0, :, 0].tolist() == [15, 16, 17]  # first forecast step is 26, one season earlier 16
    assert inputs.seasonal[0, 1, :, 0].tolist() == [5, 6, 7]


def test_history_the_panel_lacks_is_nan_not_an_error() -> None:
    inputs = model_inputs(panel(3))
    assert np.isnan(inputs.recent[0, 0, 0])
    assert inputs.recent[0, 1:, 0].tolist() == [0, 1, 2]
    assert np.isnan(inputs.seasonal).all()


@given(origin=st.integers(0, 59), later=st.floats(-1e6, 1e6))
def test_no_input_depends_on_what_comes_after_the_origin(origin: int, later: float) -> None:
    before = panel(60)
    values = before.values.copy()
    values[:, origin + 1 :] = later
    after = replace(before, values=values)
    ours, theirs = model_inputs(before, origin=origin), model_inputs(after, origin=origin)
    np.testing.assert_array_equal(ours.recent, theirs.recent)
    np.testing.assert_array_equal(ours.seasonal, theirs.seasonal)


@given(values=st.lists(st.text(min_size=1), min_size=2, max_size=2))
def test_entity_keys_can_be_split_whatever_the_labels_hold(values: list[str]) -> None:
    kind = EntityKind(name="workload", labels=("namespace", "workload"))
    key = entity_key(kind, dict(zip(kind.labels, values, strict=True)))
    assert split_entity_key(key) == ("workload", tuple(values))


def test_entity_key_names_the_missing_label() -> None:
    with pytest.raises(InvalidInput, match="node"):
        entity_key(EntityKind(name="node", labels=("node",)), {"instance": "x"})


def test_panel_refuses_an_uneven_grid_and_wrong_shapes() -> None:
    good = panel(5)
    bent = good.timestamps.copy()
    bent[3] += 1
    with pytest.raises(InvalidInput, match="even step"):
        replace(good, timestamps=bent)
    with pytest.raises(InvalidInput, match="float32"):
        replace(good, values=good.values.astype(np.float64))


def test_time_split_keeps_order_and_refuses_empty_parts() -> None:
    stamps = panel(100).timestamps
    split = TimeSplit.by_fraction(stamps)
    assert stamps[0] < split.train_end_ns < split.calibration_end_ns < stamps[-1]
    with pytest.raises(InvalidInput, match="cannot split"):
        TimeSplit.by_fraction(stamps, train=0.9, calibration=0.1)


def sealed(path: Path) -> ModelPackage:
    path.mkdir()
    for name in FILES:
        (path / name).write_text("{}")
    return seal_package(path, name="anomaly-detector", contract=contract())


def test_sealed_package_loads_back(tmp_path: Path) -> None:
    package = sealed(tmp_path / "p")
    assert package.contract == contract()
    assert ModelPackage.load(package.path).sha256 == package.sha256


@pytest.mark.parametrize("name", FILES)
def test_altered_package_is_refused_by_the_file_s_name(tmp_path: Path, name: str) -> None:
    package = sealed(tmp_path / "p")
    (package.path / name).write_text('{"x": 1}')
    with pytest.raises(PackageInvalid, match=name):
        ModelPackage.load(package.path)


def test_contract_changed_together_with_its_hash_is_refused(tmp_path: Path) -> None:
    package = sealed(tmp_path / "p")
    altered = contract(step=timedelta(seconds=30))
    text = altered.to_json()
    (package.path / "contract.json").write_text(text)
    manifest = json.loads((package.path / "manifest.json").read_text())
    import hashlib

    manifest["files"]["contract.json"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    (package.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractMismatch, match="sealed with"):
        ModelPackage.load(package.path)


def test_symlink_in_a_package_is_refused(tmp_path: Path) -> None:
    package = sealed(tmp_path / "p")
    target = tmp_path / "elsewhere"
    (package.path / "model.onnx").rename(target)
    (package.path / "model.onnx").symlink_to(target)
    with pytest.raises(PackageInvalid, match="regular file"):
        ModelPackage.load(package.path)
