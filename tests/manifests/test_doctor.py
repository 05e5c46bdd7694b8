"""The doctor finds nothing in our own manifests that is not exempted with a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.manifests.rendering import MANIFESTS, OVERLAYS, PLATFORMS, Variants

pytestmark = pytest.mark.manifests


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_our_manifests_are_healthy(variants: Variants, name: str, platform: str) -> None:
    folder = variants.folder(name, platform, ())
    command = [sys.executable, "-m", "clusterheal.cli", "doctor", str(folder), "--platform", platform]
    options = ["--fail-on", "warning"]
    if platform != "vanilla-kubernetes":  # the exemptions are about OpenShift AI, and one without effect is an error
        options += ["--exemptions", str(MANIFESTS / "exceptions.yaml")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 error, 0 warning" in done.stdout
