"""What a compiled package may use: OpenShift AI 3.0 to 3.3 run a 2.14 backend, which refuses fields it does not know.

`backend_2_14.json` lists the fields of that version's pipeline and Kubernetes platform specs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

FIELDS = "backend_2_14.json"


def newer_than_backend(package: str) -> list[str]:
    """Fields that the package (YAML text) sets and a 2.14 backend does not know, as `message.field`."""
    import yaml
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    known: Mapping[str, list[str]] = json.loads(resources.files("clusterheal_pipelines").joinpath(FIELDS).read_text())[
        "messages"
    ]
    spec, *platforms = yaml.safe_load_all(package)
    messages = [json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())]
    for executor in spec["deploymentSpec"]["executors"].values():
        container = pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec()
        messages.append(json_format.ParseDict(executor, container))
    for platform in platforms:
        messages.append(json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec()))
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for config in executors.values():
            message = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
            messages.append(json_format.ParseDict(config, message))
    return sorted({field for message in messages for field in _unknown(message, known)})


def _unknown(message: Any, known: Mapping[str, list[str]]) -> Iterator[str]:
    name = message.DESCRIPTOR.full_name
    if name.startswith("google.protobuf."):
        return
    for field, value in message.ListFields():
        if field.name not in known.get(name, []):
            yield f"{name}.{field.name}"
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            parts = [part for part in value.values() if hasattr(part, "DESCRIPTOR")]
        else:
            parts = list(value) if hasattr(value, "add") else [value]
        for part in parts:
            yield from _unknown(part, known)
