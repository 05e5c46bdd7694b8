"""Each stage as a command of its own: what it takes, what it leaves, and how it refuses."""

from __future__ import annotations

import http.server
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from clusterheal_models.serving.toy import toy_detector
from demo_kit import require_complaint

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, ModelPackage, default_window
from clusterheal.local.prometheus_backfill import BackfillConfig, backfill
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.parts import Extent, Part
from clusterheal.metrics.storage import Storage

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.real_prometheus import RealPrometheus  # noqa: E402

pytestmark = [pytest.mark.local, pytest.mark.timeout(280)]
STAGES = ("collect", "train", "register", "serve", "rollout", "engine", "report", "demo")
DAYS = 2.0


def clusterheal(
    *arguments: str, env: dict[str, str] | None = None, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterheal.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, **(env or {})},
        preexec_fn=limit,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_s_help_has_an_example_that_uses_its_own_options(stage: str) -> None:
    shown = " ".join(clusterheal(stage, "--help", env={"COLUMNS": "200"}).stdout.split())
    example = shown.split(f"Example: clusterheal {stage}", 1)[1].split("╭", 1)[0]
    used = {word for word in example.split() if word.startswith("--")}
    listed = shown.split("Options", 1)[1]
    assert used
    assert all(option in listed for option in used), used


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """Settings in a TOML file, and what `collect` said with them and a real Prometheus."""
    folder = tmp_path_factory.mktemp("stages")
    end = int(time.time()) // 60 * 60
    backfill(BackfillConfig(folder=str(folder / "prometheus"), start=end - round(DAYS * 86_400), end=end))
    settings = folder / "settings.toml"
    with RealPrometheus(folder / "prometheus") as server:
        settings.write_text(
            f'[prometheus]\nurl = "{server.url}"\n[dataset]\npath = "{folder / "dataset"}"\ndays = {DAYS}\n'
            f'[registry]\nurl = "http://127.0.0.1:1"\nstorage = "{folder / "models"}"\n'
        )
        yield settings, clusterheal("collect", "--config", str(settings))


def test_collect_takes_its_settings_from_a_file(collected: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    settings, done = collected
    assert done.returncode == 0, done.stderr
    assert f"{settings.parent / 'dataset'}: " in done.stdout
    assert "coverage" in done.stdout
    assert (settings.parent / "dataset" / "_contract.json").is_file()


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    collected: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    settings, _ = collected
    env = {"CLUSTERHEAL_PROMETHEUS__URL": "http://127.0.0.1:2"}
    given = ("collect", "--config", str(settings), "--dataset", str(tmp_path / "dataset"))
    assert "http://127.0.0.1:2/: cannot connect" in clusterheal(*given, env=env).stderr
    flagged = clusterheal(*given, "--prometheus-url", "http://127.0.0.1:3", env=env)
    assert "http://127.0.0.1:3/: cannot connect" in require_complaint(flagged.returncode, flagged.stderr)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of four nodes every five minutes, as `collect` would have written them."""
    path = tmp_path_factory.mktemp("dataset")
    step, per_day = timedelta(minutes=5), 288
    names = ("f0", "f1")
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(FeatureSpec(name=name, promql=name, unit="1", entity_kind="node") for name in names),
        step=step,
        window=default_window(step),
    )
    stored = Dataset.create(Storage.open(path), contract)
    rng = np.random.default_rng(5)
    season = np.sin(2 * np.pi * np.arange(per_day) / per_day)
    for day in range(6):
        values = (3 + season + rng.normal(0, 0.1, (len(names), 4, per_day))).astype(np.float32)
        start = 1_767_571_200_000 + day * 86_400_000
        extent = Extent(start_ms=start, end_ms=start + 86_400_000, kind="node")
        stored.write(Part(extent=extent, entities=tuple(f"node/worker-{i}" for i in range(4)), values=values))
    return path


def test_the_same_data_and_seed_train_the_same_models(dataset: Path, tmp_path: Path) -> None:
    made: list[dict[str, str]] = []
    for name in ("once", "again"):
        done = clusterheal("train", "--dataset", str(dataset), "--out", str(tmp_path / name))
        assert "Traceback" not in done.stderr
        assert "training: anomaly-detector ..." in done.stderr
        packages = [ModelPackage.load(tmp_path / name / m) for m in ("anomaly-detector", "predictive-analytics")]
        made.append({package.name: package.sha256 for package in packages})
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("most_kib", "complaint"),
    [(32, "dataset/panel.npy: no room for 0.1 MiB"), (96, "File too large; free space, or write to another folder")],
)
def test_a_full_disk_while_dataset_or_model_is_written_leaves_nothing(
    dataset: Path, tmp_path: Path, most_kib: int, complaint: str
) -> None:
    out = tmp_path / "out"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_kib * 1024, most_kib * 1024))

    done = clusterheal("train", "--dataset", str(dataset), "--out", str(out), limit=small_files)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("clusterheal: ")
    assert complaint in last
    assert "free space" in last
    assert list(out.iterdir()) == []


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    step = timedelta(minutes=5)
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=(FeatureSpec(name="load", promql="node_load1", unit="1", entity_kind="node"),),
        step=step,
        window=default_window(step),
    )
    return toy_detector(tmp_path / "package", contract)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A registry that answers everything with one status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"code": str(status), "message": "not today"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [409, 500])
def test_a_registry_that_refuses_is_named_and_nothing_is_stored(
    package: ModelPackage, tmp_path: Path, status: int
) -> None:
    storage = tmp_path / "models"
    with answering(status) as url:
        given = ("--registry-url", url, "--storage", str(storage), "--package", str(package.path))
        done = clusterheal("register", *given)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("clusterheal: ")
    assert url in last
    assert str(status) in last
    assert not [path for path in storage.rglob("*") if path.is_file()]


def change_contract(package: ModelPackage) -> None:
    path = package.path / "contract.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("node_load1", "node_load5"))


def change_hash(package: ModelPackage) -> None:
    path = package.path / "manifest.json"
    path.chmod(0o644)
    text = path.read_text()
    assert package.contract.sha256 in text
    path.write_text(text.replace(package.contract.sha256, "0" * 64))


@pytest.mark.parametrize("command", ["register", "serve"])
@pytest.mark.parametrize("change", [change_contract, change_hash])
def test_a_package_whose_contract_or_its_hash_was_changed_is_refused(
    package: ModelPackage, change: Callable[[ModelPackage], None], command: str
) -> None:
    change(package)
    done = clusterheal(command, "--package", str(package.path))
    assert "contract.json: content differs from the manifest" in require_complaint(done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "--out", "nowhere"), "nowhere/run.json not found"),
        (("rollout", "--name", "anomaly-detector", "--strategy", "wild"), "'auto', 'shadow', 'canary' or 'direct'"),
        (("engine", "--interval", "0"), "engine.interval: Input should be greater than"),
        (("engine", "--mode", "bold"), "engine.mode"),
        (("serve", "--package", "nowhere"), "does not exist"),
        (("train", "--dataset", "nowhere"), "run `clusterheal collect` first"),
        (("collect", "--days", "-3"), "dataset.days: Input should be greater than 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = clusterheal(*arguments, env={"COLUMNS": "200"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert told in done.stderr
