"""A real Alertmanager for one machine, which posts to the engine's webhook with a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusterheal.local.processes import Child, ChildSpec
from clusterheal.local.prometheus import require_binaries
from clusterheal.local.supervisor import Supervisor, http_ready


@dataclass(frozen=True, kw_only=True)
class AlertmanagerSpec:
    """Where it keeps its data, and the webhook that it posts to with the token in `token_file`."""

    folder: Path
    port: int
    webhook_url: str
    token_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def configuration(spec: AlertmanagerSpec) -> dict[str, Any]:
    """`alertmanager.yml`: every alert goes to the engine, one group per object, at once."""
    return {
        "route": {
            "receiver": "coordination-engine",
            "group_by": ["alertname", "namespace"],
            "group_wait": "1s",
            "group_interval": "2s",
            "repeat_interval": "1m",
        },
        "receivers": [
            {
                "name": "coordination-engine",
                "webhook_configs": [
                    {
                        "url": spec.webhook_url,
                        "send_resolved": True,
                        "http_config": {
                            "authorization": {"type": "Bearer", "credentials_file": str(spec.token_file.resolve())}
                        },
                    }
                ],
            }
        ],
    }


async def start_alertmanager(supervisor: Supervisor, spec: AlertmanagerSpec) -> Child:
    """Start it and wait until it answers.

    Raises:
        ChildDied, PermanentError: it ended or did not become ready; the message has its last log lines.
    """
    require_binaries("prometheus-alertmanager")
    spec.folder.mkdir(parents=True, exist_ok=True)
    config = spec.folder / "alertmanager.yml"
    config.write_text(yaml.safe_dump(configuration(spec), sort_keys=False))
    child = ChildSpec(
        name="alertmanager",
        argv=(
            "prometheus-alertmanager",
            f"--config.file={config.resolve()}",
            f"--storage.path={(spec.folder / 'data').resolve()}",
            f"--web.listen-address=127.0.0.1:{spec.port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ),
    )
    return await supervisor.start(child, ready=lambda: http_ready(f"{spec.url}/-/ready"), timeout_seconds=30)


__all__ = ["AlertmanagerSpec", "configuration", "start_alertmanager"]
