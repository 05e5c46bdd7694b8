"""Dashboards: one source, two forms that fit their readers, and panels that really show something."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.monitoring import console, grafana
from scripts.monitoring.ask import ask
from scripts.monitoring.source import Dashboard, load_all

BOARDS = load_all()
ROOT = Path(__file__).resolve().parents[2]
CONSOLE_TYPES = {"gauge", "grafana-piechart-panel", "graph", "singlestat", "table"}  # what the console draws at all


def test_the_four_dashboards_are_there() -> None:
    assert {board.name for board in BOARDS} == {
        "platform-health",
        "model-performance",
        "resource-trends",
        "self-healing",
    }


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_both_forms_have_every_query(board: Dashboard) -> None:
    wanted = [q.expr for panel in board.panels for q in panel.queries]
    new = [t["expr"] for panel in grafana.model(board)["panels"] for t in panel.get("targets", ())]
    old = [t["expr"] for row in console.model(board)["rows"] for panel in row["panels"] for t in panel["targets"]]
    assert new == old == wanted
    assert len(set(new)) == len(new), "two panels show the same"


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_panels_do_not_overlap_in_grafana(board: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in grafana.model(board)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= grafana.GRID
        taken |= cells


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_the_console_can_draw_it(board: Dashboard) -> None:
    resource = console.resource(board)
    assert resource["metadata"]["namespace"] == "openshift-config-managed"
    assert resource["metadata"]["labels"]["console.openshift.io/dashboard"] == "true"
    (content,) = resource["data"].values()
    for row in json.loads(content)["rows"]:
        assert sum(panel["span"] for panel in row["panels"]) % 12 == 0
        for panel in row["panels"]:
            assert panel["type"] in CONSOLE_TYPES
            assert panel["type"] != "graph" or panel["yaxes"][0]["format"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_the_docs_show_a_picture_of_it(board: Dashboard) -> None:
    picture = ROOT / "docs/dashboards" / f"{board.name}.png"
    assert picture.stat().st_size < 300_000
    assert f"(dashboards/{picture.name})" in (ROOT / "docs/monitoring.md").read_text()


@pytest.mark.local
@pytest.mark.timeout(300)
async def test_every_panel_shows_data_of_a_running_platform(tmp_path: Path) -> None:
    from scripts.monitoring.filled import NAMESPACE, filled_prometheus

    async with filled_prometheus(tmp_path / "out") as platform:
        await platform.supervisor.guard(heal_an_incident(platform))
        with httpx.Client(base_url=f"http://127.0.0.1:{platform.ports.prometheus}", timeout=30) as client:
            empty = _without_data(client, NAMESPACE)
            for _ in range(10):  # rules are evaluated every few seconds, later where the machine is busy
                if not empty:
                    break
                await asyncio.sleep(3)
                empty = _without_data(client, NAMESPACE)
            broken = client.get("/api/v1/rules").json()["data"]["groups"]
    assert empty == []
    assert [r["name"] for group in broken for r in group["rules"] if r["health"] != "ok"] == []


def _without_data(client: httpx.Client, namespace: str) -> list[str]:
    """Panels' queries that return no line over the last five minutes."""
    end = time.time()
    return [
        f"{board.name}: {panel.title}: {query.expr}"
        for board in BOARDS
        for panel in board.panels
        for query, lines in zip(
            panel.queries, ask(client, panel, namespace=namespace, start=end - 300, end=end), strict=True
        )
        if not lines
    ]


async def heal_an_incident(platform: Any) -> None:
    """An alert about a workload, which the engine restarts, and which is over then; a second one meets the cooldown."""
    from scripts.monitoring.filled import post_alert, until

    await until(lambda: _scraped(platform), seconds=60, what="a scrape of the engine before anything happens")
    started = datetime.now(UTC).isoformat()
    await post_alert(platform, "MemoryLeakPredicted", "cart", status="firing", started=started)
    await until(lambda: _reached(platform, "action"), seconds=60, what="action on shop/cart")
    await post_alert(platform, "MemoryLeakPredicted", "cart", status="resolved", started=started)
    await until(lambda: _reached(platform, "outcome"), seconds=120, what="verified outcome")
    await asyncio.sleep(4)  # two scrapes of what that left
    again = datetime.now(UTC).isoformat()
    await post_alert(platform, "ContainerMemoryLeak", "cart", status="firing", started=again)
    await asyncio.sleep(8)


async def _scraped(platform: Any) -> bool:
    """Whether Prometheus has the engine's counters from zero: `increase` sees no change before that."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{platform.ports.prometheus}", timeout=5) as client:
        query = {"query": 'clusterheal_time_to_seconds_count{stage="act"} == 0'}
        return bool((await client.get("/api/v1/query", params=query)).json()["data"]["result"])


async def _reached(platform: Any, part: str) -> bool:
    """Whether an incident's status has that part."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{platform.ports.engine}", timeout=5) as client:
        items = (await client.get("/api/v1/incidents")).json()["items"]
    return any((item.get("status") or {}).get(part) for item in items)
