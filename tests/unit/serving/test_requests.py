"""Tensors survive the way through JSON, and bad ones are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clusterheal.contracts.requests import (
    datatype_of,
    decode_tensor,
    encode_tensor,
    golden_tensors,
    sample_request,
    tensor_from_bytes,
    tensor_to_bytes,
)
from clusterheal.errors import InvalidInput

ARRAYS = pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, np.nan], [-0.0, 3e38]], np.float32),
        np.array([1, -(2**62)], np.int64),
        np.array([True, False]),
        np.array(["workload/shop/cart", "ü"], dtype=object),
        np.empty((0, 3), np.float32),
    ],
)


@ARRAYS
def test_a_tensor_survives_json(array: np.ndarray) -> None:
    back = decode_tensor(json.loads(json.dumps(encode_tensor(array), allow_nan=False)))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_missing_samples_are_null_and_infinities_are_refused() -> None:
    assert encode_tensor(np.array([np.nan, 1], np.float32))["data"] == [None, 1.0]
    with pytest.raises(InvalidInput, match="infinite"):
        encode_tensor(np.array([np.inf], np.float32))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [2], "datatype": "FP32", "data": [1]}, "needs 2 values, got 1"),
        ({"shape": [1], "datatype": "FP16", "data": [1]}, "FP16"),
        ({"shape": [-1], "datatype": "FP32", "data": []}, "counts"),
        ({"shape": [1], "datatype": "FP32", "data": ["x"]}, "not FP32"),
        ({"shape": [1], "datatype": "INT64", "data": [None]}, "not INT64"),
        ({"shape": [1], "datatype": "INT64", "data": [1.5]}, "not INT64"),
        ({"shape": [1], "datatype": "INT64", "data": [2**63]}, "not INT64"),
        ({"shape": [1], "datatype": "INT64"}, "expected shape, datatype and data"),
        ({"shape": [1], "datatype": "INT64", "data": 4}, "as a list"),
    ],
)
def test_a_malformed_tensor_is_named(entry: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_tensor(entry, name="recent")


def test_a_sample_request_gives_its_tensors_back() -> None:
    inputs = {"recent": np.array([[[1.0], [np.nan]]], np.float32), "timestamp": np.array([5], np.int64)}
    outputs = {"score": np.array([0.25], np.float32)}
    again_in, again_out = golden_tensors(json.loads(json.dumps(sample_request(inputs, outputs))))
    np.testing.assert_array_equal(again_in["recent"], inputs["recent"])
    np.testing.assert_array_equal(again_out["score"], outputs["score"])
    with pytest.raises(InvalidInput, match="outputs"):
        golden_tensors({"inputs": {"x": encode_tensor(inputs["recent"])}, "outputs": {}})


@ARRAYS
def test_a_tensor_survives_its_raw_form(array: np.ndarray) -> None:
    back = tensor_from_bytes(tensor_to_bytes(array), shape=array.shape, datatype=datatype_of(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("raw", "shape", "datatype", "message"),
    [
        (b"1234567", [2], "FP32", "needs 8 bytes, got 7"),
        (b"\xff\xff\xff\xffabc", [1], "BYTES", "past the end"),
        (b"\x01\x00", [1], "BYTES", "length-prefixed"),
        (b"\x01\x00\x00\x00\xff", [1], "BYTES", "length-prefixed"),
        (b"", [1], "BYTES", "expected 1 strings"),
        (b"", [0], "FP8", "FP8"),
        (b"", [-1], "FP32", "counts"),
    ],
)
def test_raw_bytes_that_do_not_fit_are_named(raw: bytes, shape: list[int], datatype: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensor_from_bytes(raw, shape=shape, datatype=datatype)
