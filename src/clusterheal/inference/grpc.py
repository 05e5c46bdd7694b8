"""V2 inference over gRPC with raw tensors. Imported only when asked for: grpcio costs the engine 20 MB.

The few messages that are needed are described here instead of taken from kserve, whose import costs 150 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.contracts.requests import Tensor, datatype_of, tensor_from_bytes, tensor_to_bytes
from clusterheal.errors import ContractMismatch, InvalidInput, PermanentError, RetryableError
from clusterheal.inference.wire import Answer
from clusterheal.settings import InferenceSettings

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_STRING, _BYTES, _INT64, _BOOL, _MESSAGE = 9, 12, 3, 8, 11  # FieldDescriptorProto.Type

_Field = tuple[str, int, int, bool, str | None]
"""Name, number, type, repeated, message type."""

_MAP: _Field = ("parameters", 4, _MESSAGE, True, "ParametersEntry")
_TENSOR: tuple[_Field, ...] = (
    ("name", 1, _STRING, False, None),
    ("datatype", 2, _STRING, False, None),
    ("shape", 3, _INT64, True, None),
)
_MESSAGES: Mapping[str, tuple[_Field, ...]] = {
    "Parameter": (
        ("bool_param", 1, _BOOL, False, None),
        ("int64_param", 2, _INT64, False, None),
        ("string_param", 3, _STRING, False, None),
    ),
    "ParametersEntry": (("key", 1, _STRING, False, None), ("value", 2, _MESSAGE, False, "Parameter")),
    "InferTensor": _TENSOR,
    "ModelInferRequest": (
        ("model_name", 1, _STRING, False, None),
        ("model_version", 2, _STRING, False, None),
        ("id", 3, _STRING, False, None),
        _MAP,
        ("inputs", 5, _MESSAGE, True, "InferTensor"),
        ("raw_input_contents", 7, _BYTES, True, None),
    ),
    "ModelInferResponse": (
        ("model_name", 1, _STRING, False, None),
        ("model_version", 2, _STRING, False, None),
        ("id", 3, _STRING, False, None),
        _MAP,
        ("outputs", 5, _MESSAGE, True, "InferTensor"),
        ("raw_output_contents", 6, _BYTES, True, None),
    ),
}


def message_classes() -> dict[str, Any]:
    """Protobuf classes of the Open Inference Protocol's infer call.

    A map field is on the wire a repeated key-value message, which is how `parameters` is described here.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="clusterheal_v2.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, type_name in fields:
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=3 if repeated else 1,
                type_name=f".inference.{type_name}" if type_name else None,
            )
        if name == "Parameter":  # a oneof: without it, false and 0 could not be told from absent
            message.oneof_decl.add(name="choice")
            for entry in message.field:
                entry.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()  # not the default one, where kserve may have registered its own
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES
    }


class GrpcTransport:
    """One channel to a predictor's gRPC port."""

    def __init__(self, target: str, settings: InferenceSettings) -> None:
        try:
            from grpc import aio
        except ImportError as exc:
            raise InvalidInput("transport grpc needs grpcio; install it or set inference.transport to binary") from exc
        self._target = target
        self._settings = settings
        self._types = message_classes()
        options = [("grpc.max_receive_message_length", MAX_ANSWER_BYTES), ("grpc.max_send_message_length", -1)]
        if settings.ca_file is None:
            self._channel = aio.insecure_channel(target, options=options)
        else:
            import grpc

            credentials = grpc.ssl_channel_credentials(settings.ca_file.read_bytes())
            self._channel = aio.secure_channel(target, credentials, options=options)
        self._call = self._channel.unary_unary(
            _METHOD,
            request_serializer=self._types["ModelInferRequest"].SerializeToString,
            response_deserializer=self._types["ModelInferResponse"].FromString,
        )

    async def aclose(self) -> None:
        await self._channel.close()

    async def infer(self, model: str, tensors: Mapping[str, Tensor], parameters: Mapping[str, str]) -> Answer:
        """One attempt; raises as `InferenceClient.infer` does."""
        from grpc import aio

        request = self._types["ModelInferRequest"](model_name=model)
        for key, value in parameters.items():
            request.parameters.add(key=key).value.string_param = value
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=datatype_of(array), shape=list(array.shape))
            request.raw_input_contents.append(tensor_to_bytes(array))
        token = self._settings.token_file
        metadata = [("authorization", f"Bearer {token.read_text().strip()}")] if token else None
        try:
            response = await self._call(request, timeout=self._settings.timeout.total_seconds(), metadata=metadata)
        except aio.AioRpcError as exc:
            raise self._refusal(exc) from exc
        return self._answer(response)

    def _answer(self, response: Any) -> Answer:
        try:
            tensors = {
                output.name: tensor_from_bytes(raw, shape=list(output.shape), datatype=output.datatype)
                for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            }
        except (ValueError, InvalidInput) as exc:
            raise PermanentError(f"{self._target}: the answer's tensors are malformed: {exc}") from exc
        own = {entry.key: entry.value.string_param for entry in response.parameters}
        return Answer(
            tensors=tensors,
            model_version=response.model_version,
            contract_sha256=own.get("contract_sha256"),
            package_sha256=own.get("package_sha256"),
        )

    def _refusal(self, exc: Any) -> Exception:
        import grpc

        code, text = exc.code(), str(exc.details())
        where = f"grpc {self._target}: {code.name}: {text}"
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return RetryableError(where)
        if text.startswith("feature contract mismatch"):
            return ContractMismatch(where)
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidInput(where)
        return PermanentError(where)
