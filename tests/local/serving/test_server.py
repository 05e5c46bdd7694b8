"""The real KServe server in its own process, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from clusterheal_models.serving.runtime import load_runtime
from clusterheal_models.serving.toy import toy_inputs

from clusterheal.contracts import FeatureContract, ModelInputs, ModelPackage
from clusterheal.errors import ContractMismatch, InvalidInput
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.grpc import message_classes
from clusterheal.inference.memory import DetectorMemory
from clusterheal.rollout.probe import check_golden
from clusterheal.settings import InferenceSettings

from .conftest import Served, serve_command

pytestmark = pytest.mark.local
INFER = "/v2/models/anomaly-detector/infer"


def request_body(package: ModelPackage, **changes: Any) -> dict[str, Any]:
    inputs = [{"name": name, **tensor} for name, tensor in package.sample_request["inputs"].items()]
    return {"inputs": inputs, "parameters": {"contract_sha256": package.contract.sha256}, **changes}


def client_for(served: Served, transport: str, contract: FeatureContract) -> InferenceClient:
    settings = InferenceSettings.model_validate({"transport": transport})
    return InferenceClient(served.url, contract, settings=settings, grpc_target=f"127.0.0.1:{served.grpc_port}")


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
async def test_every_transport_answers_as_the_model_itself(
    served: Served, contract: FeatureContract, transport: str
) -> None:
    tensors = toy_inputs(contract, batch=5, seed=4)
    expected = load_runtime(served.detector).run(tensors)
    inputs = ModelInputs(
        recent=tensors["recent"],
        seasonal=tensors["seasonal"],
        timestamp=tensors["timestamp"],
        entity=tuple(f"node/{i}" for i in range(5)),
    )
    async with client_for(served, transport, contract) as client:
        answer = await client.infer("anomaly-detector", inputs.tensors())
        found = await client.detect(inputs)
        forecasts = await client.forecast(inputs)
        await check_golden(client, served.detector, 1e-6)
        await check_golden(client, served.forecaster, 1e-6)
    for name, array in expected.items():
        np.testing.assert_allclose(answer.tensors[name], array, rtol=1e-5)
    assert answer.package_sha256 == served.detector.sha256
    assert [d.score for d in found] == pytest.approx(expected["score"].tolist())
    assert forecasts[0].quantiles.shape == (4, 3, 9)
    assert found[0].model_version == "v000001"


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
async def test_a_memory_is_handed_back_and_forth(served: Served, contract: FeatureContract, transport: str) -> None:
    """The toy's memory counts how often it was handed in; an entity that is new in a round begins anew."""
    tensors = toy_inputs(contract, batch=2)
    memory = DetectorMemory(contract)
    async with client_for(served, transport, contract) as client:
        for round_ in range(3):
            inputs = ModelInputs(
                recent=tensors["recent"],
                seasonal=tensors["seasonal"],
                timestamp=tensors["timestamp"] + round_ * contract.step_ns,
                entity=("node/0", f"node/new-{round_}"),
            )
            assert len(await client.detect(inputs, memory=memory)) == 2
    later = replace(inputs, timestamp=inputs.timestamp + contract.step_ns)
    np.testing.assert_array_equal(memory.handed_in(later), [[3.0], [1.0]])


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
async def test_another_contract_is_refused_naming_both(
    served: Served, contract: FeatureContract, transport: str
) -> None:
    from dataclasses import replace

    other = replace(contract, features=contract.features[::-1])
    async with client_for(served, transport, other) as client:
        with pytest.raises(ContractMismatch, match=f"{contract.sha256}.*{other.sha256}"):
            await client.infer("anomaly-detector", toy_inputs(contract, batch=1))


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
async def test_a_bad_shape_is_a_400(served: Served, contract: FeatureContract, transport: str) -> None:
    tensors = toy_inputs(contract, batch=2)
    tensors["recent"] = tensors["recent"][:, :-1]
    async with client_for(served, transport, contract) as client:
        with pytest.raises(InvalidInput, match=r"'recent' must be FP32 \[2, 8, 3\]"):
            await client.infer("anomaly-detector", tensors)


def test_readiness_and_metadata_are_per_model(served: Served) -> None:
    assert httpx.get(f"{served.url}/v2/models/anomaly-detector/ready").json()["ready"] is True
    assert httpx.get(f"{served.url}/v2/models/other/ready").status_code == 404
    metadata = httpx.get(f"{served.url}/v2/models/predictive-analytics").json()
    assert metadata["parameters"]["package_sha256"] == served.forecaster.sha256
    assert FeatureContract.from_dict(metadata["parameters"]["contract"]) == served.forecaster.contract
    assert metadata["versions"] == ["v000001"]
    assert {i["name"]: i["datatype"] for i in metadata["inputs"]} == {
        "recent": "FP32",
        "seasonal": "FP32",
        "timestamp": "INT64",
        "entity": "BYTES",
    }


def test_missing_samples_travel_as_null_both_ways(served: Served) -> None:
    body = request_body(served.detector)
    recent = next(i for i in body["inputs"] if i["name"] == "recent")
    recent["data"] = [None] * len(recent["data"])
    response = httpx.post(served.url + INFER, json=body)
    assert response.status_code == 200
    outputs = {o["name"]: o["data"] for o in response.json()["outputs"]}
    assert outputs["score"] == [0.0, 0.0]


