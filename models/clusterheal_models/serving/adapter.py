"""Our models behind KServe's own server classes. Import it only by way of `server.import_adapter`.

What KServe's defaults would do and this changes: tensors are read and written by way of Python lists (a hundred times
the cost of the model); a malformed request is a 500; a model counts as ready before it is loaded; anybody may unload a
model; the metadata has no place for our hashes; errors are not counted.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput as KServeInvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from prometheus_client import Counter, Gauge, Histogram

from clusterheal.contracts.requests import datatype_of, decode_tensor, tensor_from_bytes
from clusterheal.errors import ContractMismatch, InvalidInput
from clusterheal_models.serving.limits import BodyLimit
from clusterheal_models.serving.runtime import Runtime, Tensor

log = logging.getLogger(__name__)

REQUESTS = Counter("clusterheal_inference_requests", "Inference requests answered.", ["model_name"])
ROWS = Counter("clusterheal_inference_rows", "Rows (entities) scored.", ["model_name"])
ERRORS = Counter(
    "clusterheal_inference_errors",
    "Inference requests refused or failed, by reason: contract, input or internal.",
    ["model_name", "reason"],
)
SECONDS = Histogram(
    "clusterheal_inference_seconds",
    "Time of one request in the model, decoding included.",
    ["model_name"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
INFO = Gauge(
    "clusterheal_model_info",
    "1 for the package in service.",
    ["model_name", "version", "package_sha256", "contract_sha256"],
)
TRAINED_UNTIL = Gauge(
    "clusterheal_model_trained_until_timestamp_seconds",
    "Newest moment of the data that the package in service was fitted and calibrated on.",
    ["model_name"],
)
REASONS = ("contract", "input", "internal")


class Refused(KServeInvalidInput):  # type: ignore[misc]  # kserve is not typed
    """A request that is wrong: HTTP 400, gRPC INVALID_ARGUMENT, one log line and no traceback."""


class PackagedModel(Model):  # type: ignore[misc]
    """One runtime as a KServe model; it is ready exactly while it holds one."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.name)
        self.runtime = runtime
        self.ready = True
        INFO.labels(runtime.name, runtime.version, runtime.package.sha256, runtime.package.contract.sha256).set(1)
        if (until := runtime.trained_until) is not None:
            TRAINED_UNTIL.labels(runtime.name).set(until)
        for metric in (REQUESTS, ROWS, SECONDS):  # from 0 on: a counter that appears with the value 1 has not increased
            metric.labels(runtime.name)
        for reason in REASONS:
            ERRORS.labels(runtime.name, reason)

    def load(self) -> bool:
        """Nothing to do: the runtime was loaded and tried before the server began."""
        return bool(self.ready)

    def start(self) -> None:
        """KServe's default would call the model ready here, whatever it is."""

    async def predict(self, payload: Any, headers: dict[str, str] | None = None) -> InferResponse:
        """Answer one V2 request; the work is done in a thread, so that probes are answered meanwhile.

        Raises:
            Refused: another contract, or tensors that do not fit.
        """
        if not isinstance(payload, InferRequest):
            raise Refused(f"{self.name} speaks the V2 protocol: POST /v2/models/{self.name}/infer")
        try:
            with SECONDS.labels(self.name).time():
                response = await asyncio.to_thread(self._answer, payload)
        except (InvalidInput, ContractMismatch) as exc:
            reason = "contract" if isinstance(exc, ContractMismatch) else "input"
            ERRORS.labels(self.name, reason).inc()
            raise Refused(str(exc)) from exc
        except Exception:
            ERRORS.labels(self.name, "internal").inc()
            raise
        REQUESTS.labels(self.name).inc()
        return response

    def _answer(self, request: InferRequest) -> InferResponse:
        parameters = to_http_parameters(request.parameters or {})
        self.runtime.check_contract(parameters.get("contract_sha256"))
        tensors = {entry.name: as_tensor(entry) for entry in request.inputs}
        outputs = self.runtime.run(tensors)
        for wanted in request.request_outputs or ():
            if wanted.name not in outputs:
                raise InvalidInput(f"{self.name} has no output {wanted.name!r}; it answers {sorted(outputs)}")
        ROWS.labels(self.name).inc(tensors["recent"].shape[0])
        return InferResponse(
            response_id=request.id or "",
            model_name=self.name,
            model_version=self.runtime.version,
            infer_outputs=[_output(name, array, raw=request.from_grpc) for name, array in outputs.items()],
            parameters=identity(self.runtime),
            requested_outputs=request.request_outputs,
            use_binary_outputs=request.use_binary_outputs,
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in self.runtime.wire_inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in self.runtime.graph.outputs]


