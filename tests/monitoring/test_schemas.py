"""Every custom resource of the monitoring fits its CRD, and has no field that the API server would drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for folder in ("base/monitoring", "cluster/monitoring", "components/grafana", "components/model-server-monitor")
    for path in (ROOT / "manifests" / folder).glob("*.yaml")
    if path.name != "kustomization.yaml"
)


class CrdLoader(yaml.CSafeLoader):
    """YAML 1.1 reads a bare `=`, an operator in some schemas' enums, as a tag of its own; here it is a string."""


CrdLoader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.parent.name}-{p.name}")
def test_it_fits_its_schema(path: Path, shared_dir: Path) -> None:
    for resource in filter(None, yaml.safe_load_all(path.read_text())):
        group, _, version = resource["apiVersion"].rpartition("/")
        if resource["kind"] == "ConfigMap":
            assert set(resource) == {"apiVersion", "kind", "metadata", "data"}
            continue
        file = shared_dir / "crds" / f"{group}_{resource['kind'].lower()}s.yaml"
        crd = yaml.load(file.read_text(), Loader=CrdLoader)
        schema = next(v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == version)
        jsonschema.validate(resource, closed(schema))


def test_a_field_that_the_server_would_drop_is_noticed(shared_dir: Path) -> None:
    file = shared_dir / "crds" / "monitoring.openshift.io_alertingrules.yaml"
    crd = yaml.load(file.read_text(), Loader=CrdLoader)
    resource = yaml.safe_load((ROOT / "manifests/cluster/monitoring/alerting-rules.yaml").read_text())
    resource["spec"]["groups"][0]["rules"][0]["record"] = "an AlertingRule has no recording rules"
    with pytest.raises(jsonschema.ValidationError, match="record"):
        jsonschema.validate(resource, closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """The structural schema as JSON Schema that refuses unknown fields, except where the CRD keeps them."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {k: {n: closed(p) for n, p in v.items()} if k == "properties" else closed(v) for k, v in schema.items()}
    if "(?i)" in str(out.get("pattern", "")):  # Go takes the flag anywhere, Python only in front
        out["pattern"] = "(?i)" + out["pattern"].replace("(?i)", "")
    if "properties" in schema and "additionalProperties" not in schema:
        out["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return out
