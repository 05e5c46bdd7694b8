"""V2 inference requests and answers as bytes: with the binary data extension, or as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from clusterheal.contracts.requests import (
    Tensor,
    datatype_of,
    decode_tensor,
    encode_tensor,
    tensor_from_bytes,
    tensor_to_bytes,
)
from clusterheal.errors import InvalidInput, PermanentError

LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a served model said: its outputs by name, and which model it was."""

    tensors: Mapping[str, Tensor]
    model_version: str
    contract_sha256: str | None
    package_sha256: str | None


def binary_request(tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose tensors and answers are raw."""
    blobs = {name: tensor_to_bytes(array) for name, array in tensors.items()}
    head = orjson.dumps(
        {
            "parameters": {**parameters, "binary_data_output": True},
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": datatype_of(array),
                    "parameters": {"binary_data_size": len(blobs[name])},
                }
                for name, array in tensors.items()
            ],
        }
    )
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return b"".join([head, *blobs.values()]), headers


def json_request(tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request that people can read; many times slower than the binary one."""
    inputs = [{"name": name, **encode_tensor(array)} for name, array in tensors.items()]
    return orjson.dumps({"parameters": parameters, "inputs": inputs}), {"Content-Type": "application/json"}


def parse_answer(body: bytes, json_length: str | None) -> Answer:
    """Either form of an answer; `json_length` is the value of its length header.

    Raises:
        PermanentError: it is not a V2 answer, so something else than a model server spoke.
    """
    try:
        end = len(body) if json_length is None else int(json_length)
        head = orjson.loads(memoryview(body)[:end])
        tensors: dict[str, Tensor] = {}
        offset = end
        for entry in head["outputs"]:
            size = (entry.get("parameters") or {}).get("binary_data_size")
            name = str(entry["name"])
            if "data" in entry or size is None:
                tensors[name] = decode_tensor(entry, name=name)
                continue
            raw = memoryview(body)[offset : offset + size]
            tensors[name] = tensor_from_bytes(raw, shape=entry["shape"], datatype=entry["datatype"], name=name)
            offset += size
        parameters = head.get("parameters") or {}
        return Answer(
            tensors=tensors,
            model_version=str(head.get("model_version") or ""),
            contract_sha256=parameters.get("contract_sha256"),
            package_sha256=parameters.get("package_sha256"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, InvalidInput) as exc:
        raise PermanentError(f"expected a V2 inference answer, got {bytes(body[:80])!r}...: {exc}") from exc
