"""A package in onnxruntime: from named tensors to named tensors. Knows nothing of HTTP or KServe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import ModelPackage
from clusterheal.contracts.requests import datatype_of, golden_tensors
from clusterheal.errors import ContractMismatch, InvalidInput, PackageInvalid
from clusterheal_models.package import MODEL_OUTPUTS, GraphSpec, TensorSpec, inspect_graph

Tensor = npt.NDArray[Any]
Device = Literal["auto", "cpu", "cuda"]
MAX_BATCH = 4096  # rows per request; the largest answer, a forecast, is then tens of megabytes a feature
UNKNOWN_ENTITY = -1


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A loaded model that has answered its own sample request once. Make one with `load_runtime`."""

    package: ModelPackage
    graph: GraphSpec
    session: Any
    entity_index: Mapping[str, int]
    """Entities of the training set, by `calibration.json`; empty where the model does not tell them apart."""

    @property
    def name(self) -> str:
        return self.package.name

    @property
    def version(self) -> str:
        return version_of(self.package)

    @property
    def trained_until(self) -> float | None:
        """End of the calibration slice, seconds since the epoch; `None` where a package does not tell (toys)."""
        data = self.package.metrics.get("data") or {}
        ends = self.package.calibration.get("calibration_end_ns", data.get("calibration_end_ns"))
        return None if ends is None else float(ends) / 1e9

    @property
    def wire_inputs(self) -> tuple[TensorSpec, ...]:
        """What a request may carry: the graph's inputs, with entities by key instead of by index."""
        return tuple(
            TensorSpec(name="entity", datatype="BYTES", shape=(-1,)) if spec.name == "entity_index" else spec
            for spec in self.graph.inputs
        )

    def check_contract(self, sha256: object) -> None:
        """Refuse a caller that was built for other features.

        Raises:
            InvalidInput: no hash was sent.
            ContractMismatch: another contract's hash, naming both.
        """
        own = self.package.contract.sha256
        if not isinstance(sha256, str) or not sha256:
            raise InvalidInput(
                f"{self.name}: the request lacks the parameter contract_sha256; expected {own}, "
                f"as GET /v2/models/{self.name} tells"
            )
        if sha256 != own:
            raise ContractMismatch(
                f"feature contract mismatch: {self.name} {self.version} was trained on {own}, the request was built "
                f"for {sha256}; roll out a model for the caller's contract or restart the caller with this one"
            )

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The graph's outputs for a request.

        `tensors`: by wire name; `entity` may be absent (all unknown), and so may `memory` (nothing is remembered).
        Names beyond the graph's inputs are ignored, since one request serves both models.

        Raises:
            InvalidInput: a tensor is missing, or of the wrong type or shape.
        """
        feeds = self._feeds(tensors)
        names = [spec.name for spec in self.graph.outputs]
        return dict(zip(names, self.session.run(names, feeds), strict=True))

    def _feeds(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "recent" not in tensors:
            raise InvalidInput(f"{self.name}: the request lacks the input 'recent'; got {sorted(tensors)}")
        batch = tensors["recent"].shape[0] if tensors["recent"].ndim else 0
        if not 1 <= batch <= MAX_BATCH:
            raise InvalidInput(f"{self.name}: batch of {batch} rows, expected 1 to {MAX_BATCH}; split the request")
        feeds = {}
        for spec in self.graph.inputs:
            if spec.name == "entity_index" and spec.name not in tensors:
                feeds[spec.name] = self._entity_index(tensors.get("entity"), batch)
                continue
            if spec.name == "memory" and spec.name not in tensors:
                feeds[spec.name] = np.full((batch, spec.shape[1]), np.nan, np.float32)
                continue
            if spec.name not in tensors:
                raise InvalidInput(f"{self.name}: the request lacks the input {spec.name!r}; got {sorted(tensors)}")
            feeds[spec.name] = self._checked(spec, tensors[spec.name], batch)
        return feeds

    def _checked(self, spec: TensorSpec, tensor: Tensor, batch: int) -> Tensor:
        expected = (batch, spec.shape[1]) if spec.name == "memory" else self._shape(spec.name, batch)
        if datatype_of(tensor) != spec.datatype or tensor.shape != expected:
            raise InvalidInput(
                f"{self.name}: input {spec.name!r} must be {spec.datatype} {list(expected)}, "
                f"got {datatype_of(tensor)} {list(tensor.shape)}"
            )
        return np.ascontiguousarray(tensor)

    def _shape(self, name: str, batch: int) -> tuple[int, ...]:
        window, n_features = self.package.contract.window, len(self.package.contract.features)
        if name == "recent":
            return (batch, window.recent_steps, n_features)
        if name == "seasonal":
            return (batch, len(window.season_lags), window.seasonal_steps, n_features)
        return (batch,)

    def _entity_index(self, entity: Tensor | None, batch: int) -> Tensor:
        if entity is None:
            return np.full(batch, UNKNOWN_ENTITY, np.int64)
        if datatype_of(entity) != "BYTES" or entity.shape != (batch,):
            raise InvalidInput(
                f"{self.name}: input 'entity' must be BYTES [{batch}], got {datatype_of(entity)} {list(entity.shape)}"
            )
        keys = [k.decode(errors="replace") if isinstance(k, bytes) else str(k) for k in entity.tolist()]
        return np.array([self.entity_index.get(key, UNKNOWN_ENTITY) for key in keys], np.int64)


def version_of(package: ModelPackage) -> str:
    """The registry's version where the directory is named by one (`v000003`), else the start of the package's hash."""
    name = package.path.resolve().name
    return name if re.fullmatch(r"v\d+", name) else package.sha256[:12]


def load_runtime(package: ModelPackage, *, threads: int = 1, device: Device = "auto") -> Runtime:
    """Check the graph, load it, and let it answer the package's own sample request.

    Raises:
        PackageInvalid: the graph is refused, does not load, or cannot answer its sample request in the right shapes.
    """
    graph = inspect_graph(package)
    runtime = Runtime(
        package=package,
        graph=graph,
        session=_session(graph, package, threads=threads, device=device),
        entity_index=_entities(package),
    )
    try:
        inputs, _ = golden_tensors(package.sample_request)
        answers = runtime.run(inputs)
    except Exception as exc:
        raise PackageInvalid(f"{package.path}: the model cannot answer its own sample request: {exc}") from exc
    _require_answers(runtime, answers, batch=inputs["recent"].shape[0])
    return runtime


def _session(graph: GraphSpec, package: ModelPackage, *, threads: int, device: Device) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # by default one per core of the host, not of the container's quota
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    available: Sequence[str] = onnxruntime.get_available_providers()
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise InvalidInput(f"device cuda was asked for, but this onnxruntime has {list(available)}; use cpu or auto")
    if device != "cpu" and "CUDAExecutionProvider" in available:
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(graph.content, options, providers=providers)
    except Exception as exc:
        raise PackageInvalid(f"{package.model_path}: onnxruntime does not load it: {exc}") from exc


def _entities(package: ModelPackage) -> dict[str, int]:
    listed = package.calibration.get("entities", [])
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise PackageInvalid(f"{package.path}/calibration.json: 'entities' must be a list of entity keys")
    return {key: index for index, key in enumerate(listed)}


def _require_answers(runtime: Runtime, answers: Mapping[str, Tensor], *, batch: int) -> None:
    n_features, horizon = len(runtime.package.contract.features), runtime.package.contract.window.horizon_steps
    levels = answers["levels"].shape[-1] if "levels" in answers and answers["levels"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = {"levels": (levels,), "quantiles": (batch, horizon, n_features, levels)}
    for name in ("contribution", "expected_low", "expected_median", "expected_high"):
        shapes[name] = (batch, n_features)
    memory = next((spec.shape[1] for spec in runtime.graph.inputs if spec.name == "memory"), None)
    if memory is not None:
        shapes["memory_after"] = (batch, memory)
    for name in (*MODEL_OUTPUTS[runtime.name], *(["memory_after"] if memory is not None else [])):
        expected = shapes.get(name, (batch,))
        if answers[name].shape != expected:
            raise PackageInvalid(
                f"{runtime.package.path}: output {name!r} must have shape {list(expected)} for {batch} rows, "
                f"got {list(answers[name].shape)}"
            )
