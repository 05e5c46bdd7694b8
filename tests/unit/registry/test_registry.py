"""Registering, resolving and moving versions, over HTTP, with the registry failing in every place it can."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterheal.contracts import DETECTOR, ModelPackage
from clusterheal.errors import InvalidInput, PackageInvalid, PermanentError, RetryableError
from clusterheal.registry import Lineage, Registry, State
from clusterheal.settings import RegistrySettings
from tests.unit.registry.conftest import Faults

Make = Callable[..., ModelPackage]


def test_a_registered_package_is_found_again_with_all_it_carries(registry: Registry, make_package: Make) -> None:
    package = make_package()
    lineage = Lineage(run_id="run-1", run_name="train", group="shp")
    made = registry.register(
        package, properties={"git_commit": "abc", "mase": 0.5, "n": 3, "ok": True}, lineage=lineage
    )
    again = registry.get(DETECTOR, "v000001")
    assert again == made
    assert again.state is State.CANDIDATE
    assert again.lineage == lineage
    assert again.package_sha256 == package.sha256
    assert again.contract_sha256 == package.contract.sha256
    assert {k: again.properties[k] for k in ("git_commit", "mase", "n", "ok")} == {
        "git_commit": "abc",
        "mase": 0.5,
        "n": 3,
        "ok": True,
    }
    assert again.uri.endswith("/anomaly-detector/v000001/")
    assert ModelPackage.load(again.path).sha256 == package.sha256


def test_versions_count_up_zero_padded(registry: Registry, make_package: Make) -> None:
    assert [registry.register(make_package(c)).version for c in "abc"] == ["v000001", "v000002", "v000003"]
    assert [v.version for v in registry.versions(DETECTOR)] == ["v000001", "v000002", "v000003"]


def test_registering_the_same_package_twice_makes_one_version(registry: Registry, make_package: Make) -> None:
    package = make_package()
    assert registry.register(package) == registry.register(package)
    assert len(registry.versions(DETECTOR)) == 1


def test_stored_files_are_read_only(registry: Registry, make_package: Make) -> None:
    path = registry.register(make_package()).path
    assert {p.stat().st_mode & 0o222 for p in path.iterdir()} == {0}


def test_a_changed_stored_file_is_noticed(registry: Registry, make_package: Make, tmp_path: Path) -> None:
    version = registry.register(make_package())
    model = version.path / "model.onnx"
    model.chmod(0o644)
    model.write_text("other")
    with pytest.raises(PackageInvalid, match=r"model\.onnx"):
        registry.fetch(version, tmp_path / "fetched")


def test_another_package_in_the_place_of_a_registered_one_is_noticed(
    registry: Registry, make_package: Make, tmp_path: Path
) -> None:
    version = registry.register(make_package("a"))
    shutil.rmtree(version.path)
    shutil.copytree(make_package("b").path, version.path)
    with pytest.raises(PermanentError, match="immutable"):
        registry.fetch(version, tmp_path / "fetched")


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", "/registered_model"),
        ("POST", "/registered_models"),
        ("GET", "/versions"),
        ("POST", "/model_versions"),
        ("GET", "/artifacts"),
        ("POST", "/artifacts"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_one_500_in_any_place_is_survived(
    registry: Registry, make_package: Make, faults: Faults, method: str, suffix: str, after: bool
) -> None:
    faults.plan(method, suffix, 500, after=after)
    assert registry.register(make_package()).version == "v000001"
    assert len(registry.versions(DETECTOR)) == 1


@pytest.mark.parametrize("suffix", ["/registered_models", "/model_versions", "/artifacts"])
@pytest.mark.parametrize("after", [False, True])
def test_a_registration_that_failed_half_way_is_completed_by_the_next(
    registry: Registry, make_package: Make, faults: Faults, suffix: str, after: bool
) -> None:
    package = make_package()
    faults.plan("POST", suffix, 503, times=2, after=after)
    with contextlib.suppress(RetryableError):  # after=True: applied at once, so the second try may find it done
        registry.register(package)
    faults.planned.clear()
    assert registry.register(package).version == "v000001"
    assert [v.version for v in registry.versions(DETECTOR)] == ["v000001"]
    assert len(list((registry.versions(DETECTOR)[0].path.parent).iterdir())) == 1


def test_an_artifact_that_a_server_refuses_twice_with_500_is_found(
    registry: Registry, make_package: Make, faults: Faults
) -> None:
    """Older servers have no 409 for an artifact's name: the repeat of a lost answer is a 500, again and again."""
    faults.plan("POST", "/artifacts", 500, after=True)
    faults.plan("POST", "/artifacts", 500)
    assert registry.register(make_package()).version == "v000001"


def test_a_half_finished_version_is_not_offered(registry: Registry, make_package: Make, faults: Faults) -> None:
    faults.plan("POST", "/artifacts", 500, times=2)
    with pytest.raises(RetryableError):
        registry.register(make_package())
    assert registry.versions(DETECTOR) == []
    with pytest.raises(InvalidInput, match="no complete version"):
        registry.get(DETECTOR, "v000001")


def test_nothing_is_stored_when_the_registry_refuses_the_version(
    registry: Registry, make_package: Make, faults: Faults, settings: RegistrySettings
) -> None:
    faults.plan("POST", "/model_versions", 403)
    with pytest.raises(PermanentError, match="403"):
        registry.register(make_package())
    assert list(Path(settings.storage, DETECTOR).iterdir()) == []


