"""From a torch module to a sealed model package: ONNX graph, proof that it equals torch, files, manifest.

The TorchScript exporter is used on purpose: it takes half a second where the newer one takes five, and its output
carries no source paths, so equal models give equal bytes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from clusterheal.contracts import FeatureContract, ModelPackage, seal_package
from clusterheal.contracts.requests import Tensor as Array
from clusterheal.contracts.requests import sample_request
from clusterheal.errors import PackageInvalid

OPSET = 18
TOLERANCE = 1e-4
FLOOR = 1e-2
"""An element far below the largest has what rounding leaves of the sums that it came from. 1e-3 times the tolerance
would be less than float32's precision (1.2e-7) of the largest, and refuse graphs that differ in a sum's order."""
TINY = 1e-12

Floor = Callable[[Array], Array]
"""From an output to magnitudes that broadcast to it: what an element below them is compared with instead of itself."""


def export_onnx(
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    path: Path,
    *,
    output_names: Sequence[str],
    static_outputs: Sequence[str] = (),
    opset: int = OPSET,
) -> None:
    """Write `module` as ONNX with a dynamic first axis `batch` on every input and output.

    `example` holds the inputs by name, in the order of the module's arguments, with a batch of at least two rows.
    `static_outputs` have no batch axis.

    Raises:
        PackageInvalid: the exporter dropped an input because the module does not use it.
    """
    module = module.eval()
    batched = [*example, *(name for name in output_names if name not in static_outputs)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's age and traced branches; `check_parity` judges the result
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch"} for name in batched},
            opset_version=opset,
            do_constant_folding=False,  # onnxruntime folds; the exporter loses outputs that are constants
            dynamo=False,
        )
    model = onnx.load(str(path), load_external_data=False)
    kept = [i.name for i in model.graph.input]
    if kept != list(example):
        raise PackageInvalid(f"{path}: the graph takes {kept}, expected {list(example)}; use every input in the module")
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    model.producer_version = ""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def session(path: Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 1) -> Any:
    """An onnxruntime session of a graph file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=list(providers))


def run_onnx(sess: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name for `inputs`, of which only those that the graph knows are passed on."""
    names = {i.name for i in sess.get_inputs()}
    outputs = sess.run(None, {k: v for k, v in inputs.items() if k in names})
    return {o.name: np.asarray(v) for o, v in zip(sess.get_outputs(), outputs, strict=True)}


def check_parity(
    module: torch.nn.Module,
    path: Path,
    example: Mapping[str, torch.Tensor],
    *,
    output_names: Sequence[str],
    floors: Mapping[str, Floor] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Array]:
    """Run torch and onnxruntime on `example` and, since the batch is dynamic, on its first row alone.

    Returns what onnxruntime answered to `example`.

    A difference counts relative to its element, but to no less than what `floors` has for the output, and NaN must be
    where NaN is.

    Raises:
        PackageInvalid: an output differs by more than `tolerance`, naming it and the difference.
    """
    runtime = session(path)
    first = {name: tensor[:1] for name, tensor in example.items()}
    floor_of = {name: (floors or {}).get(name, share_of_largest) for name in output_names}
    _require_equal(module, runtime, first, floor_of, tolerance, path)
    return _require_equal(module, runtime, example, floor_of, tolerance, path)


def _require_equal(
    module: torch.nn.Module,
    runtime: Any,
    inputs: Mapping[str, torch.Tensor],
    floor_of: Mapping[str, Floor],
    tolerance: float,
    path: Path,
) -> dict[str, Array]:
    with torch.no_grad():
        result = module.eval()(*inputs.values())
    expected = [result] if isinstance(result, torch.Tensor) else list(result)
    got = run_onnx(runtime, {k: v.numpy() for k, v in inputs.items()})
    for (name, floor), tensor in zip(floor_of.items(), expected, strict=True):
        want = np.asarray(tensor.numpy(), np.float64)
        difference = relative_difference(want, np.asarray(got[name], np.float64), floor(want))
        if difference > tolerance:
            raise PackageInvalid(
                f"{path}: output {name!r} of the ONNX graph differs from torch by {difference:.2e}, "
                f"expected at most {tolerance:.0e}; the exporter changed the model"
            )
    return got


def relative_difference(want: Array, have: Array, floor: Array) -> float:
    """Largest difference relative to each element or to `floor`, whichever is larger; inf where NaN differ."""
    if want.shape != have.shape or not np.array_equal(np.isfinite(want), np.isfinite(have)):
        return float("inf")
    finite = np.isfinite(want)
    if not finite.any():
        return 0.0
    a, b = want[finite], have[finite]
    size = np.maximum(np.abs(a), np.maximum(np.broadcast_to(floor, want.shape)[finite], TINY))
    return float((np.abs(a - b) / size).max())


def share_of_largest(output: Array) -> Array:
    """`FLOOR` of the output's largest magnitude."""
    finite = output[np.isfinite(output)]
    return np.asarray(FLOOR * np.abs(finite).max(initial=0.0))


def write_package(
    directory: Path,
    *,
    name: str,
    contract: FeatureContract,
    calibration: Mapping[str, Any],
    metrics: Mapping[str, Any],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    card: str,
) -> ModelPackage:
    """Write every file beside an already exported `directory/model.onnx` and seal the package.

    `inputs` and `outputs` become the golden request that a rollout sends.
    """
    _write_json(directory / "calibration.json", calibration)
    _write_json(directory / "metrics.json", metrics)
    _write_json(directory / "sample_request.json", sample_request(inputs, outputs))
    (directory / "MODEL_CARD.md").write_text(card)
    return seal_package(directory, name=name, contract=contract)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
