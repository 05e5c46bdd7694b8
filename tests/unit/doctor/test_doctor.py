"""Every rule finds what breaks it and leaves alone what does not; reports, exemptions and bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterheal.doctor.examine import Exemption, examine, read_exemptions
from clusterheal.doctor.load import find_platform, read_cluster, read_manifests
from clusterheal.doctor.report import as_json, as_sarif, as_text, rule_table
from clusterheal.doctor.rule import Severity
from clusterheal.doctor.rules import RULES
from clusterheal.doctor.scene import Object, Platform, Scene
from clusterheal.errors import InvalidInput
from clusterheal.local.kube.access import AccessControl, User
from clusterheal.local.kube.emulator import Emulator

CASES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text())
LATEST = (
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n    - name: c\n      image: r/c:latest\n"
)


def scene(manifests: list[dict[str, Any]], platform: Platform = Platform.RHOAI_3) -> Scene:
    return Scene(objects=[Object(manifest=m, source="test") for m in manifests], platform=platform)


def broken(found: Scene) -> set[str]:
    return {f.rule.id for f in examine(found).findings}


def test_there_is_a_case_for_every_rule() -> None:
    assert list(CASES) == [rule.id for rule in RULES]


def test_ids_and_names_are_unique_and_every_rule_explains_itself() -> None:
    assert len({r.id for r in RULES}) == len({r.name for r in RULES}) == len(RULES) >= 25
    for rule in RULES:
        assert re.fullmatch(r"CH\d{3}", rule.id)
        assert len(rule.why) > 30, rule.id
        assert rule.fix, rule.id


@pytest.mark.parametrize("rule", CASES)
def test_the_rule_finds_what_breaks_it(rule: str) -> None:
    result = examine(scene(CASES[rule]["bad"]))
    mine = [f for f in result.findings if f.rule.id == rule]
    assert mine
    assert all(f.problem.said or rule == "CH711" for f in mine)
    blamed = {(f.problem.obj.kind, f.problem.obj.name) for f in mine}
    assert blamed <= {(m["kind"], m["metadata"]["name"]) for m in CASES[rule]["bad"]}


@pytest.mark.parametrize("rule", CASES)
def test_the_rule_leaves_alone_what_does_not(rule: str) -> None:
    assert rule not in broken(scene(CASES[rule]["good"]))


def test_what_is_right_depends_on_the_version() -> None:
    old, new = CASES["CH101"]["bad"], CASES["CH101"]["good"]
    assert "CH101" not in broken(scene(old, Platform.RHOAI_2))
    assert "CH101" in broken(scene(new, Platform.RHOAI_2))
    raw = CASES["CH301"]["bad"]
    assert "CH301" not in broken(scene(raw, Platform.RHOAI_2))
    assert "CH301" not in broken(scene(raw, Platform.VANILLA))


def service(name: str, annotations: dict[str, str] | None = None, **predictor: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "annotations": annotations or {}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def selecting(**labels: str) -> dict[str, Any]:
    metadata = {"name": "s", "namespace": "n"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels}}


MODE = "serving.kserve.io/deploymentMode"
ONNX = service("m", model={"modelFormat": {"name": "onnx"}})
AUTO = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "triton", "namespace": "n"},
    "spec": {"supportedModelFormats": [{"name": "onnx", "autoSelect": True}], "containers": []},
}
PROMETHEUS = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "Prometheus",
    "metadata": {"name": "k8s", "namespace": "n"},
}
KUBELET = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "ServiceMonitor",
    "metadata": {"name": "kubelet", "namespace": "n"},
    "spec": {"endpoints": [{"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}]},
}


@pytest.mark.parametrize(
    ("rule", "platform", "manifests", "found"),
    [
        ("CH301", Platform.RHOAI_2, [service("m", {MODE: "ModelMesh"})], False),
        ("CH301", Platform.RHOAI_2, [service("m", {MODE: "Serverless"})], False),
        ("CH301", Platform.RHOAI_3, [service("m", {MODE: "ModelMesh"})], True),
        ("CH302", Platform.VANILLA, [service("m", canaryTrafficPercent=10)], False),
        ("CH302", Platform.VANILLA, [service("m", {MODE: "Knative"}, canaryTrafficPercent=10)], False),
        ("CH302", Platform.VANILLA, [service("m", {MODE: "Standard"}, canaryTrafficPercent=10)], True),
        ("CH305", Platform.VANILLA, [ONNX], False),
        ("CH305", Platform.RHOAI_3, [ONNX, AUTO], False),
        ("CH306", Platform.VANILLA, [service("m", model={"runtime": "kserve-tritonserver"})], False),
        ("CH306", Platform.RHOAI_3, [service("m", model={"runtime": "kserve-tritonserver"})], True),
        ("CH405", Platform.VANILLA, [KUBELET], False),
        ("CH405", Platform.RHOAI_3, [KUBELET], True),
        ("CH705", Platform.VANILLA, [PROMETHEUS, selecting(prometheus="k8s")], False),
        ("CH705", Platform.VANILLA, [selecting(prometheus="k8s")], True),
        ("CH705", Platform.VANILLA, [service("m"), selecting(app="isvc.m-predictor")], False),
        (
            "CH705",
            Platform.VANILLA,
            [service("m"), selecting(app="isvc.m-transformer", component="transformer")],
            False,
        ),
        ("CH705", Platform.VANILLA, [service("m"), selecting(app="isvc.n-predictor")], True),
        ("CH705", Platform.VANILLA, [selecting(app="isvc.m-predictor")], False),
    ],
)
def test_manifests_as_other_projects_ship_them(
    rule: str, platform: Platform, manifests: list[dict[str, Any]], found: bool
) -> None:
    """As in KServe's samples, kube-prometheus and workshops for OpenShift AI; and what is wrong, close beside it."""
    assert (rule in broken(scene(manifests, platform))) is found