class BinaryDataPlane(DataPlane):  # type: ignore[misc]
    """Keeps raw tensors raw, and answers 400 to what cannot be read."""

    def decode_inference_request(self, body: Any, headers: dict[str, str], model_name: str) -> InferRequest:
        if not isinstance(body, bytes):
            return super().decode_inference_request(body, headers, model_name)
        try:
            return _parse_request(body, headers.get("inference-header-content-length"), model_name)
        except InvalidInput as exc:
            ERRORS.labels(model_name, "input").inc()
            raise Refused(str(exc)) from exc

    def encode(self, model_name: str, response: Any, headers: dict[str, str], req_attributes: dict[str, Any]) -> Any:
        if isinstance(response, InferResponse) and not _wants_binary(response):
            # Capitals, since KServe drops `content-type` from what is returned here.
            return _plain_answer(response), {"Content-Type": "application/json"}
        return super().encode(model_name, response, headers, req_attributes)


class FixedModels(ModelRepositoryExtension):  # type: ignore[misc]
    """Which models are served is decided when the server starts; a caller cannot load or unload one."""

    async def load(self, model_name: str) -> None:
        raise Refused(f"{model_name}: models are fixed when the server starts; roll out another package instead")

    async def unload(self, model_name: str) -> None:
        raise Refused(f"{model_name}: models are fixed when the server starts; scale the InferenceService instead")


def identity(runtime: Runtime) -> dict[str, str]:
    """What every answer carries, so that a caller knows which model spoke."""
    return {"contract_sha256": runtime.package.contract.sha256, "package_sha256": runtime.package.sha256}


def extend_app(app: FastAPI, models: dict[str, PackagedModel], *, max_request_bytes: int) -> None:
    """Add what KServe's REST endpoints lack. Routes added before KServe's own win over them."""

    async def model_metadata(model_name: str) -> JSONResponse:
        model = models.get(model_name)
        if model is None:
            text = f"there is no model {model_name!r} here; this server has {sorted(models)}"
            return JSONResponse({"error": text}, status_code=404)
        return JSONResponse(
            {
                "name": model_name,
                "versions": [model.runtime.version],
                "platform": "onnxruntime_onnx",
                "inputs": model.get_input_types(),
                "outputs": model.get_output_types(),
                "parameters": {
                    **identity(model.runtime),
                    "version": model.runtime.version,
                    "opset": model.runtime.graph.opset,
                    "contract": model.runtime.package.contract.to_dict(),
                },
            }
        )

    async def refused(request: Request, exc: Exception) -> JSONResponse:
        log.warning("request refused", extra={"path": request.url.path, "reason": str(exc)})
        return JSONResponse({"error": str(exc)}, status_code=400)

    async def malformed(request: Request, exc: Exception) -> JSONResponse:
        ERRORS.labels(str(request.path_params.get("model_name", "")), "input").inc()
        detail = exc.errors() if isinstance(exc, RequestValidationError) else str(exc)
        return JSONResponse({"error": f"not a V2 inference request: {str(detail)[:500]}"}, status_code=400)

    app.add_api_route("/v2/models/{model_name}", model_metadata, methods=["GET"])
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_middleware(BodyLimit, limit=max_request_bytes)


