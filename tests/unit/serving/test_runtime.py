"""From named tensors to named tensors, and 400s for what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterheal_models.serving.runtime import MAX_BATCH, Runtime, load_runtime, version_of
from clusterheal_models.serving.toy import toy_detector, toy_inputs

from clusterheal.contracts import FeatureContract, ModelPackage
from clusterheal.contracts.requests import golden_tensors
from clusterheal.errors import InvalidInput


@pytest.fixture(scope="session")
def runtime(detector: ModelPackage) -> Runtime:
    return load_runtime(detector)


def test_the_sample_request_gives_the_packaged_answer(runtime: Runtime) -> None:
    inputs, outputs = golden_tensors(runtime.package.sample_request)
    answers = runtime.run(inputs)
    for name, expected in outputs.items():
        np.testing.assert_allclose(answers[name], expected, rtol=1e-6)


def test_contributions_add_up_to_the_score(runtime: Runtime, contract: FeatureContract) -> None:
    answers = runtime.run(toy_inputs(contract, batch=5, seed=3))
    np.testing.assert_allclose(answers["contribution"].sum(axis=1), answers["score"], rtol=1e-5)


def test_a_missing_newest_sample_contributes_nothing(runtime: Runtime, contract: FeatureContract) -> None:
    inputs = toy_inputs(contract, batch=1)
    inputs["recent"][0, -1, 1] = np.nan
    answers = runtime.run(inputs)
    assert answers["contribution"][0, 1] == 0
    assert np.isfinite(answers["score"]).all()


def test_entities_are_resolved_by_key_and_unknown_ones_are_minus_one(runtime: Runtime) -> None:
    keys = np.array(["workload/shop/cart", b"workload/shop/cart", "workload/shop/new"], dtype=object)
    assert runtime._entity_index(keys, 3).tolist() == [0, 0, -1]
    assert runtime._entity_index(None, 2).tolist() == [-1, -1]


def test_the_version_is_the_registrys_or_the_packages_hash(
    detector: ModelPackage, contract: FeatureContract, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from clusterheal_models.serving.toy import toy_detector

    assert version_of(detector) == "v000007"
    mounted = toy_detector(tmp_path_factory.mktemp("mnt") / "models", contract)
    assert version_of(mounted) == mounted.sha256[:12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("recent"), "lacks the input 'recent'"),
        (lambda t: t.pop("timestamp"), "lacks the input 'timestamp'"),
        (lambda t: t.update(recent=t["recent"][:, :-1]), r"must be FP32 \[2, 8, 3\], got FP32 \[2, 7, 3\]"),
        (lambda t: t.update(recent=np.nan_to_num(t["recent"]).astype(np.int64)), "must be FP32"),
        (lambda t: t.update(recent=np.float32(1)), "batch of 0 rows"),
        (lambda t: t.update(recent=t["recent"][:0]), "batch of 0 rows"),
        (lambda t: t.update(recent=np.zeros((MAX_BATCH + 1, 8, 3), np.float32)), "split the request"),
        (lambda t: t.update(seasonal=t["seasonal"][:1]), r"'seasonal' must be FP32 \[2, 2, 5, 3\]"),
        (lambda t: t.update(timestamp=t["timestamp"].astype(np.float32)), "'timestamp' must be INT64"),
        (lambda t: t.update(memory=np.zeros((2, 7), np.float32)), r"'memory' must be FP32 \[2, 1\]"),
        (lambda t: (t.pop("entity_index"), t.update(entity=np.array(["a"], object))), r"'entity' must be BYTES \[2\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    runtime: Runtime, contract: FeatureContract, change: Any, message: str
) -> None:
    tensors = toy_inputs(contract, batch=2)
    change(tensors)
    with pytest.raises(InvalidInput, match=message):
        runtime.run(tensors)


def test_a_request_without_memory_is_answered_as_if_nothing_were_remembered(
    runtime: Runtime, contract: FeatureContract
) -> None:
    tensors = toy_inputs(contract, batch=2)
    with_nothing = runtime.run(tensors)
    del tensors["memory"]
    for name, array in runtime.run(tensors).items():
        np.testing.assert_array_equal(array, with_nothing[name])


def test_a_request_without_the_contracts_hash_is_told_where_to_find_it(runtime: Runtime) -> None:
    for absent in (None, "", 7):
        with pytest.raises(InvalidInput, match=r"lacks the parameter contract_sha256.*GET /v2/models/anomaly-detector"):
            runtime.check_contract(absent)


def test_the_end_of_training_time_comes_from_the_package(tmp_path: Path, contract: FeatureContract) -> None:
    package = toy_detector(tmp_path / "v000001", contract)
    assert load_runtime(package).trained_until is None
    detector = replace(package, calibration={**package.calibration, "calibration_end_ns": 1_700_000_000_000_000_000})
    forecaster = replace(package, metrics={"data": {"calibration_end_ns": 1_700_000_000_500_000_000}})
    assert replace(load_runtime(package), package=detector).trained_until == 1_700_000_000.0
    assert replace(load_runtime(package), package=forecaster).trained_until == 1_700_000_000.5
