"""The client asks within bounds, believes only its own contract, and names what went wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import stamina

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, ModelInputs, WindowSpec
from clusterheal.contracts.requests import Tensor, datatype_of, tensor_from_bytes, tensor_to_bytes
from clusterheal.errors import ContractMismatch, InvalidInput, PermanentError, RetryableError
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.memory import DetectorMemory
from clusterheal.inference.wire import LENGTH_HEADER, binary_request, json_request, parse_answer
from clusterheal.settings import InferenceSettings

URL = "http://model.test"
ORIGIN_NS = 1_767_225_600_123_456_789


@pytest.fixture(autouse=True)
def quick_retries() -> Any:
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def contract() -> FeatureContract:
    kinds = (EntityKind(name="node", labels=("node",)), EntityKind(name="workload", labels=("workload",)))
    return FeatureContract(
        entity_kinds=kinds,
        features=(
            FeatureSpec(name="load", promql="a", unit="1", entity_kind="node"),
            FeatureSpec(name="memory", promql="b", unit="bytes", entity_kind="workload"),
        ),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=3, season_steps=5, season_lags=(1,), seasonal_before=0, seasonal_steps=2, horizon_steps=2
        ),
    )


def inputs_of(*entities: str) -> ModelInputs:
    rows = len(entities)
    recent = np.ones((rows, 3, 2), np.float32)
    recent[:, -1, 0] = np.nan
    return ModelInputs(
        recent=recent,
        seasonal=np.zeros((rows, 1, 2, 2), np.float32),
        timestamp=np.full(rows, ORIGIN_NS, np.int64),
        entity=entities,
    )


class Server:
    """Answers V2 binary requests with `tensors(rows)`."""

    def __init__(self, contract: FeatureContract, tensors: Callable[[int], dict[str, Tensor]]) -> None:
        self.parameters = {"contract_sha256": contract.sha256, "package_sha256": "p" * 64}
        self.tensors = tensors
        self.seen: list[dict[str, Any]] = []
        self.failures: list[httpx.Response | Exception] = []

    def client(self, contract: FeatureContract | None, **settings: Any) -> InferenceClient:
        return InferenceClient(
            URL, contract, settings=InferenceSettings(**settings), transport=httpx.MockTransport(self.answer)
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        head = orjson.loads(request.content[: int(request.headers[LENGTH_HEADER])])
        self.seen.append({"path": request.url.path, "headers": request.headers, **head})
        outputs = self.tensors(head["inputs"][0]["shape"][0])
        blobs = {name: tensor_to_bytes(array) for name, array in outputs.items()}
        listed = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
                "parameters": {"binary_data_size": len(blobs[name])},
            }
            for name, array in outputs.items()
        ]
        body = orjson.dumps({"model_version": "v000001", "outputs": listed, "parameters": self.parameters})
        return httpx.Response(200, content=b"".join([body, *blobs.values()]), headers={LENGTH_HEADER: str(len(body))})


def detector_answer(rows: int) -> dict[str, Tensor]:
    wide = np.tile(np.array([[1.0, 2.0]], np.float32), (rows, 1))
    score = np.full(rows, 3.0, np.float32)
    score[0] = np.nan if rows == 3 else 3.0
    return {
        "score": score,
        "tail_probability": np.full(rows, 0.001, np.float32),
        "confidence": np.full(rows, 0.9, np.float32),
        "alarm": np.full(rows, True),
        "contribution": wide,
        "expected_low": wide - 1,
        "expected_median": wide,
        "expected_high": wide + 1,
    }


def forecaster_answer(rows: int) -> dict[str, Tensor]:
    return {
        "quantiles": np.arange(rows * 2 * 2 * 3, dtype=np.float32).reshape(rows, 2, 2, 3),
        "levels": np.array([0.1, 0.5, 0.9], np.float32),
    }


async def test_a_detection_holds_the_features_of_its_entitys_kind(contract: FeatureContract) -> None:
    server = Server(contract, detector_answer)
    async with server.client(contract) as client:
        node, workload = await client.detect(inputs_of("node/a", "workload/b"))
    assert server.seen[0]["path"] == "/v2/models/anomaly-detector/infer"
    assert server.seen[0]["parameters"]["contract_sha256"] == contract.sha256
    assert node.contributions == {"load": 1.0}
    assert node.expected["load"].observed is None
    assert (node.expected["load"].low, node.expected["load"].high) == (0.0, 2.0)
    assert workload.expected["memory"].observed == 1.0
    assert node.time == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert node.alarm is True
    assert node.model_version == "v000001"


async def test_a_window_without_a_score_has_no_verdict(contract: FeatureContract) -> None:
    async with Server(contract, detector_answer).client(contract) as client:
        found = await client.detect(inputs_of("node/a", "node/b", "node/c"))
    assert [d.entity for d in found] == ["node/b", "node/c"]


async def test_a_refused_request_is_not_repeated_with_the_same_memory(contract: FeatureContract) -> None:
    """A package that takes another memory, or that was rolled out meanwhile, would refuse it for ever."""
    server = Server(contract, lambda rows: {**detector_answer(rows), "memory_after": np.zeros((rows, 2), np.float32)})
    memory = DetectorMemory(contract)
    async with server.client(contract) as client:
        await client.detect(inputs_of("node/a"), memory=memory)
        server.failures = [httpx.Response(400, json={"error": "input 'memory' must be FP32 [1, 3], got FP32 [1, 2]"})]
        with pytest.raises(InvalidInput, match="memory"):
            await client.detect(inputs_of("node/a"), memory=memory)
        await client.detect(inputs_of("node/a"), memory=memory)
    assert ["memory" in {i["name"] for i in request["inputs"]} for request in server.seen] == [False, False]


async def test_a_forecast_holds_paths_and_levels(contract: FeatureContract) -> None:
    async with Server(contract, forecaster_answer).client(contract) as client:
        _, workload = await client.forecast(inputs_of("node/a", "workload/b"))
    assert workload.feature_names == ("memory",)
    assert workload.levels == (0.1, 0.5, 0.9)
    np.testing.assert_array_equal(workload.quantiles[:, 0], [[15, 16, 17], [21, 22, 23]])


async def test_many_rows_are_asked_for_in_parts(contract: FeatureContract) -> None:
    server = Server(contract, detector_answer)
    async with server.client(contract, chunk_rows=2) as client:
        found = await client.detect(inputs_of(*(f"node/{i}" for i in range(5))))
    assert [d.entity for d in found] == [f"node/{i}" for i in range(5)]
    assert [r["inputs"][0]["shape"][0] for r in server.seen] == [2, 2, 1]


@pytest.mark.parametrize(
    "failure",
    [httpx.Response(503, json={"error": "not ready"}), httpx.ConnectError("refused"), httpx.ReadTimeout("late")],
)
async def test_a_passing_failure_is_tried_again(contract: FeatureContract, failure: httpx.Response | Exception) -> None:
    server = Server(contract, detector_answer)
    server.failures = [failure, failure]
    async with server.client(contract) as client:
        assert len(await client.detect(inputs_of("node/a"))) == 1


async def test_tries_are_bounded(contract: FeatureContract) -> None:
    server = Server(contract, detector_answer)
    server.failures = [httpx.Response(503, json={"error": "not ready"}) for _ in range(10)]
    async with server.client(contract) as client:
        with pytest.raises(RetryableError, match="503: not ready"):
            await client.detect(inputs_of("node/a"))
    assert len(server.failures) == 7


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (httpx.Response(400, json={"error": "input 'recent' must be"}), InvalidInput, "must be"),
        (httpx.Response(400, json={"error": "feature contract mismatch: x"}), ContractMismatch, "mismatch"),
        (httpx.Response(401, text="no"), PermanentError, "token_file"),
        (httpx.Response(404, json={"error": "no model"}), PermanentError, "no model"),
        (httpx.Response(500, json={"error": "boom"}), PermanentError, "boom"),
        (httpx.Response(200, text="<html>login</html>"), PermanentError, "login"),
    ],
)
async def test_a_refusal_is_named_and_not_repeated(
    contract: FeatureContract, response: httpx.Response, error: type[Exception], message: str
) -> None:
    server = Server(contract, detector_answer)
    server.failures = [response, httpx.Response(503)]
    async with server.client(contract) as client:
        with pytest.raises(error, match=message):
            await client.detect(inputs_of("node/a"))
    assert len(server.failures) == 1


@pytest.mark.parametrize("said", [None, "0" * 64])
async def test_an_answer_for_another_contract_is_refused(contract: FeatureContract, said: str | None) -> None:
    server = Server(contract, detector_answer)
    server.parameters["contract_sha256"] = said  # type: ignore[assignment]
    async with server.client(contract) as client:
        with pytest.raises(ContractMismatch, match=contract.sha256):
            await client.detect(inputs_of("node/a"))


@pytest.mark.parametrize("break_it", [lambda t: t.pop("alarm"), lambda t: t.update(score=np.ones(9, np.float32))])
async def test_an_incomplete_answer_is_refused(contract: FeatureContract, break_it: Any) -> None:
    def broken(rows: int) -> dict[str, Tensor]:
        tensors = detector_answer(rows)
        break_it(tensors)
        return tensors

    async with Server(contract, broken).client(contract) as client:
        with pytest.raises(PermanentError, match=r"must answer '(alarm|score)'"):
            await client.detect(inputs_of("node/a"))


async def test_the_token_is_read_again_for_every_request(contract: FeatureContract, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    server = Server(contract, detector_answer)
    async with server.client(contract, token_file=token) as client:
        await client.detect(inputs_of("node/a"))
        token.write_text("two")
        await client.detect(inputs_of("node/a"))
        assert [r["headers"]["authorization"] for r in server.seen] == ["Bearer one", "Bearer two"]
        token.unlink()
        with pytest.raises(InvalidInput, match="token_file"):
            await client.detect(inputs_of("node/a"))


async def test_without_a_contract_nothing_can_be_inferred(contract: FeatureContract) -> None:
    async with Server(contract, detector_answer).client(None) as client:
        with pytest.raises(InvalidInput, match="without a contract"):
            await client.detect(inputs_of("node/a"))


async def test_metadata_brings_the_whole_contract(contract: FeatureContract) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v2/models":
            return httpx.Response(200, json={"models": ["anomaly-detector"]})
        assert request.url.path == "/v2/models/anomaly-detector"
        parameters = {"contract_sha256": contract.sha256, "package_sha256": "p", "contract": contract.to_dict()}
        return httpx.Response(200, json={"name": "x", "versions": ["v000002"], "parameters": parameters})

    async with InferenceClient(URL, transport=httpx.MockTransport(answer)) as client:
        metadata = await client.metadata()
    assert metadata.contract == contract
    assert metadata.version == "v000002"


async def test_an_absent_server_is_not_ready() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with InferenceClient(URL, transport=httpx.MockTransport(refuse)) as client:
        assert await client.ready("anomaly-detector") is False


def test_both_request_forms_carry_the_same_tensors() -> None:
    tensors = {"recent": np.array([[np.nan, 2.5]], np.float32), "entity": np.array(["a"], object)}
    body, headers = binary_request(tensors, {"contract_sha256": "c"})
    end = int(headers[LENGTH_HEADER])
    head = orjson.loads(body[:end])
    raw = body[end : end + 8]
    np.testing.assert_array_equal(tensor_from_bytes(raw, shape=[1, 2], datatype="FP32"), tensors["recent"])
    assert body[end + 8 :] == b"\x01\x00\x00\x00a"
    assert head["parameters"] == {"contract_sha256": "c", "binary_data_output": True}
    plain = orjson.loads(json_request(tensors, {})[0])
    assert plain["inputs"][0]["data"] == [None, 2.5]


@pytest.mark.parametrize("length", ["x", "9999999", "-1", None])
def test_an_answer_that_is_cut_or_mislabelled_is_refused(length: str | None) -> None:
    with pytest.raises(PermanentError, match="V2 inference answer"):
        parse_answer(b'{"outputs": [{"name": "a", "shape": [4], "datatype": "FP32", "data": [1]}]}', length)


def test_the_client_stays_light() -> None:
    """The engine has 128 MiB in all: no kserve, grpc, pandas or torch comes with the client."""
    script = (
        "import sys, clusterheal.inference.client\n"
        "heavy = {'kserve', 'grpc', 'pandas', 'torch', 'onnxruntime', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 * 1024
