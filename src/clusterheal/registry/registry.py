"""Register, resolve and move model versions between states."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterheal.clock import Clock, SystemClock
from clusterheal.contracts import ModelPackage
from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.registry import versions as names
from clusterheal.registry.client import Conflict, RegistryClient
from clusterheal.registry.storage import PackageStore, Stored, open_store
from clusterheal.registry.versions import Lineage, ModelVersion, Property, State, version_number
from clusterheal.settings import RegistrySettings

log = logging.getLogger(__name__)

_PAGE = 100
_EPOCH = datetime.fromtimestamp(0, UTC)


class Registry:
    """The model registry and the packages behind it. Synchronous; call it from a thread inside an event loop.

    The registry's writes are not atomic. Every method here can be repeated after a failure at any point and ends in
    the same state: a version is recognised by its package's SHA-256, and it counts only once its artifact is there.
    """

    def __init__(self, settings: RegistrySettings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._client = RegistryClient(settings)
        self._store: PackageStore = open_store(
            settings.storage, endpoint=settings.storage_endpoint, ca_file=settings.storage_ca_file
        )

    def register(
        self,
        package: ModelPackage,
        *,
        properties: Mapping[str, Property] | None = None,
        lineage: Lineage | None = None,
        state: State = State.CANDIDATE,
    ) -> ModelVersion:
        """Copy the package to its immutable place and enter it; the same package is entered once.

        Raises:
            InvalidInput: a property that the registry cannot hold.
            PermanentError: no space, no permission.
            RetryableError: the registry does not answer; call again, what was begun is completed.
        """
        extra = _checked(properties or {})
        model_id = self._model_id(package.name)
        begun = self._find_by_package(model_id, package.sha256)
        if begun is None:
            begun = self._begin(package, model_id, extra, state)
        if self._artifact(begun) is None:
            stored = self._store.put_at(package, begun.name)
            self._complete(begun, package.name, stored.uri, lineage)
        version = self.get(package.name, begun.name)
        log.info("registered", extra={"model": version.name, "version": version.version, "state": version.state.value})
        return version

    def get(self, name: str, version: str) -> ModelVersion:
        """One complete version.

        Raises:
            InvalidInput: no such model or version, or its registration was never finished.
        """
        raws = self._raw_by_name(name)
        found = next((self._resolve(name, raw) for raw in raws if raw.name == version), None)
        if found is None:
            raise InvalidInput(
                f"registry has no complete version {version!r} of {name!r}; it has {[raw.name for raw in raws]}"
            )
        return found

    def versions(self, name: str) -> list[ModelVersion]:
        """All complete versions, oldest first; empty when the model is unknown."""
        found = [self._resolve(name, raw) for raw in self._raw_by_name(name)]
        return sorted((v for v in found if v is not None), key=lambda v: v.number)

    def current(self, name: str) -> ModelVersion | None:
        """The version in service; None when nothing has been promoted yet."""
        return self._latest(name, State.SERVING)

    def previous(self, name: str) -> ModelVersion | None:
        """The version that was in service before, to go back to."""
        return self._latest(name, State.PREVIOUS)

    def set_state(
        self, name: str, version: str, state: State, *, properties: Mapping[str, Property] | None = None
    ) -> ModelVersion:
        """Move a version to `state`. The one that was in service becomes `previous` when another takes its place.

        `properties` are written with it; being served clears why an earlier rollout took the version back.

        Raises:
            InvalidInput: no such version, or a rejected or archived one is to be served.
        """
        extra = _checked(properties or {})
        wanted = self.get(name, version)
        if state in (State.SERVING, State.SHADOW) and wanted.state in (State.REJECTED, State.ARCHIVED):
            raise InvalidInput(f"{name} {version} is {wanted.state.value} and cannot become {state.value}")
        changed = wanted if wanted.state is state and not extra else self._write_state(wanted, state, extra)
        if state is State.SERVING:
            # Newest first: if this is cut off here, `current` still answers with the newer of the two.
            for other in self._in_state(name, State.SERVING):
                if other.version != version:
                    self._write_state(other, State.PREVIOUS)
        return changed

    def fetch(self, version: ModelVersion, into: Path) -> ModelPackage:
        """The version's verified package; downloaded to `into` unless it is on a local disk already.

        Raises:
            PackageInvalid, PermanentError: it is not what was registered.
        """
        package = self._store.fetch(version.uri, into)
        if package.sha256 != version.package_sha256:
            raise PermanentError(
                f"{version.uri} holds package {package.sha256[:12]}, "
                f"registered was {version.package_sha256[:12]}; somebody changed an immutable folder"
            )
        return package

    def _latest(self, name: str, state: State) -> ModelVersion | None:
        return max(self._in_state(name, state), key=lambda v: (v.state_since, v.number), default=None)

    def _in_state(self, name: str, state: State) -> list[ModelVersion]:
        raws = [raw for raw in self._raw_by_name(name) if (raw.custom_properties or {}).get(names.STATE) == state.value]
        return [v for v in (self._resolve(name, raw) for raw in raws) if v is not None]

    def _raw_by_name(self, name: str) -> list[Any]:
        model = self._client.call(lambda api: api.get_registered_model_by_params(name))
        return [] if model is None else self._raw_versions(model.id)

    def _resolve(self, name: str, raw: Any) -> ModelVersion | None:
        """None for a version whose registration was never finished, and for one that is not ours."""
        artifact = self._artifact(raw) if version_number(raw.name) is not None else None
        return None if artifact is None else _version(name, raw, artifact)

    def _model_id(self, name: str) -> str:
        from model_registry.types import RegisteredModel

        model = self._client.call(lambda api: api.get_registered_model_by_params(name))
        if model is None:
            fresh = RegisteredModel(name=name, owner=self._settings.author)
            try:
                model = self._client.call(lambda api: api.upsert_registered_model(fresh))
            except Conflict:  # another writer, or our own earlier attempt whose answer was lost
                model = self._client.call(lambda api: api.get_registered_model_by_params(name))
        if model is None:
            raise PermanentError(f"the registry refuses the model name {name!r} and does not have it either")
        return str(model.id)

    def _begin(self, package: ModelPackage, model_id: str, extra: Mapping[str, Property], state: State) -> Any:
        """Find the package a place, then claim the version; a number that somebody else claimed is skipped."""
        taken = [version_number(v.name) or 0 for v in self._raw_versions(model_id)]
        stored = self._store.put(package, at_least=max(taken, default=0) + 1)
        while True:
            try:
                return self._claim(package, model_id, stored.version, extra, state)
            except Conflict:
                mine = self._find_by_package(model_id, package.sha256)
                if mine is not None:
                    return mine
                stored = self._elsewhere(package, stored)
            except BaseException:
                self._undo(package, model_id, stored)
                raise

    def _elsewhere(self, package: ModelPackage, stored: Stored) -> Stored:
        if stored.created:
            self._store.remove(package.name, stored.version)
        return self._store.put(package, at_least=(version_number(stored.version) or 0) + 1)

    def _undo(self, package: ModelPackage, model_id: str, stored: Stored) -> None:
        """Leave nothing behind, unless the claim got through although its answer did not."""
        try:
            claimed = self._find_by_package(model_id, package.sha256) is not None
        except Exception:  # noqa: BLE001 - cleaning up after the error that is being raised
            log.warning("package kept: cannot tell whether its version was entered", extra={"uri": stored.uri})
            return
        if stored.created and not claimed:
            self._store.remove(package.name, stored.version)

    def _claim(
        self, package: ModelPackage, model_id: str, version: str, extra: Mapping[str, Property], state: State
    ) -> Any:
        from model_registry.types import ModelVersion as ApiVersion

        properties = {
            **extra,
            names.STATE: state.value,
            names.STATE_SINCE: self._clock.now().isoformat(),
            names.CONTRACT: package.contract.sha256,
            names.PACKAGE: package.sha256,
        }
        entry = ApiVersion(name=version, author=self._settings.author, custom_properties=properties)
        return self._client.call(lambda api: api.upsert_model_version(entry, model_id))

    def _complete(self, raw: Any, name: str, uri: str, lineage: Lineage | None) -> None:
        from model_registry.types import ModelArtifact

        source = {}
        if lineage is not None:
            source = {
                "model_source_kind": "kfp",
                "model_source_class": "pipelinerun",
                "model_source_id": lineage.run_id,
                "model_source_name": lineage.run_name,
                "model_source_group": lineage.group,
            }
        artifact = ModelArtifact(name=name, uri=uri, model_format_name="onnx", model_format_version="1", **source)
        try:
            self._client.call(lambda api: api.upsert_model_version_artifact(artifact, raw.id))
        except (Conflict, RetryableError):  # our own earlier attempt, its answer lost: some servers say 500 to a second
            if self._artifact(raw) is None:
                raise

    def _write_state(
        self, version: ModelVersion, state: State, extra: Mapping[str, Property] | None = None
    ) -> ModelVersion:
        from mr_openapi import ModelVersionState

        raw = self._client.call(lambda api: api.get_model_version_by_id(version.version_id))
        if raw is None:
            raise InvalidInput(f"{version.name} {version.version} is gone from the registry")
        kept = dict(raw.custom_properties or {})
        if state is not version.state:
            kept |= {names.STATE: state.value, names.STATE_SINCE: self._clock.now().isoformat()}
        if state is State.SERVING:
            kept = {k: v for k, v in kept.items() if k not in (names.ROLLBACK_HOLDER, names.ROLLBACK_REASON)}
        raw.custom_properties = {**kept, **(extra or {})}
        raw.state = ModelVersionState.ARCHIVED if state is State.ARCHIVED else ModelVersionState.LIVE
        self._client.call(lambda api: api.upsert_model_version(raw))
        log.info("state changed", extra={"model": version.name, "version": version.version, "state": state.value})
        return self.get(version.name, version.version)

    def _raw_versions(self, model_id: str) -> list[Any]:
        from model_registry.types import ListOptions

        options = ListOptions(limit=_PAGE)
        found: list[Any] = []
        while True:
            found += self._client.call(lambda api: api.get_model_versions(model_id, options))
            if not options.next_page_token:
                return found

    def _find_by_package(self, model_id: str, sha256: str) -> Any | None:
        matching: Sequence[Any] = self._raw_versions(model_id)
        return next((v for v in matching if (v.custom_properties or {}).get(names.PACKAGE) == sha256), None)

    def _artifact(self, raw: Any) -> Any | None:
        artifacts = self._client.call(lambda api: api.get_model_artifacts(raw.id))
        return artifacts[0] if artifacts else None


def _version(name: str, raw: Any, artifact: Any) -> ModelVersion:
    properties = dict(raw.custom_properties or {})
    state = str(properties.get(names.STATE, State.CANDIDATE.value))
    since = properties.get(names.STATE_SINCE)
    lineage = None
    if artifact.model_source_id:
        lineage = Lineage(
            run_id=artifact.model_source_id,
            run_name=artifact.model_source_name or "",
            group=artifact.model_source_group or "",
        )
    return ModelVersion(
        name=name,
        version=raw.name,
        state=State(state) if state in set(State) else State.CANDIDATE,
        state_since=datetime.fromisoformat(str(since)) if since else _EPOCH,
        uri=artifact.uri,
        package_sha256=str(properties.get(names.PACKAGE, "")),
        contract_sha256=str(properties.get(names.CONTRACT, "")),
        registered_model_id=str(raw.registered_model_id),
        version_id=str(raw.id),
        lineage=lineage,
        properties=properties,
    )


def _checked(properties: Mapping[str, Property]) -> dict[str, Property]:
    """Refuse what the registry cannot hold, before anything is written."""
    for key, value in properties.items():
        if key in names.RESERVED:
            raise InvalidInput(f"property {key!r} is set by the registry itself; choose another name")
        if not isinstance(value, bool | int | float | str):
            raise InvalidInput(f"property {key!r} must be a bool, int, float or str, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"property {key!r} is {value}; leave it out, JSON has no such number")
    return dict(properties)
