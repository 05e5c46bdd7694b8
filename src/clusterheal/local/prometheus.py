"""A real Prometheus server for one machine: configuration, rules, start."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clusterheal.errors import PermanentError
from clusterheal.local.processes import Child, ChildSpec
from clusterheal.local.supervisor import Supervisor, http_ready

SCRAPE_SECONDS = 1
RULES = Path(__file__).with_name("prometheus_rules.yml")
INSTALL = "apt-get install prometheus prometheus-alertmanager"


@dataclass(frozen=True, kw_only=True)
class PrometheusSpec:
    """Where the server keeps its data and with whom it talks. Ports are on 127.0.0.1.

    `jobs` are our own processes by job name, scraped as in a cluster: with `labels`, the namespace among them.
    `rules` are rule files beside the local platform's own.
    """

    folder: Path
    port: int
    exporter_port: int
    alertmanager_port: int | None
    step_seconds: int
    jobs: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Path, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.folder / "data"


def require_binaries(*names: str) -> None:
    """Refuse to start when a program is not on PATH.

    Raises:
        PermanentError: naming the programs and how to install them.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise PermanentError(f"{', '.join(missing)} not found on PATH; install with: {INSTALL}")


def configuration(spec: PrometheusSpec) -> dict[str, Any]:
    """`prometheus.yml`: the world, whose own labels win, so that live samples continue the history; and our jobs."""
    config: dict[str, Any] = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
        },
        "rule_files": [str(path.resolve()) for path in (spec.folder / "rules.yml", *spec.rules)],
        "scrape_configs": [
            {
                "job_name": "world",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{spec.exporter_port}"]}],
                "metric_relabel_configs": [
                    {"regex": "job", "action": "labeldrop"},
                    {
                        "source_labels": ["instance"],
                        "regex": f"127\\.0\\.0\\.1:{spec.exporter_port}",
                        "target_label": "instance",
                        "replacement": "",
                    },
                ],
            },
            *(
                {
                    "job_name": job,
                    "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": dict(spec.labels)}],
                }
                for job, port in spec.jobs.items()
            ),
        ],
    }
    if spec.alertmanager_port is not None:
        targets = [f"127.0.0.1:{spec.alertmanager_port}"]
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": targets}]}]}
    return config


def write_configuration(spec: PrometheusSpec) -> None:
    """Write `prometheus.yml` and `rules.yml` into the server's folder."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    (spec.folder / "rules.yml").write_text(RULES.read_text())
    (spec.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(spec), sort_keys=False))


async def start_prometheus(supervisor: Supervisor, spec: PrometheusSpec) -> Child:
    """Start the server over whatever blocks are in its data folder, and wait until it answers.

    Raises:
        ChildDied, PermanentError: it ended or did not become ready; the message has its last log lines.
    """
    require_binaries("prometheus")
    write_configuration(spec)
    look_back = max(300, spec.step_seconds + 60)
    child = ChildSpec(
        name="prometheus",
        argv=(
            "prometheus",
            f"--config.file={(spec.folder / 'prometheus.yml').resolve()}",
            f"--storage.tsdb.path={spec.data.resolve()}",
            "--storage.tsdb.retention.time=5y",
            f"--web.listen-address=127.0.0.1:{spec.port}",
            f"--query.lookback-delta={look_back}s",
            "--log.level=warn",
        ),
    )
    return await supervisor.start(child, ready=lambda: http_ready(f"{spec.url}/-/ready"), timeout_seconds=60)


__all__ = [
    "RULES",
    "PrometheusSpec",
    "configuration",
    "require_binaries",
    "start_prometheus",
    "write_configuration",
]
