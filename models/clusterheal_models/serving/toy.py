"""Small packages that need no training: for testing what stands around a model, and for measuring the server alone.

The detector is a z-score over the recent window, the forecaster repeats the last value. Both are honest models of
their kind with the full wire contract, and neither is good enough to roll out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract, ModelPackage, seal_package
from clusterheal.contracts.requests import sample_request

Tensor = npt.NDArray[Any]
OPSET = 18
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
NORMAL_QUANTILES = (-1.645, -1.282, -0.842, -0.385, 0.0, 0.385, 0.842, 1.282, 1.645)


def toy_detector(directory: Path, contract: FeatureContract, *, alarm_score: float = 3.0) -> ModelPackage:
    """A sealed `anomaly-detector` package: per-feature z-score of the newest sample; contributions add up.

    Its memory counts how often it was handed in.
    """
    graph = _Graph(contract, memory=1)
    last, mean, spread = graph.window_statistics()
    distance = graph.op("Abs", graph.op("Div", graph.op("Sub", last, mean), spread))
    known = graph.op("Not", graph.op("IsNaN", distance))
    contribution = graph.output(
        "contribution", graph.op("Where", known, distance, graph.constant(np.float32(0))), "FP32", 2
    )
    score = graph.output("score", graph.reduce("ReduceSum", contribution, axis=1), "FP32", 1)
    tail = graph.output("tail_probability", graph.op("Pow", graph.constant(np.float32(10)), graph.op("Neg", score)))
    graph.output("confidence", graph.op("Sub", graph.constant(np.float32(1)), tail))
    graph.output("alarm", graph.op("Greater", score, graph.constant(np.float32(alarm_score))), "BOOL")
    width = graph.op("Mul", spread, graph.constant(np.float32(1.2816)))
    graph.output("expected_low", graph.op("Sub", mean, width), "FP32", 2)
    graph.output("expected_median", graph.op("Identity", mean), "FP32", 2)
    graph.output("expected_high", graph.op("Add", mean, width), "FP32", 2)
    nothing, one = graph.constant(np.float32(0)), graph.constant(np.float32(1))
    before = graph.op("Where", graph.op("IsNaN", "memory"), nothing, "memory")
    graph.output("memory_after", graph.op("Add", before, one), "FP32", 2)
    return write_package(directory, DETECTOR, contract, graph.build(), entities=["workload/shop/cart"])


def toy_forecaster(directory: Path, contract: FeatureContract, *, shift: float = 0.0) -> ModelPackage:
    """A sealed `predictive-analytics` package: the last value plus `shift`, with the window's spread around it."""
    graph = _Graph(contract)
    last, _, spread = graph.window_statistics()
    offsets = graph.constant(np.array(NORMAL_QUANTILES, np.float32).reshape(1, 1, 1, -1))
    horizon = graph.constant(np.zeros((1, contract.window.horizon_steps, 1, 1), np.float32))
    centre = graph.op("Add", last, graph.constant(np.float32(shift)))
    axes = graph.constant(np.array([1, 3], np.int64))
    band = graph.op("Mul", graph.op("Unsqueeze", spread, axes), offsets)
    path = graph.op("Add", graph.op("Unsqueeze", centre, axes), band)
    graph.output("quantiles", graph.op("Add", path, horizon), "FP32", 4)
    graph.output("levels", graph.op("Identity", graph.constant(np.array(LEVELS, np.float32))), "FP32", 1)
    return write_package(directory, FORECASTER, contract, graph.build())


def write_package(
    directory: Path, name: str, contract: FeatureContract, model: Any, *, entities: Sequence[str] = ()
) -> ModelPackage:
    """Write and seal a package around an ONNX model; the sample request is answered by the model itself."""
    import onnx
    import onnxruntime

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = toy_inputs(contract, batch=2)
    feeds = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    answers = dict(zip(names, session.run(names, feeds), strict=True))
    (directory / "sample_request.json").write_text(json.dumps(sample_request(feeds, answers)))
    (directory / "calibration.json").write_text(json.dumps({"entities": list(entities)}))
    (directory / "metrics.json").write_text("{}")
    (directory / "MODEL_CARD.md").write_text(f"# {name} (toy)\n\nNot trained. For tests and overhead measurements.\n")
    return seal_package(directory, name=name, contract=contract)


def toy_inputs(contract: FeatureContract, *, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Graph inputs with noise and a few gaps."""
    rng = np.random.default_rng(seed)
    window, n_features = contract.window, len(contract.features)
    recent = rng.normal(10, 1, (batch, window.recent_steps, n_features)).astype(np.float32)
    recent[rng.random(recent.shape) < 0.05] = np.nan
    shape = (batch, len(window.season_lags), window.seasonal_steps, n_features)
    return {
        "recent": recent,
        "seasonal": rng.normal(10, 1, shape).astype(np.float32),
        "timestamp": np.full(batch, 1_700_000_000_000_000_000, np.int64),
        "entity_index": np.full(batch, -1, np.int64),
        "memory": np.full((batch, 1), np.nan, np.float32),
    }


class _Graph:
    """Collects nodes under generated names."""

    def __init__(self, contract: FeatureContract, *, memory: int = 0) -> None:
        self.contract = contract
        self.memory = memory
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def reduce(self, kind: str, value: str, *, axis: int) -> str:
        return self.op(kind, value, self.constant(np.array([axis], np.int64)), keepdims=0)

    def output(self, name: str, value: str, datatype: str = "FP32", rank: int = 1) -> str:
        from onnx import TensorProto, helper

        kind = {"FP32": TensorProto.FLOAT, "BOOL": TensorProto.BOOL}[datatype]
        shape = [f"{name}_{axis}" for axis in range(rank)]
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return self.op("Identity", value, name=name)

    def window_statistics(self) -> tuple[str, str, str]:
        """The newest sample, and mean and spread over the recent window's known samples, each `(batch, n_features)`."""
        zero, one = self.constant(np.float32(0)), self.constant(np.float32(1))
        missing = self.op("IsNaN", "recent")
        count = self.op("Max", self.reduce("ReduceSum", self.op("Where", missing, zero, one), axis=1), one)
        mean = self.op("Div", self.reduce("ReduceSum", self.op("Where", missing, zero, "recent"), axis=1), count)
        axis = self.constant(np.array([1], np.int64))
        gap = self.op("Sub", "recent", self.op("Unsqueeze", mean, axis))
        square = self.op("Where", missing, zero, self.op("Mul", gap, gap))
        variance = self.op("Div", self.reduce("ReduceSum", square, axis=1), count)
        spread = self.op("Add", self.op("Sqrt", variance), self.constant(np.float32(1e-6)))
        newest = self.constant(np.array(self.contract.window.recent_steps - 1, np.int64))
        return self.op("Gather", "recent", newest, axis=1), mean, spread

    def build(self) -> Any:
        from onnx import TensorProto, helper

        window, n_features = self.contract.window, len(self.contract.features)
        shapes: dict[str, tuple[int, list[Any]]] = {
            "recent": (TensorProto.FLOAT, ["batch", window.recent_steps, n_features]),
            "seasonal": (
                TensorProto.FLOAT,
                ["batch", len(window.season_lags), window.seasonal_steps, n_features],
            ),
            "timestamp": (TensorProto.INT64, ["batch"]),
            "entity_index": (TensorProto.INT64, ["batch"]),
        }
        if self.memory:
            shapes["memory"] = (TensorProto.FLOAT, ["batch", self.memory])
        inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in shapes.items()]
        graph = helper.make_graph(self.nodes, "toy", inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
