"""Data Science Pipelines: the server, packages in Git, schedules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import FieldPath, Object, Scene

BOOK = RuleBook()
DSPA = "DataSciencePipelinesApplication"
SYNC_WAVE = "argocd.argoproj.io/sync-wave"
_HASH_AT_END = re.compile(r"[-.](?=[0-9a-f]*[0-9])[0-9a-f]{7,64}\Z")
_CRON_KEY = re.compile(r"cron", re.IGNORECASE)
_CRON_FIELD = re.compile(r"[\d*/,\-?LW#A-Z]+\Z")
_READS_THE_WORLD = re.compile(r"(^|[-_])(collect|fetch|ingest|extract|pull)([-_]|\Z)")


def _is_five_fields(text: str) -> bool:
    fields = text.split()
    return len(fields) == 5 and all(_CRON_FIELD.match(f) for f in fields) and any(c in text for c in "*/0123456789")


@BOOK.add(
    "CH201",
    "schedule-in-git",
    Severity.ERROR,
    why="a ScheduledWorkflow that the pipelines server has no row for in its database fails at its first run.",
    fix="create schedules through the REST API (POST /apis/v2beta1/recurringruns), from an idempotent Job",
)
def schedule_in_git(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("ScheduledWorkflow"):
        yield Problem(obj=o, said="a ScheduledWorkflow among the manifests")


@BOOK.add(
    "CH202",
    "five-field-cron",
    Severity.ERROR,
    why="Kubeflow Pipelines reads six fields, seconds first: five are refused, or run at other times than meant.",
    fix='put the seconds first: "0 0 3 * * *" is every day at 03:00',
)
def five_field_cron(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("ScheduledWorkflow"):
        path: FieldPath = ("spec", "trigger", "cronSchedule", "cron")
        if _is_five_fields(str(o.at(*path, default=""))):
            yield Problem(obj=o, path=path, said=f"five fields: {o.at(*path)!r}")
    for o in scene.of("ConfigMap"):
        for key, value in (o.at("data", default={}) or {}).items():
            if _CRON_KEY.search(str(key)) and _is_five_fields(str(value)):
                yield Problem(obj=o, path=("data", key), said=f"{key} has five fields: {value!r}")
    for pod in scene.pods():
        for where, name, value in pod.env():
            if _CRON_KEY.search(name) and _is_five_fields(value):
                yield Problem(obj=pod.owner, path=where, said=f"{name} has five fields: {value!r}")
        for where, container in pod.containers():
            for key in ("args", "command"):
                for i, text in enumerate(container.get(key) or []):
                    before = str((container[key])[i - 1]) if i else ""
                    if _CRON_KEY.search(before) and _is_five_fields(str(text)):
                        yield Problem(obj=pod.owner, path=(*where, key, i), said=f"{before} has five fields: {text!r}")


@BOOK.add(
    "CH203",
    "pipeline-version-name",
    Severity.WARNING,
    why="the spec of a PipelineVersion is immutable: a changed package under the same name is refused at the next "
    "sync.",
    fix="end the name with a hash of the package's content",
)
def version_name(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("PipelineVersion"):
        if not _HASH_AT_END.search(o.name):
            yield Problem(obj=o, path=("metadata", "name"), said=f"{o.name!r} does not end with a content hash")


@BOOK.add(
    "CH204",
    "pipeline-before-version",
    Severity.ERROR,
    why="a PipelineVersion is refused while its Pipeline does not exist, and both while the pipelines server does not.",
    fix="sync waves: the server first, then Pipelines, then PipelineVersions",
)
def pipeline_before_version(scene: Scene) -> Iterator[Problem]:
    pipelines = {o.name: o for o in scene.of("Pipeline") if o.group == "pipelines.kubeflow.org"}
    for version in scene.of("PipelineVersion"):
        name = version.at("spec", "pipelineName")
        pipeline = pipelines.get(str(name))
        if pipeline is None:
            yield Problem(obj=version, path=("spec", "pipelineName"), said=f"no Pipeline {name!r} among the manifests")
        elif _wave(version) <= _wave(pipeline) and _uses_waves(scene):
            said = f"sync wave {_wave(version)}, its Pipeline {_wave(pipeline)}"
            yield Problem(obj=version, path=("metadata", "annotations"), said=said)


def _wave(o: Object) -> int:
    text = str(o.annotations.get(SYNC_WAVE, "0"))
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _uses_waves(scene: Scene) -> bool:
    return any(SYNC_WAVE in o.annotations for o in scene.objects)


@BOOK.add(
    "CH205",
    "pipelines-server-name",
    Severity.WARNING,
    why="workbenches get their pipelines configuration (Elyra) only from a server called dspa, and the dashboard looks "
    "for that name, too.",
    fix="metadata.name: dspa",
)
def server_name(scene: Scene) -> Iterator[Problem]:
    for o in scene.of(DSPA):
        if o.name != "dspa":
            yield Problem(obj=o, path=("metadata", "name"), said=f"named {o.name!r}, expected 'dspa'")


@BOOK.add(
    "CH206",
    "pipeline-store",
    Severity.ERROR,
    why="Pipeline and PipelineVersion objects are read only by a server with pipelineStore: kubernetes; the "
    "default keeps pipelines in its database and ignores them.",
    fix="spec.apiServer.pipelineStore: kubernetes",
)
def pipeline_store(scene: Scene) -> Iterator[Problem]:
    if not any(True for _ in scene.of("Pipeline", "PipelineVersion")):
        return
    for o in scene.of(DSPA):
        path = ("spec", "apiServer", "pipelineStore")
        if o.at(*path) != "kubernetes":
            yield Problem(obj=o, path=path, said=f"pipelineStore is {o.at(*path) or 'database'}")


@BOOK.add(
    "CH207",
    "cached-collect",
    Severity.ERROR,
    why="a cached step that reads the world gives yesterday's data as today's; run-time settings do not reach "
    "tasks below the root of a registered pipeline.",
    fix="set_caching_options(False) on the step and compile again",
)
def cached_collect(scene: Scene) -> Iterator[Problem]:
    for version in scene.of("PipelineVersion"):
        base: FieldPath = ("spec", "pipelineSpec")
        for path, name, task in _tasks(version, base):
            if _READS_THE_WORLD.search(name) and (task.get("cachingOptions") or {}).get("enableCache"):
                yield Problem(
                    obj=version, path=(*path, "cachingOptions"), said=f"task {name} may be taken from the cache"
                )


def _tasks(version: Object, base: FieldPath) -> Iterator[tuple[FieldPath, str, Mapping[str, Any]]]:
    dags: list[FieldPath] = [(*base, "root", "dag", "tasks")]
    components = version.at(*base, "components", default={})
    dags += [(*base, "components", name, "dag", "tasks") for name in components]
    for path in dags:
        for name, task in (version.at(*path, default={}) or {}).items():
            if isinstance(task, Mapping):
                yield (*path, name), str(name), task


@BOOK.add(
    "CH208",
    "pipeline-newer-than-server",
    Severity.ERROR,
    why="OpenShift AI 3.0 to 3.3 run the 2.14 backend, which refuses fields that it does not know.",
    fix="compile without PipelineConfig's ttl and deadline, and without optional variables",
)
def newer_than_server(scene: Scene) -> Iterator[Problem]:
    unknown = {"resourceTtl", "resource_ttl", "pipelineRunTtl", "activeDeadlineSeconds", "active_deadline_seconds"}
    for version in scene.of("PipelineVersion"):
        path = ("spec", "platformSpec", "platforms", "kubernetes", "pipelineConfig")
        for key in sorted(unknown & set(version.at(*path, default={}))):
            yield Problem(obj=version, path=(*path, key), said=f"pipelineConfig.{key} is newer than 2.14")


@BOOK.add(
    "CH209",
    "pipelines-private-ca",
    Severity.INFO,
    why="S3 with a certificate of a private CA fails in the server and in every step with x509 errors.",
    fix="spec.apiServer.cABundle: {configMapName, configMapKey} with that CA",
)
def private_ca(scene: Scene) -> Iterator[Problem]:
    for o in scene.of(DSPA):
        storage = o.at("spec", "objectStorage", "externalStorage", default={})
        host = str(storage.get("host", ""))
        public = host.endswith((".amazonaws.com", ".googleapis.com", ".windows.net"))
        if storage.get("scheme") == "https" and not public and not o.at("spec", "apiServer", "cABundle"):
            path = ("spec", "objectStorage", "externalStorage", "host")
            yield Problem(obj=o, path=path, said=f"{host} over https without apiServer.cABundle")