def test_a_number_that_somebody_else_claims_meanwhile_is_skipped(
    registry: Registry, make_package: Make, faults: Faults, settings: RegistrySettings
) -> None:
    registry.register(make_package("a"))
    faults.plan("POST", "/model_versions", 409)
    assert registry.register(make_package("b")).version == "v000003"
    assert sorted(p.name for p in Path(settings.storage, DETECTOR).iterdir()) == ["v000001", "v000003"]


def test_a_full_disk_leaves_nothing_behind(
    registry: Registry,
    make_package: Make,
    faults: Faults,
    settings: RegistrySettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, copied = shutil.copyfile, []

    def full_after_two(source: Any, target: Any) -> Any:
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(target)
        return real(source, target)

    monkeypatch.setattr("clusterheal.registry.storage.shutil.copyfile", full_after_two)
    with pytest.raises(PermanentError, match="no space left"):
        registry.register(make_package())
    assert list(Path(settings.storage, DETECTOR).iterdir()) == []
    assert not [call for call in faults.seen if call.startswith("POST") and call.endswith("model_versions")]


def test_serving_moves_the_one_before_to_previous(registry: Registry, make_package: Make) -> None:
    for content in "abc":
        registry.register(make_package(content))
    for version in ("v000001", "v000002", "v000003"):
        registry.set_state(DETECTOR, version, State.SERVING)
    current, previous = registry.current(DETECTOR), registry.previous(DETECTOR)
    assert (current and current.version, previous and previous.version) == ("v000003", "v000002")


def test_going_back_makes_the_old_version_current_again(registry: Registry, make_package: Make) -> None:
    for content in "ab":
        registry.register(make_package(content))
    for version in ("v000001", "v000002", "v000001"):
        registry.set_state(DETECTOR, version, State.SERVING)
    current, previous = registry.current(DETECTOR), registry.previous(DETECTOR)
    assert (current and current.version, previous and previous.version) == ("v000001", "v000002")


def test_a_promotion_cut_off_in_the_middle_still_has_one_answer(
    registry: Registry, make_package: Make, faults: Faults
) -> None:
    first, second = (registry.register(make_package(content)) for content in "ab")
    registry.set_state(DETECTOR, first.version, State.SERVING)
    faults.plan("PATCH", f"/{first.version_id}", 500, times=2)
    with pytest.raises(RetryableError):
        registry.set_state(DETECTOR, second.version, State.SERVING)
    current = registry.current(DETECTOR)
    assert current is not None
    assert current.version == second.version
    registry.set_state(DETECTOR, second.version, State.SERVING)
    assert registry.get(DETECTOR, first.version).state is State.PREVIOUS


@pytest.mark.parametrize("state", [State.REJECTED, State.ARCHIVED])
def test_what_was_refused_cannot_be_served(registry: Registry, make_package: Make, state: State) -> None:
    version = registry.register(make_package(), state=state)
    with pytest.raises(InvalidInput, match=f"is {state.value}"):
        registry.set_state(DETECTOR, version.version, State.SERVING)
    assert registry.current(DETECTOR) is None


def test_state_changes_keep_the_other_properties(registry: Registry, make_package: Make) -> None:
    version = registry.register(make_package(), properties={"git_commit": "abc"})
    changed = registry.set_state(DETECTOR, version.version, State.SERVING)
    assert changed.properties["git_commit"] == "abc"
    assert changed.package_sha256 == version.package_sha256


def test_why_a_rollout_took_a_version_back_is_kept_until_it_is_served(registry: Registry, make_package: Make) -> None:
    version = registry.register(make_package()).version
    registry.set_state(DETECTOR, version, State.SHADOW)
    noted = {"rollback_holder": "run-1", "rollback_reason": "worse in shadow"}
    back = registry.set_state(DETECTOR, version, State.CANDIDATE, properties=noted)
    assert {key: back.properties[key] for key in noted} == noted
    again = registry.set_state(DETECTOR, version, State.CANDIDATE, properties={**noted, "rollback_holder": "run-2"})
    assert again.properties["rollback_holder"] == "run-2"
    assert again.state_since == back.state_since
    served = registry.set_state(DETECTOR, version, State.SERVING)
    assert not set(noted) & set(served.properties)


@pytest.mark.parametrize(
    "properties", [{"state": "serving"}, {"mase": float("nan")}, {"mase": float("inf")}, {"list": [1]}, {"none": None}]
)
def test_properties_that_cannot_be_kept_are_refused_before_anything_is_written(
    registry: Registry, make_package: Make, faults: Faults, properties: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match="property"):
        registry.register(make_package(), properties=properties)
    assert faults.seen == []


def test_it_works_inside_a_running_event_loop(registry: Registry, make_package: Make) -> None:
    async def inside() -> str:
        return registry.register(make_package()).version

    assert asyncio.run(inside()) == "v000001"


def test_many_versions_are_paged(registry: Registry, make_package: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterheal.registry.registry._PAGE", 2)
    for content in "abcde":
        registry.register(make_package(content))
    assert len(registry.versions(DETECTOR)) == 5


def test_an_unreachable_registry_is_named(make_package: Make, tmp_path: Path) -> None:
    settings = RegistrySettings.model_validate({"url": "http://127.0.0.1:9", "attempts": 1, "storage": str(tmp_path)})
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:9"):
        Registry(settings).register(make_package())


def test_https_without_a_token_says_what_to_set(make_package: Make, tmp_path: Path) -> None:
    settings = RegistrySettings.model_validate({"url": "https://127.0.0.1:9", "storage": str(tmp_path)})
    with pytest.raises(InvalidInput, match="token_file"):
        Registry(settings).register(make_package())


def test_an_unknown_storage_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="ftp"):
        Registry(RegistrySettings.model_validate({"url": url, "storage": "ftp://somewhere/models"}))
