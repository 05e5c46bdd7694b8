"""Random operations on the emulator against a dictionary that knows the rules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clusterheal.kube.ports import ApiError, Manifest, PatchType
from clusterheal.kube.resources import CONFIG_MAPS
from clusterheal.local.kube.api import Query, WriteRequest
from clusterheal.local.kube.emulator import Emulator

NAMES = st.sampled_from(["a", "b", "c"])
MANAGERS = st.sampled_from(["one", "two"])
DATA = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), max_size=2)
WRITE = WriteRequest(manager="model")


class FixedClock:
    """Stands still: timestamps must not be what tells two writes apart."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


class StoreMachine(RuleBasedStateMachine):
    """`expected` is what should be stored: name -> (resourceVersion, data, finalizers, deleting)."""

    @initialize()
    def start(self) -> None:
        self.emulator = Emulator(clock=FixedClock(), seed=3, platform_types=False)
        self.api = self.emulator.api
        self.kind = self.api.kind(CONFIG_MAPS)
        self.expected: dict[str, Manifest] = {}
        self.stale: dict[str, str] = {}
        self.watcher = self.api.watch(self.kind, Query(resource_version=str(self.api.store.revision)))
        self.replica: dict[str, Manifest] = {}
        self.highest = self.api.store.revision

    def teardown(self) -> None:
        if hasattr(self, "watcher"):
            self.watcher.close()

    def _expect(self, status: int, operation: Any) -> None:
        before = self.api.store.revision
        with pytest.raises(ApiError) as refused:
            operation()
        assert refused.value.status == status
        assert self.api.store.revision == before

    def _remember(self, obj: Manifest) -> None:
        name = obj["metadata"]["name"]
        if name in self.expected:
            self.stale[name] = self.expected[name]["metadata"]["resourceVersion"]
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.expected.pop(name, None)
        else:
            self.expected[name] = obj

    @rule(name=NAMES, data=DATA, held=st.booleans(), dry_run=st.booleans())
    def create(self, name: str, data: dict[str, str], held: bool, dry_run: bool) -> None:
        metadata: Manifest = {"name": name}
        if held:
            metadata["finalizers"] = ["clusterheal.io/hold"]
        request = WriteRequest(manager="model", dry_run=dry_run)

        def operation() -> Manifest:
            return self.api.create(self.kind, "default", {"metadata": metadata, "data": data}, request)

        if name in self.expected:
            self._expect(409, operation)
            return
        made = operation()
        if not dry_run:
            self._remember(made)

    @rule(name=NAMES, data=DATA)
    def update(self, name: str, data: dict[str, str]) -> None:
        if name not in self.expected:
            body = {"metadata": {"name": name}, "data": data}
            self._expect(404, lambda: self.api.update(self.kind, "default", name, body, WRITE))
            return
        body = {**self.expected[name], "data": data}
        updated = self.api.update(self.kind, "default", name, body, WRITE)
        unchanged = self.expected[name].get("data") == data
        same = updated["metadata"]["resourceVersion"] == self.expected[name]["metadata"]["resourceVersion"]
        assert same == unchanged
        if not unchanged:
            self._remember(updated)

    @precondition(lambda self: any(n in self.expected for n in self.stale))
    @rule(data=DATA)
    def stale_update_is_refused(self, data: dict[str, str]) -> None:
        name = next(n for n in sorted(self.stale) if n in self.expected)
        metadata = {**self.expected[name]["metadata"], "resourceVersion": self.stale[name]}
        body = {**self.expected[name], "metadata": metadata, "data": data}
        self._expect(409, lambda: self.api.update(self.kind, "default", name, body, WRITE))

    @rule(name=NAMES, key=st.sampled_from(["x", "y"]), value=st.sampled_from([None, "1", "2"]), dry_run=st.booleans())
    def merge(self, name: str, key: str, value: str | None, dry_run: bool) -> None:
        request = WriteRequest(manager="model", dry_run=dry_run)

        def operation() -> Manifest:
            return self.api.patch(self.kind, "default", name, {"data": {key: value}}, PatchType.MERGE, request)

        if name not in self.expected:
            self._expect(404, operation)
            return
        patched = operation()
        wanted = {k: v for k, v in {**(self.expected[name].get("data") or {}), key: value}.items() if v is not None}
        assert (patched.get("data") or {}) == wanted
        if not dry_run and patched["metadata"]["resourceVersion"] != self.expected[name]["metadata"]["resourceVersion"]:
            self._remember(patched)

    def _conflicts(self, name: str, manager: str, data: dict[str, str]) -> bool:
        """Whether an apply would change a key that somebody else owns."""
        live = self.expected.get(name)
        if live is None:
            return False
        others = [e for e in live["metadata"].get("managedFields") or () if self._is_other(e, manager)]
        changed = [k for k, v in data.items() if (live.get("data") or {}).get(k) != v]
        return any(f"f:{k}" in e["fieldsV1"].get("f:data", {}) for k in changed for e in others)

    @staticmethod
    def _is_other(entry: Manifest, manager: str) -> bool:
        return (entry["manager"], entry["operation"]) != (manager, "Apply")

    @rule(name=NAMES, manager=MANAGERS, data=DATA, force=st.booleans())
    def apply(self, name: str, manager: str, data: dict[str, str], force: bool) -> None:
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        request = WriteRequest(manager=manager, force=force)
        if not force and self._conflicts(name, manager, data):
            self._expect(409, lambda: self.api.patch(self.kind, "default", name, config, PatchType.APPLY, request))
            return
        applied = self.api.patch(self.kind, "default", name, config, PatchType.APPLY, request)
        for key, value in data.items():
            assert applied["data"][key] == value
        before = self.expected.get(name)
        if before is None or before["metadata"]["resourceVersion"] != applied["metadata"]["resourceVersion"]:
            self._remember(applied)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name not in self.expected:
            self._expect(404, lambda: self.api.delete(self.kind, "default", name))
            return
        held = bool(self.expected[name]["metadata"].get("finalizers"))
        self.api.delete(self.kind, "default", name)
        if not held:
            self.expected.pop(name)
        elif not self.expected[name]["metadata"].get("deletionTimestamp"):
            self._remember(self.api.get(self.kind, "default", name))

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        if name in self.expected and self.expected[name]["metadata"].get("finalizers"):
            patch = {"metadata": {"finalizers": None}}
            self._remember(self.api.patch(self.kind, "default", name, patch, PatchType.MERGE, WRITE))

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "api"):
            return
        listed = self.api.list(self.kind, Query(namespace="default"))
        assert {o["metadata"]["name"]: o for o in listed["items"]} == self.expected

    @invariant()
    def a_watcher_arrives_at_the_same_state_in_order(self) -> None:
        if not hasattr(self, "api"):
            return
        for event in self.watcher.take():
            version = int(event.object["metadata"]["resourceVersion"])
            assert version > self.highest
            self.highest = version
            name = event.object["metadata"]["name"]
            assert (event.type == "ADDED") == (name not in self.replica)
            if event.type == "DELETED":
                del self.replica[name]
            else:
                self.replica[name] = event.object
        assert self.replica == self.expected

    @invariant()
    def owners_name_only_fields_that_exist(self) -> None:
        for obj in getattr(self, "expected", {}).values():
            for entry in obj["metadata"].get("managedFields") or ():
                owned = {f.removeprefix("f:") for f in entry["fieldsV1"].get("f:data", {}) if f != "."}
                assert owned <= set(obj.get("data") or {})


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
