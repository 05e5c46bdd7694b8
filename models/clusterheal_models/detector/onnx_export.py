"""The detector's graph as ONNX, with a free batch dimension."""

from __future__ import annotations

from pathlib import Path

import torch

from clusterheal.contracts import FeatureContract
from clusterheal_models.detector.graph import INPUT_NAMES, OUTPUT_NAMES, DetectorGraph

OPSET = 18


def export_onnx(graph: DetectorGraph, contract: FeatureContract, path: Path) -> None:
    """Write `path`; the same graph gives the same bytes."""
    import onnx

    spec, n_features = contract.window, len(contract.features)
    arguments = (
        torch.zeros(2, spec.recent_steps, n_features),
        torch.zeros(2, len(spec.season_lags), spec.seasonal_steps, n_features),
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
    )
    batch = torch.export.Dim("batch", min=1, max=65_536)
    program = torch.onnx.export(
        graph.eval(),
        arguments,
        input_names=list(INPUT_NAMES),
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes={name: {0: batch} for name in INPUT_NAMES},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
