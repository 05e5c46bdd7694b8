"""Tensors as JSON: the form of `sample_request.json` and of V2 inference requests.

A tensor is `{"shape": [...], "datatype": "FP32", "data": [...]}` with `data` flat in row-major order. A missing
sample (NaN) is `null`, since JSON has no NaN; an infinity has no JSON form and is refused. The V2 binary extension
and gRPC carry the same tensors as raw little-endian bytes; a BYTES element is its length in four bytes, then itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.errors import InvalidInput

Tensor = npt.NDArray[Any]

_DTYPES: Mapping[str, npt.DTypeLike] = {
    "FP32": np.float32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "BYTES": np.object_,
}
_ELEMENTS: Mapping[str, frozenset[type]] = {
    "FP32": frozenset({float, int, type(None)}),
    "INT64": frozenset({int}),
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str, bytes}),
}


def datatype_of(array: Tensor) -> str:
    """The V2 name of an array's dtype; strings of any kind are BYTES.

    Raises:
        InvalidInput: a dtype that no model of ours takes or gives.
    """
    if array.dtype.kind in "OUS":
        return "BYTES"
    for name, dtype in _DTYPES.items():
        if array.dtype == dtype:
            return name
    raise InvalidInput(f"tensors are float32, int64, bool or strings; got dtype {array.dtype}: convert it first")


def encode_tensor(array: Tensor) -> dict[str, Any]:
    """An array of any shape as a JSON-ready mapping; see the module's text.

    Raises:
        InvalidInput: an unknown dtype, or an infinity.
    """
    datatype = datatype_of(array)
    flat = array.reshape(-1)
    if datatype == "FP32":
        if bool(np.isinf(flat).any()):
            raise InvalidInput("a tensor has an infinite value, which JSON cannot hold; expected finite numbers or NaN")
        data: list[Any] = [None if math.isnan(x) else x for x in flat.tolist()]
    elif datatype == "BYTES":
        data = [x.decode() if isinstance(x, bytes) else str(x) for x in flat.tolist()]
    else:
        data = flat.tolist()
    return {"shape": list(array.shape), "datatype": datatype, "data": data}


def decode_tensor(entry: Mapping[str, Any], *, name: str = "tensor") -> Tensor:
    """Inverse of `encode_tensor`; `name` is for the error message. Nested `data` is accepted, too.

    Raises:
        InvalidInput: a field is missing or unknown, or the data does not fill the shape.
    """
    try:
        shape, datatype, data = entry["shape"], entry["datatype"], entry["data"]
    except (KeyError, TypeError) as exc:
        raise InvalidInput(f"{name}: expected shape, datatype and data, got {_short(entry)}") from exc
    dtype = _DTYPES.get(str(datatype))
    if dtype is None:
        raise InvalidInput(f"{name}: expected a datatype of {', '.join(_DTYPES)}, got {datatype!r}")
    _require_shape(shape, name=name)
    flat = _flatten(data, name=name)
    if len(flat) != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} needs {math.prod(shape)} values, got {len(flat)}")
    if strange := set(map(type, flat)) - _ELEMENTS[str(datatype)]:
        raise InvalidInput(f"{name}: data is not {datatype}: found {sorted(t.__name__ for t in strange)}")
    try:
        array = np.array(flat, dtype=object).astype(dtype)  # None becomes NaN only by way of object
    except OverflowError as exc:
        raise InvalidInput(f"{name}: data is not {datatype}: {exc}") from exc
    return array.reshape(tuple(shape))


def tensor_to_bytes(array: Tensor) -> bytes:
    """The raw form of an array; NaN and infinities survive it.

    Raises:
        InvalidInput: an unknown dtype.
    """
    if datatype_of(array) != "BYTES":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        raw = element if isinstance(element, bytes) else str(element).encode()
        parts += (struct.pack("<I", len(raw)), raw)
    return b"".join(parts)


def tensor_from_bytes(raw: bytes | memoryview, *, shape: Sequence[int], datatype: str, name: str = "tensor") -> Tensor:
    """Inverse of `tensor_to_bytes`, a view of `raw` where possible; strings come back as `str`.

    Raises:
        InvalidInput: the bytes do not fill the shape exactly.
    """
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInput(f"{name}: expected a datatype of {', '.join(_DTYPES)}, got {datatype!r}")
    _require_shape(shape, name=name)
    count = math.prod(shape)
    if datatype == "BYTES":
        return np.array(_strings(bytes(raw), count, name=name), dtype=np.object_).reshape(tuple(shape))
    expected = count * np.dtype(dtype).itemsize
    if len(raw) != expected:
        raise InvalidInput(f"{name}: shape {list(shape)} of {datatype} needs {expected} bytes, got {len(raw)}")
    return np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False).reshape(tuple(shape))


def _strings(raw: bytes, count: int, *, name: str) -> list[str]:
    out: list[str] = []
    offset = 0
    try:
        while offset < len(raw):
            (length,) = struct.unpack_from("<I", raw, offset)
            end = offset + 4 + length
            if end > len(raw):
                raise InvalidInput(f"{name}: an element of {length} bytes runs past the end of the data")
            out.append(raw[offset + 4 : end].decode())
            offset = end
    except (struct.error, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{name}: data is not a sequence of length-prefixed UTF-8 strings: {exc}") from exc
    if len(out) != count:
        raise InvalidInput(f"{name}: expected {count} strings, got {len(out)}")
    return out


def _require_shape(shape: Any, *, name: str) -> None:
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise InvalidInput(f"{name}: expected shape as a list of counts, got {_short(shape)}")


def sample_request(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of `sample_request.json`: inputs of the graph, and what the graph answers to them.

    A rollout sends the inputs as golden request and compares the answer with `outputs`.
    """
    return {
        "inputs": {name: encode_tensor(array) for name, array in inputs.items()},
        "outputs": {name: encode_tensor(array) for name, array in outputs.items()},
    }


def golden_tensors(sample: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of a `sample_request.json`.

    Raises:
        InvalidInput: it has not the form that `sample_request` gives.
    """
    parts: list[dict[str, Tensor]] = []
    for side in ("inputs", "outputs"):
        entries = sample.get(side)
        if not isinstance(entries, Mapping) or not entries:
            raise InvalidInput(f"sample_request.json: expected a non-empty object {side!r}, got {_short(entries)}")
        parts.append({str(n): decode_tensor(e, name=f"sample_request.json {side}.{n}") for n, e in entries.items()})
    return parts[0], parts[1]


def _flatten(data: Any, *, name: str) -> list[Any]:
    if not isinstance(data, list | tuple):
        raise InvalidInput(f"{name}: expected data as a list, got {_short(data)}")
    if not any(isinstance(x, list | tuple) for x in data):
        return list(data)
    flat: list[Any] = []
    for part in data:
        flat.extend(_flatten(part, name=name))
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
