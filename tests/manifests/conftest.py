"""One rendering of every variant for all the tests here."""

from __future__ import annotations

import os

import pytest

from tests.manifests.rendering import OVERLAYS, PLATFORMS, Manifest, Variants, copy_of_manifests


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    base = tmp_path_factory.getbasetemp()
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "rendered"
    kept.mkdir(exist_ok=True)
    return Variants(copy_of_manifests(tmp_path_factory.mktemp("manifests")), kept)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, variants: Variants) -> tuple[str, list[Manifest]]:
    """An overlay as it stands."""
    return request.param, variants(request.param)


@pytest.fixture(params=[f"{o}/{p}" for o in OVERLAYS for p in PLATFORMS])
def variant(request: pytest.FixtureRequest, variants: Variants) -> tuple[str, list[Manifest]]:
    """An overlay on each platform, with its own options."""
    name, platform = request.param.split("/")
    return request.param, variants(name, platform)
