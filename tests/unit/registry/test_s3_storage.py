"""Packages in an object store: a folder without a manifest is no package, and numbers are never reused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clusterheal.contracts import DETECTOR, ModelPackage
from clusterheal.errors import PackageInvalid, PermanentError, RetryableError
from clusterheal.registry import Registry, State
from clusterheal.registry.storage import S3Store, Stored
from clusterheal.settings import RegistrySettings

Make = Callable[..., ModelPackage]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3

    for key, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    made = boto3.resource("s3", endpoint_url=endpoint).Bucket("models")
    made.create()
    yield made
    made.objects.all().delete()
    made.delete()


@pytest.fixture
def store(bucket: Any, endpoint: str) -> S3Store:
    return S3Store("s3://models/store", endpoint=endpoint)


def put(store: S3Store, package: ModelPackage) -> Stored:
    """As the registry does it when nobody else wants the version."""
    return store.put_at(package, store.put(package, at_least=1).version)


def keys(bucket: Any) -> list[str]:
    return sorted(o.key for o in bucket.objects.all() if not o.key.endswith("/"))


def test_a_package_comes_back_whole(store: S3Store, make_package: Make, tmp_path: Path) -> None:
    package = make_package()
    stored = put(store, package)
    assert stored.uri == f"s3://models/store/{DETECTOR}/v000001/"
    assert store.fetch(stored.uri, tmp_path / "fetched").sha256 == package.sha256


def test_the_same_package_is_stored_once_and_another_under_the_next_number(store: S3Store, make_package: Make) -> None:
    first, second = make_package("a"), make_package("b")
    assert [put(store, p).version for p in (first, first, second)] == ["v000001", "v000001", "v000002"]


def test_a_folder_without_a_manifest_is_skipped_and_refused(
    store: S3Store, bucket: Any, make_package: Make, tmp_path: Path
) -> None:
    bucket.put_object(Key=f"store/{DETECTOR}/v000001/model.onnx", Body=b"half")
    assert store.put(make_package(), at_least=1).version == "v000002"
    with pytest.raises(PermanentError, match="lacks a file"):
        store.fetch(f"s3://models/store/{DETECTOR}/v000001/", tmp_path / "fetched")


def test_an_upload_that_was_cut_off_is_completed_in_its_place(
    store: S3Store, bucket: Any, make_package: Make, tmp_path: Path
) -> None:
    package = make_package()
    stored = put(store, package)
    bucket.Object(f"store/{DETECTOR}/v000001/manifest.json").delete()
    again = store.put_at(package, "v000001")
    assert again.uri == stored.uri
    assert store.fetch(again.uri, tmp_path / "fetched").sha256 == package.sha256


def test_another_package_is_never_overwritten(store: S3Store, make_package: Make) -> None:
    put(store, make_package("a"))
    with pytest.raises(PermanentError, match="another package"):
        store.put_at(make_package("b"), "v000001")


def test_a_changed_object_is_noticed(store: S3Store, bucket: Any, make_package: Make, tmp_path: Path) -> None:
    stored = put(store, make_package())
    bucket.put_object(Key=f"store/{DETECTOR}/v000001/model.onnx", Body=b"other")
    with pytest.raises(PackageInvalid, match=r"model\.onnx"):
        store.fetch(stored.uri, tmp_path / "fetched")


def test_removing_takes_all_of_a_version_and_no_other(store: S3Store, bucket: Any, make_package: Make) -> None:
    for content in "ab":
        put(store, make_package(content))
    store.remove(DETECTOR, "v000001")
    assert {key.split("/")[2] for key in keys(bucket)} == {"v000002"}


def test_a_store_that_does_not_exist_is_an_error_not_an_empty_one(
    bucket: Any, endpoint: str, make_package: Make
) -> None:
    with pytest.raises(RetryableError, match="absent"):
        put(S3Store("s3://absent/store", endpoint=endpoint), make_package())


def test_the_registry_serves_packages_from_s3(
    url: str, bucket: Any, endpoint: str, make_package: Make, tmp_path: Path
) -> None:
    settings = {"url": url, "storage": "s3://models/store", "storage_endpoint": endpoint}
    registry = Registry(RegistrySettings.model_validate(settings))
    package = make_package()
    version = registry.register(package)
    registry.set_state(DETECTOR, version.version, State.SERVING)
    current = registry.current(DETECTOR)
    assert current is not None
    assert current.uri == f"s3://models/store/{DETECTOR}/v000001/"
    assert registry.fetch(current, tmp_path / "fetched").sha256 == package.sha256


def test_two_writers_at_the_same_moment_get_a_version_each(
    url: str, bucket: Any, endpoint: str, make_package: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked which number is free before either of them claims it."""
    settings = {"url": url, "storage": "s3://models/store", "storage_endpoint": endpoint}
    both_looked = threading.Barrier(2, timeout=30)
    real = S3Store.put
    looks = itertools.count()

    def put_together(self: S3Store, package: ModelPackage, *, at_least: int) -> Stored:
        found = real(self, package, at_least=at_least)
        if next(looks) < 2:
            both_looked.wait()
        return found

    monkeypatch.setattr(S3Store, "put", put_together)
    packages = [make_package(content) for content in "ab"]
    registries = [Registry(RegistrySettings.model_validate(settings)) for _ in packages]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda pair: pair[0].register(pair[1]), zip(registries, packages, strict=True)))
    assert {version.version for version in made} == {"v000001", "v000002"}
    for package, version in zip(packages, made, strict=True):
        assert registries[0].fetch(version, tmp_path / version.version).sha256 == package.sha256


def test_a_store_that_fails_after_the_claim_is_completed_by_the_next_call(
    url: str, bucket: Any, endpoint: str, make_package: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"url": url, "storage": "s3://models/store", "storage_endpoint": endpoint}
    registry = Registry(RegistrySettings.model_validate(settings))
    package = make_package()

    def down(self: S3Store, package: ModelPackage, version: str) -> Stored:
        raise RetryableError("the store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(S3Store, "put_at", down)
        with pytest.raises(RetryableError, match="does not answer"):
            registry.register(package)
    assert registry.versions(DETECTOR) == []
    other = registry.register(make_package("other"))
    assert (registry.register(package).version, other.version) == ("v000001", "v000002")
    assert registry.fetch(registry.get(DETECTOR, "v000001"), tmp_path / "fetched").sha256 == package.sha256
