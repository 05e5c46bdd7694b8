"""A hostile or broken package is refused by name, before any of its graph runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusterheal_models.package import MAX_MODEL_BYTES, inspect_graph
from clusterheal_models.serving.runtime import load_runtime
from clusterheal_models.serving.toy import toy_detector

from clusterheal.contracts import FeatureContract, ModelPackage, seal_package
from clusterheal.errors import ContractMismatch, PackageInvalid

Tamper = Callable[[Callable[[Any], None]], ModelPackage]


def test_a_good_graph_passes_and_says_what_it_takes(detector: ModelPackage) -> None:
    spec = inspect_graph(detector)
    assert spec.opset == 18
    assert {t.name: t.shape for t in spec.inputs}["seasonal"] == (-1, 2, 5, 3)


def _old_opset(model: Any) -> None:
    model.opset_import[0].version = 7


def _future_opset(model: Any) -> None:
    model.opset_import[0].version = 99


def _custom_operator(model: Any) -> None:
    model.graph.node[0].domain = "com.attacker"
    model.opset_import.add(domain="com.attacker", version=1)


def _hidden_custom_operator(model: Any) -> None:
    """Inside a branch of an If."""
    from onnx import TensorProto, helper

    inner = helper.make_node("Evil", [], ["x"], domain="com.attacker")
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])])
    model.graph.node.append(helper.make_node("If", ["c0"], ["y"], then_branch=branch, else_branch=branch))


def _external_weights(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def _external_weights_in_an_attribute(model: Any) -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/mem")
    model.graph.node.append(helper.make_node("Constant", [], ["z"], value=tensor))


def _strange_input(model: Any) -> None:
    model.graph.input[0].name = "path_on_disk"


def _fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _other_features(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4


def _string_output(model: Any) -> None:
    from onnx import TensorProto

    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING


def _missing_output(model: Any) -> None:
    del model.graph.output[1]


def _memory(model: Any) -> Any:
    return next(entry for entry in model.graph.input if entry.name == "memory").type.tensor_type


def _huge_memory(model: Any) -> None:
    _memory(model).shape.dim[1].dim_value = 1_000_000_000


def _memory_of_any_width(model: Any) -> None:
    _memory(model).shape.dim[1].ClearField("dim_value")


def _memory_that_is_not_given_back(model: Any) -> None:
    model.graph.output[-1].name = "memory_of_somebody"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_huge_memory, "memory of 1000000000 values an entity"),
        (_memory_of_any_width, "memory of -1 values an entity"),
        (_memory_that_is_not_given_back, "'memory_after', or neither"),
        (_old_opset, "opset 7, expected 13"),
        (_future_opset, "opset 99"),
        (_custom_operator, "com.attacker::"),
        (_hidden_custom_operator, "com.attacker::Evil"),
        (_external_weights, "etc/passwd"),
        (_external_weights_in_an_attribute, "/dev/mem"),
        (_strange_input, "path_on_disk"),
        (_fixed_batch, "must be dynamic"),
        (_other_features, r"\[-1, 8, 4\], the contract gives \[-1, 8, 3\]"),
        (_string_output, "element type"),
        (_missing_output, "must answer {'score': 'FP32'}"),
    ],
)
def test_a_tampered_graph_is_refused_by_name(tampered: Tamper, change: Callable[[Any], None], message: str) -> None:
    package = tampered(change)
    with pytest.raises(PackageInvalid, match=message) as caught:
        load_runtime(package)
    assert str(package.path) in str(caught.value)


def test_a_huge_model_is_refused_unread(detector: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "package"
    shutil.copytree(detector.path, path)
    with (path / "model.onnx").open("ab") as file:
        file.truncate(MAX_MODEL_BYTES + 1)
    package = seal_package(path, name=detector.name, contract=detector.contract)
    with pytest.raises(PackageInvalid, match="more than the"):
        inspect_graph(package)


def test_something_else_than_onnx_is_refused(detector: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "package"
    shutil.copytree(detector.path, path)
    (path / "model.onnx").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(PackageInvalid, match="not an ONNX model"):
        inspect_graph(seal_package(path, name=detector.name, contract=detector.contract))


def test_a_link_out_of_the_package_is_refused(detector: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "package"
    shutil.copytree(detector.path, path)
    (path / "model.onnx").unlink()
    (path / "model.onnx").symlink_to(detector.model_path)
    with pytest.raises(PackageInvalid, match="regular file"):
        ModelPackage.load(path)


@pytest.mark.parametrize("name", ["weights.bin", "hook.py", "v000010"])
def test_what_nobody_sealed_is_refused_by_name(detector: ModelPackage, tmp_path: Path, name: str) -> None:
    path = tmp_path / "package"
    shutil.copytree(detector.path, path)
    (path / ".cache").mkdir()
    ModelPackage.load(path)
    (path / name).mkdir() if name == "v000010" else (path / name).write_text("x")
    with pytest.raises(PackageInvalid, match=f"{name} does not belong to the package"):
        ModelPackage.load(path)


def test_a_contract_changed_after_sealing_is_refused(detector: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "package"
    shutil.copytree(detector.path, path)
    contract = json.loads((path / "contract.json").read_text())
    contract["features"][0]["unit"] = "percent"
    text = json.dumps(contract)
    (path / "contract.json").write_text(text)
    with pytest.raises(PackageInvalid, match=r"contract\.json: content differs"):
        ModelPackage.load(path)
    manifest = json.loads((path / "manifest.json").read_text())
    import hashlib

    manifest["files"]["contract.json"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractMismatch, match="was sealed"):
        ModelPackage.load(path)


def test_a_permuted_contract_is_another_contract(contract: FeatureContract, detector: ModelPackage) -> None:
    permuted = replace(contract, features=contract.features[::-1])
    runtime = load_runtime(detector)
    with pytest.raises(ContractMismatch, match=f"{contract.sha256}.*{permuted.sha256}"):
        runtime.check_contract(permuted.sha256)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sample_request.json", '{"inputs": {}, "outputs": {}}', "cannot answer its own sample request.*inputs"),
        (
            "sample_request.json",
            '{"inputs": {"recent": {"shape": [1], "datatype": "FP32", "data": [1]}}, "outputs": {"a": '
            '{"shape": [1], "datatype": "FP32", "data": [1]}}}',
            "cannot answer its own sample request",
        ),
        ("calibration.json", '{"entities": {"a": 1}}', "must be a list"),
    ],
)
def test_a_package_that_cannot_answer_its_own_sample_is_refused(
    contract: FeatureContract, tmp_path: Path, file: str, text: str, message: str
) -> None:
    path = toy_detector(tmp_path / "package", contract).path
    (path / file).write_text(text)
    with pytest.raises(PackageInvalid, match=message):
        load_runtime(seal_package(path, name="anomaly-detector", contract=contract))


def test_a_package_under_a_strange_name_is_refused(contract: FeatureContract, tmp_path: Path) -> None:
    path = toy_detector(tmp_path / "package", contract).path
    with pytest.raises(PackageInvalid, match="package name 'resnet'"):
        load_runtime(seal_package(path, name="resnet", contract=contract))