def test_a_request_without_content_type_is_understood(served: Served) -> None:
    content = json.dumps(request_body(served.detector)).encode()
    response = httpx.post(served.url + INFER, content=content)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {"content-type": "application/json"}),
        (b'{"inputs": 3}', {"content-type": "application/json"}),
        (b'{"inputs": [{"name": "recent"}]}', {"content-type": "application/json"}),
        (b"{}", {"inference-header-content-length": "99"}),
        (b"{}", {"inference-header-content-length": "x"}),
        (b"\xff\x00", {}),
        (
            b'{"inputs": [{"name": "recent", "shape": [1], "datatype": "FP32",'
            b' "parameters": {"binary_data_size": 9}}]}',
            {},
        ),
        (b'{"inputs": []} trailing', {"inference-header-content-length": "14"}),
    ],
)
def test_what_cannot_be_read_is_a_400(served: Served, content: bytes, headers: dict[str, str]) -> None:
    response = httpx.post(served.url + INFER, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]


def test_the_v1_protocol_and_unknown_outputs_are_refused(served: Served) -> None:
    v1 = httpx.post(f"{served.url}/v1/models/anomaly-detector:predict", json={"instances": [[1.0]]})
    assert v1.status_code == 400
    assert "V2" in v1.json()["error"]
    unknown = httpx.post(served.url + INFER, json=request_body(served.detector, outputs=[{"name": "secret"}]))
    assert unknown.status_code == 400
    one = httpx.post(served.url + INFER, json=request_body(served.detector, outputs=[{"name": "score"}]))
    assert [o["name"] for o in one.json()["outputs"]] == ["score"]


def test_nobody_can_unload_a_model(served: Served) -> None:
    for verb in ("unload", "load"):
        response = httpx.post(f"{served.url}/v2/repository/models/anomaly-detector/{verb}")
        assert response.status_code == 400
    assert httpx.get(f"{served.url}/v2/models/anomaly-detector/ready").status_code == 200


def test_a_body_over_the_limit_is_a_413(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.http_port), timeout=10) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {65 * 1024 * 1024}\r\n\r\n".encode())
        assert b" 413 " in raw.recv(100)  # refused by what it declares, before it is sent

    def stream() -> Any:
        for _ in range(66):
            yield b"x" * 1024 * 1024

    assert httpx.post(served.url + INFER, content=stream()).status_code == 413


def test_requests_rows_and_refusals_are_counted(served: Served) -> None:
    def counters() -> dict[str, float]:
        lines = httpx.get(f"{served.url}/metrics").text.splitlines()
        return {k: float(v) for k, _, v in (line.rpartition(" ") for line in lines if line.startswith("clusterheal_"))}

    before = counters()
    httpx.post(served.url + INFER, json=request_body(served.detector))
    httpx.post(served.url + INFER, json=request_body(served.detector, parameters={"contract_sha256": "0" * 64}))
    httpx.post(served.url + INFER, content=b"{")
    after = counters()
    label = '{model_name="anomaly-detector"'
    grown = {
        "requests": f"clusterheal_inference_requests_total{label}}}",
        "rows": f"clusterheal_inference_rows_total{label}}}",
        "contract": f'clusterheal_inference_errors_total{label},reason="contract"}}',
        "input": f'clusterheal_inference_errors_total{label},reason="input"}}',
    }
    difference = {name: after[key] - before.get(key, 0) for name, key in grown.items()}
    assert difference == {"requests": 1, "rows": 2, "contract": 1, "input": 1}
    assert any(key.startswith("clusterheal_model_info") and served.detector.sha256 in key for key in after)


async def test_probes_are_answered_while_a_large_request_is_worked_on(
    served: Served, contract: FeatureContract
) -> None:
    async with client_for(served, "binary", contract) as client, httpx.AsyncClient() as http:
        work = asyncio.create_task(client.infer("predictive-analytics", toy_inputs(contract, batch=4096)))
        live = [await http.get(f"{served.url}/v2/health/live", timeout=5) for _ in range(5)]
        await work
    assert all(r.status_code == 200 for r in live)


def test_our_grpc_messages_are_kserves() -> None:
    """The descriptors are our own: they must read what KServe's write, and the other way round."""
    from clusterheal_models.serving.server import import_adapter

    import_adapter()
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    ours = message_classes()
    request = ours["ModelInferRequest"](model_name="m", id="7")
    request.inputs.add(name="recent", datatype="FP32", shape=[2, 3])
    request.raw_input_contents.append(b"abc")
    request.parameters.add(key="contract_sha256").value.string_param = "c"
    theirs = pb.ModelInferRequest.FromString(request.SerializeToString())
    assert (theirs.model_name, theirs.id, list(theirs.inputs[0].shape)) == ("m", "7", [2, 3])
    assert theirs.parameters["contract_sha256"].string_param == "c"
    assert theirs.raw_input_contents[0] == b"abc"
    response = pb.ModelInferResponse(model_name="m", model_version="v", raw_output_contents=[b"z"])
    response.parameters["package_sha256"].string_param = "p"
    response.outputs.add(name="score", datatype="FP32", shape=[1])
    back = ours["ModelInferResponse"].FromString(response.SerializeToString())
    assert (back.model_version, back.outputs[0].name, back.raw_output_contents[0]) == ("v", "score", b"z")
    assert {e.key: e.value.string_param for e in back.parameters} == {"package_sha256": "p"}


def test_a_changed_package_ends_the_server_with_its_name(store: dict[str, ModelPackage], tmp_path: Path) -> None:
    path = tmp_path / "changed"
    shutil.copytree(store["d1"].path, path)
    (path / "calibration.json").write_text('{"entities": ["node/evil"]}')
    done = subprocess.run(
        serve_command(path, ready_file=tmp_path / "ready.json"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "calibration.json: content differs from the manifest" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ready.json").exists()


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_taken_port_ends_the_server_with_what_to_do(
    store: dict[str, ModelPackage], tmp_path: Path, flag: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [*serve_command(store["d1"].path, ready_file=tmp_path / "ready.json"), flag, port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert f"port 127.0.0.1:{port} cannot be listened on" in done.stderr