def test_a_plain_kubernetes_does_not_enforce_namespaces_in_rules() -> None:
    assert "CH401" not in broken(scene(CASES["CH401"]["bad"], Platform.VANILLA))


@pytest.mark.parametrize(
    "manifest",
    [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": None},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [None, "x", {}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": {"a": 1}}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": None},
        {"apiVersion": "kubeflow.org/v1", "kind": "Notebook", "metadata": {"name": "w"}, "spec": {"template": {}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}},
    ],
)
def test_incomplete_manifests_do_not_stop_the_examination(manifest: dict[str, Any]) -> None:
    assert examine(scene([manifest])).objects == 1


def test_findings_carry_the_line_of_the_field(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text("# a comment\n---\n" + LATEST)
    result = examine(Scene(objects=read_manifests(file)))
    found = next(f for f in result.findings if f.rule.id == "CH504")
    assert (found.line, found.field) == (10, "spec.containers[0].image")
    assert f"{file}:10 spec.containers[0].image: Pod p: r/c:latest" in as_text(result)


def test_lists_are_taken_apart_and_their_lines_kept(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    pod = "".join(f"    {line}\n" for line in LATEST.splitlines())
    file.write_text("apiVersion: v1\nkind: List\nitems:\n  -\n" + pod)
    found = next(f for f in examine(Scene(objects=read_manifests(file))).findings if f.rule.id == "CH504")
    assert found.line == 12


def test_sarif_has_what_code_scanning_needs(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(LATEST)
    excuse = Exemption(rule="image-moves", kind="Pod", name="p*", why="a scratch pod")
    run = json.loads(as_sarif(examine(Scene(objects=read_manifests(file)), [excuse])))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == [r.id for r in RULES]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        where = result["locations"][0]["physicalLocation"]
        assert where["artifactLocation"]["uri"] == str(file)
        assert where["region"]["startLine"] >= 1
    suppressed = [r for r in run["results"] if "suppressions" in r]
    assert [(r["ruleId"], r["suppressions"][0]["justification"]) for r in suppressed] == [("CH504", "a scratch pod")]


def test_json_tells_the_same_as_the_text(tmp_path: Path) -> None:
    result = examine(scene(CASES["CH503"]["bad"]))
    document = json.loads(as_json(result))
    assert [f["rule"] for f in document["findings"]] == [f.rule.id for f in result.findings]
    assert document["objects"] == 1
    assert all(f["rule"] in as_text(result) and f["why"] and f["fix"] for f in document["findings"])


def test_exemptions_hide_what_they_name_and_nothing_else() -> None:
    excuse = Exemption(rule="CH503", kind="Pod", name="p", why="a node agent")
    other = Exemption(rule="CH503", kind="Pod", name="q", why="gone")
    result = examine(scene(CASES["CH503"]["bad"]), [excuse, other])
    assert {f.rule.id for f, _ in result.exempted} == {"CH503"}
    assert "CH503" not in {f.rule.id for f in result.findings}
    assert result.unused == (other,)
    assert "hides nothing" in as_text(result)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("doctor: [{rule: CH999, kind: Pod, name: p, why: x}]", "no rule 'CH999'"),
        ("doctor: [{rule: CH503, kind: Pod, name: p, why: ''}]", "all filled"),
        ("doctor: [{rule: CH503, kind: Pod, name: p}]", "expected rule, kind, name and why"),
        ("[]", "expected a list `doctor`"),
        ("doctor: [", "expected YAML"),
    ],
)
def test_exemptions_without_a_reason_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "exemptions.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=re.escape(said)):
        read_exemptions(file)


def test_severity_decides_on_failure() -> None:
    only_info = examine(scene(CASES["CH209"]["bad"]))
    assert not only_info.failed(Severity.WARNING)
    assert only_info.failed(Severity.INFO)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "not YAML"),
        ("a: 1\n", "no Kubernetes objects"),
        ("", "no Kubernetes objects"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=said):
        read_manifests(file)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clusterheal.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_tells_by_its_exit_status(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(LATEST)
    assert run(str(file)).returncode == 1
    assert run(str(file), "--fail-on", "never").returncode == 0
    nothing = run(str(tmp_path / "absent"))
    assert nothing.returncode == 2
    assert "no such file or folder" in nothing.stderr
    assert run().returncode == 2
    unknown = run(str(file), "--platform", "rhoai-9x")
    assert "expected one of rhoai-2x, rhoai-3x, vanilla-kubernetes" in unknown.stderr


def deployment(image: str, **metadata: object) -> dict[str, Any]:
    labels = {"app": "d"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", **metadata},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    }


async def test_a_namespace_of_a_cluster_is_examined_without_what_controllers_made() -> None:
    emulator = Emulator()
    emulator.load([deployment("r/c:latest"), {**deployment("r/c:latest"), "metadata": {"name": "o", "namespace": "m"}}])
    await emulator.controllers.step()
    cluster = emulator.cluster()
    assert await find_platform(cluster) is Platform.VANILLA
    objects, unread = await read_cluster(cluster, "n")
    assert unread == []
    assert {(o.kind, o.name) for o in objects if o.kind in ("Deployment", "Namespace", "Pod")} == {
        ("Deployment", "d"),
        ("Namespace", "n"),
    }
    found = examine(Scene(objects=objects, platform=Platform.VANILLA)).findings
    assert {f.rule.id for f in found} >= {"CH504", "CH710"}
    assert all(f.line is None for f in found)


async def test_what_may_not_be_read_is_said() -> None:
    emulator = Emulator(access=AccessControl(enforce=True))
    objects, unread = await read_cluster(emulator.cluster(user=User(name="nobody")), "n")
    assert objects == []
    assert any("deployments" in line and "nobody" in line for line in unread)


def test_the_page_of_rules_is_the_current_one() -> None:
    page = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    assert rule_table() in page, "run `clusterheal doctor --rules` and put its table into docs/doctor.md"