def as_tensor(entry: InferInput) -> Tensor:
    """One input of a request as array, from raw bytes or from lists.

    Raises:
        InvalidInput: the data does not fill the shape.
    """
    raw = getattr(entry, "_raw_data", None)
    if raw is not None:
        return tensor_from_bytes(raw, shape=entry.shape, datatype=entry.datatype, name=f"input {entry.name!r}")
    value = {"shape": entry.shape, "datatype": entry.datatype, "data": entry.data}
    return decode_tensor(value, name=f"input {entry.name!r}")


def _wants_binary(response: InferResponse) -> bool:
    requested = response._requested_outputs or ()
    return bool(response._use_binary_outputs) or any(output.binary_data for output in requested)


def _plain_answer(response: InferResponse) -> bytes:
    """A JSON answer straight from the arrays, NaN as null; KServe goes by way of one Python object per number."""
    wanted = {output.name for output in response._requested_outputs or ()}
    outputs = [
        {"name": o.name, "shape": o.shape, "datatype": o.datatype, "data": o.data.reshape(-1)}
        for o in response.outputs
        if not wanted or o.name in wanted
    ]
    head = {"model_name": response.model_name, "model_version": response.model_version, "id": response.id}
    body = {**head, "parameters": response.parameters, "outputs": outputs}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _output(name: str, array: Tensor, *, raw: bool) -> InferOutput:
    output = InferOutput(name=name, shape=list(array.shape), datatype=datatype_of(array), data=array)
    if raw:  # KServe 0.21's own conversion for gRPC asks for the truth value of the array, and fails
        output.set_data_from_numpy(array, binary_data=True)
    return output


def _parse_request(body: bytes, json_length: str | None, model_name: str) -> InferRequest:
    """A V2 request with the binary data extension; without the length header, all of it is JSON.

    Raises:
        InvalidInput: malformed JSON, missing fields, or sizes that do not fit the body.
    """
    if json_length is not None and (not json_length.isdigit() or int(json_length) > len(body)):
        raise InvalidInput(f"Inference-Header-Content-Length is {json_length!r}, the body has {len(body)} bytes")
    end = len(body) if json_length is None else int(json_length)
    try:
        head = orjson.loads(memoryview(body)[:end])
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"the request is not JSON: {exc}") from exc
    if not isinstance(head, dict) or not isinstance(head.get("inputs"), list):
        raise InvalidInput("the request must be a JSON object with a list 'inputs'")
    rest = memoryview(body)[end:]
    inputs, used = [], 0
    for entry in head["inputs"]:
        item, size = _parse_input(entry, rest[used:])
        inputs.append(item)
        used += size
    if used != len(rest):
        raise InvalidInput(f"the body has {len(rest)} bytes of binary data, the inputs name {used}")
    outputs = [RequestedOutput(name=str(o["name"]), parameters=o.get("parameters")) for o in _objects(head, "outputs")]
    parameters = head.get("parameters")
    return InferRequest(
        model_name=model_name,
        request_id=str(head.get("id") or ""),
        parameters=parameters if isinstance(parameters, dict) else None,
        infer_inputs=inputs,
        request_outputs=outputs or None,
    )


def _parse_input(entry: Any, rest: memoryview) -> tuple[InferInput, int]:
    """The input, and how many bytes of `rest` are its data."""
    if not isinstance(entry, dict) or not {"name", "shape", "datatype"} <= set(entry):
        raise InvalidInput(f"an input needs name, shape and datatype, got {str(entry)[:80]}")
    parameters = entry.get("parameters") or {}
    item = InferInput(name=str(entry["name"]), shape=entry["shape"], datatype=str(entry["datatype"]))
    if "data" in entry:
        item.data = entry["data"]
        return item, 0
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"input {item.name!r} has neither data nor a binary_data_size that fits: {size!r} of {len(rest)} bytes"
        )
    item._raw_data = rest[:size]
    return item, size


def _objects(head: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = head.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(o, dict) and "name" in o for o in listed):
        raise InvalidInput(f"{key!r} must be a list of objects with a name")
    return listed
