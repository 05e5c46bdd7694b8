"""What a model graph may be: checked before a runtime sees it, so that a hostile package is refused by name.

`ModelPackage.load` has verified sizes and hashes; this looks inside `model.onnx` without running anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clusterheal.contracts import DETECTOR, FORECASTER, ModelPackage
from clusterheal.errors import PackageInvalid

MAX_MODEL_BYTES = 64 * 1024 * 1024  # ours have under a million parameters, 4 MB
MIN_OPSET, MAX_OPSET = 13, 23  # what the oldest and newest onnxruntime we serve on agree about
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
GRAPH_INPUTS = {"recent": "FP32", "seasonal": "FP32", "timestamp": "INT64", "entity_index": "INT64", "memory": "FP32"}
"""Inputs that a graph may declare; `entity_index` is -1 for an entity that training did not see. `memory` is what the
output `memory_after` said at the step before, NaN where nothing is remembered; a request may leave it out."""

MOST_MEMORY = 64

MODEL_OUTPUTS = {
    DETECTOR: {
        "score": "FP32",
        "tail_probability": "FP32",
        "confidence": "FP32",
        "alarm": "BOOL",
        "contribution": "FP32",
        "expected_low": "FP32",
        "expected_median": "FP32",
        "expected_high": "FP32",
    },
    FORECASTER: {"quantiles": "FP32", "levels": "FP32"},
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A graph's input or output; `shape` has -1 where the size is dynamic."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """What a checked graph declares, and its bytes: exactly those that were checked."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    content: bytes


def inspect_graph(package: ModelPackage) -> GraphSpec:
    """Check the package's graph.

    Raises:
        PackageInvalid: too large, not ONNX, an opset out of range, custom operators, weights kept outside the
            file, or inputs and outputs other than the wire contract of `package.name`.
    """
    import onnx

    where = str(package.model_path)
    size = package.model_path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise PackageInvalid(f"{where}: {size} bytes, more than the {MAX_MODEL_BYTES} a model may have")
    content = package.model_path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as exc:
        raise PackageInvalid(f"{where}: not an ONNX model: {exc}") from exc
    opset = _require_opset(model, where)
    _require_self_contained(model, where)
    spec = GraphSpec(
        inputs=tuple(_tensor_spec(v, where) for v in model.graph.input),
        outputs=tuple(_tensor_spec(v, where) for v in model.graph.output),
        opset=opset,
        content=content,
    )
    _require_interface(spec, package, where)
    return spec


def _require_opset(model: Any, where: str) -> int:
    versions = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    opset = versions.get("ai.onnx")
    if opset is None or not MIN_OPSET <= opset <= MAX_OPSET:
        raise PackageInvalid(f"{where}: opset {opset}, expected {MIN_OPSET} to {MAX_OPSET}; export the model again")
    return opset


def _require_self_contained(model: Any, where: str) -> None:
    """No weights outside the file, no operators that only somebody's library knows."""
    known = STANDARD_DOMAINS | {f.domain for f in model.functions}
    for node in _nodes(model):
        if node.domain not in known:
            raise PackageInvalid(
                f"{where}: operator {node.domain}::{node.op_type} is not standard ONNX; export without custom operators"
            )
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL or len(tensor.external_data):
            location = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise PackageInvalid(
                f"{where}: tensor {tensor.name!r} is stored outside the package, at {location!r}; "
                "export with all weights inside the file"
            )


def _nodes(model: Any) -> Iterator[Any]:
    stack = [model.graph, *model.functions]
    while stack:
        for node in stack.pop().node:
            yield node
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs


def _tensors(model: Any) -> Iterator[Any]:
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _tensor_spec(value: Any, where: str) -> TensorSpec:
    import onnx

    names = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.INT64: "INT64", onnx.TensorProto.BOOL: "BOOL"}
    tensor = value.type.tensor_type
    datatype = names.get(tensor.elem_type)
    if datatype is None:
        raise PackageInvalid(
            f"{where}: {value.name!r} has element type {tensor.elem_type}, expected float, int64 or bool"
        )
    shape = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorSpec(name=value.name, datatype=datatype, shape=shape)


def _require_interface(spec: GraphSpec, package: ModelPackage, where: str) -> None:
    window, n_features = package.contract.window, len(package.contract.features)
    expected = {
        "recent": (-1, window.recent_steps, n_features),
        "seasonal": (-1, len(window.season_lags), window.seasonal_steps, n_features),
        "timestamp": (-1,),
        "entity_index": (-1,),
        "memory": (-1, -1),
    }
    for tensor in spec.inputs:
        if GRAPH_INPUTS.get(tensor.name) != tensor.datatype:
            raise PackageInvalid(
                f"{where}: input {tensor.name!r} of {tensor.datatype}; expected inputs are {GRAPH_INPUTS}"
            )
        _require_dims(tensor, expected[tensor.name], where)
    if not any(tensor.name == "recent" for tensor in spec.inputs):
        raise PackageInvalid(f"{where}: the graph has no input 'recent'; got {[t.name for t in spec.inputs]}")
    _require_memory(spec, where)
    declared = {tensor.name: tensor.datatype for tensor in spec.outputs}
    wanted = MODEL_OUTPUTS.get(package.name)
    if wanted is None:
        raise PackageInvalid(f"{where}: package name {package.name!r}, expected one of {sorted(MODEL_OUTPUTS)}")
    wrong = {name: kind for name, kind in wanted.items() if declared.get(name) != kind}
    if wrong:
        raise PackageInvalid(f"{where}: {package.name} must answer {wrong}; the graph answers {declared}")


def _require_memory(spec: GraphSpec, where: str) -> None:
    """A graph that takes a memory gives one of the same width, and a bounded one."""
    taken = next((t.shape[1] for t in spec.inputs if t.name == "memory"), None)
    given = next((t.datatype for t in spec.outputs if t.name == "memory_after"), None)
    if (taken is None) != (given is None) or given not in (None, "FP32"):
        raise PackageInvalid(f"{where}: expected input 'memory' and FP32 output 'memory_after', or neither of them")
    if taken is not None and not 1 <= taken <= MOST_MEMORY:
        raise PackageInvalid(f"{where}: memory of {taken} values an entity; expected a fixed 1 to {MOST_MEMORY}")


def _require_dims(tensor: TensorSpec, expected: tuple[int, ...], where: str) -> None:
    fits = len(tensor.shape) == len(expected) and tensor.shape[0] == -1
    if not fits or any(
        want != -1 and have not in (-1, want) for have, want in zip(tensor.shape[1:], expected[1:], strict=True)
    ):
        raise PackageInvalid(
            f"{where}: input {tensor.name!r} has shape {list(tensor.shape)}, the contract gives {list(expected)} "
            "(-1 is the batch, which must be dynamic); the graph was exported for another contract"
        )
