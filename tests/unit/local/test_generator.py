from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from clusterheal.local.generator import HistoryGenerator, Series, series_key, state_from_dict, state_to_dict
from clusterheal.local.world import ClusterSpec, default_cluster
from clusterheal.local.world_pods import POD_CONTAINER_COUNTERS, PodPlace
from clusterheal.local.world_signals import JOB_SECONDS, job, load, throttled_share

DAY = 86_400
END = 1_795_000_000 // 60 * 60
SPEC = default_cluster()
PODS = {
    w.key: [
        PodPlace(namespace=w.namespace, name=f"{w.name}-now-{i}", node=f"worker-{i % 3}") for i in range(w.replicas)
    ]
    for w in SPEC.workloads
}


def generator(*, seed: int = 7, days: float = 8.0, spec: ClusterSpec = SPEC) -> HistoryGenerator:
    return HistoryGenerator(spec, PODS, seed=seed, start=END - round(days * DAY), end=END)


@pytest.fixture(scope="module")
def history() -> tuple[list[Series], HistoryGenerator]:
    made = generator()
    return list(made.series()), made


def named(series: list[Series], name: str, **labels: str) -> list[Series]:
    return [s for s in series if s.name == name and labels.items() <= dict(s.labels).items()]


def on_minutes(series: Series) -> Mapping[int, float]:
    return dict(zip(series.times.tolist(), series.values.tolist(), strict=True))


def test_the_same_seed_gives_the_same_series_and_another_seed_others() -> None:
    first, second, third = (list(generator(days=2, seed=s).series()) for s in (7, 7, 8))
    assert [(s.name, dict(s.labels)) for s in first] == [(s.name, dict(s.labels)) for s in second]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(first, second, strict=True))
    assert any(
        len(a.values) != len(b.values) or (a.values != b.values).any() for a, b in zip(first, third, strict=False)
    )


def test_no_series_appears_twice(history: tuple[list[Series], HistoryGenerator]) -> None:
    keys = [series_key(s.name, sorted(s.labels.items())) for s in history[0]]
    assert len(keys) == len(set(keys))


def test_every_series_is_finite_rising_in_time_and_inside_the_window(
    history: tuple[list[Series], HistoryGenerator],
) -> None:
    for series in history[0]:
        assert np.isfinite(series.values).all(), series.name
        assert (np.diff(series.times) > 0).all(), series.name
        assert series.times[0] >= END - 8 * DAY
        assert series.times[-1] <= END


def test_the_pods_that_exist_now_have_the_end_of_the_history(history: tuple[list[Series], HistoryGenerator]) -> None:
    series, made = history
    for places in PODS.values():
        for place in places:
            (memory,) = named(series, "container_memory_working_set_bytes", namespace=place.namespace, pod=place.name)
            assert memory.times[-1] == END
            assert place.key in made.state.pods


def test_there_were_deploys_with_other_pods_before(history: tuple[list[Series], HistoryGenerator]) -> None:
    pods = {s.labels["pod"] for s in named(history[0], "container_memory_working_set_bytes", namespace="shop")}
    now = {place.name for key, places in PODS.items() if key.startswith("shop/") for place in places}
    assert now < pods


def test_counters_fall_only_where_a_container_restarted(history: tuple[list[Series], HistoryGenerator]) -> None:
    resets = 0
    for series in history[0]:
        if not series.name.endswith("_total") or series.name == "kube_pod_container_status_restarts_total":
            continue
        falls = int((np.diff(series.values) < 0).sum())
        if series.name not in POD_CONTAINER_COUNTERS:
            assert falls == 0, series.name
            continue
        (restarts,) = named(
            history[0],
            "kube_pod_container_status_restarts_total",
            namespace=series.labels["namespace"],
            pod=series.labels["pod"],
        )
        assert falls == restarts.values[-1], series.labels
        resets += falls
    assert resets > 0


def test_there_are_gaps_but_not_at_the_end(history: tuple[list[Series], HistoryGenerator]) -> None:
    for node in SPEC.nodes:
        (free,) = named(history[0], "node_memory_MemAvailable_bytes", instance=node.name)
        missing = 8 * DAY // 60 + 1 - len(free.times)
        assert 12 <= missing < 200
        assert free.times[-1] == END


def test_load_is_daily_and_weaker_at_weekends() -> None:
    made = generator(days=14)
    received = named(list(made.series()), "container_network_receive_bytes_total", namespace="shop")
    per_minute: dict[int, float] = {}
    for series in received:
        for at, rate in zip(series.times[1:].tolist(), np.diff(series.values).tolist(), strict=True):
            per_minute[at] = per_minute.get(at, 0.0) + rate
    hours = np.array([at % DAY // 3600 for at in per_minute])
    weekend = np.array([(at // DAY + 3) % 7 >= 5 for at in per_minute])
    values = np.array(list(per_minute.values()))
    afternoon, night = values[hours == 15].mean(), values[hours == 3].mean()
    assert afternoon > 1.5 * night
    assert values[weekend].mean() < 0.9 * values[~weekend].mean()


def test_a_scheduled_job_swells_its_workload_at_its_minute_of_every_hour_and_meets_no_limit() -> None:
    t = np.arange(8 * DAY, dtype=np.float64)[::20] + 20 * DAY
    for workload in default_cluster().workloads:
        under_way = job(workload, t) > 0.5
        assert bool(under_way.any()) == (workload.job_minute is not None)
        if workload.job_minute is None:
            continue
        since = (t[under_way] - 60 * workload.job_minute) % 3600
        assert since.max() < JOB_SECONDS
        calm = job(workload, t) == 0
        demand = load(7, workload, t)
        assert 1.2 < demand[under_way].mean() / demand[calm].mean() < 1.4
        assert throttled_share(workload.cpu * (0.15 + 0.85 * demand), workload.cpu_limit).max() < 0.25


def test_each_pod_names_its_workload_as_cluster_monitoring_does(
    history: tuple[list[Series], HistoryGenerator],
) -> None:
    owners = named(history[0], "namespace_workload_pod:kube_pod_owner:relabel", namespace="shop", workload="cart")
    assert {o.labels["workload_type"] for o in owners} == {"deployment"}
    assert {p.name for p in PODS["shop/cart"]} <= {o.labels["pod"] for o in owners}


def test_a_replaced_pod_is_gone_before_prometheus_would_count_it_twice(
    history: tuple[list[Series], HistoryGenerator],
) -> None:
    owners = named(history[0], "namespace_workload_pod:kube_pod_owner:relabel", workload="cart")
    starts = sorted({int(o.times[0]) for o in owners})
    for began in starts[1:]:
        earlier = [o for o in owners if o.times[0] < began and o.times[-1] < END]
        assert all(began - o.times[-1] >= 180 for o in earlier if o.times[-1] < began)


def test_nodes_add_up_their_pods(history: tuple[list[Series], HistoryGenerator]) -> None:
    busy = []
    for node in SPEC.nodes:
        idle = [on_minutes(s) for s in named(history[0], "node_cpu_seconds_total", instance=node.name, mode="idle")]
        at = END - 3600
        rate = np.mean(
            [(series[at] - series[at - 600]) / 600 for series in idle if at in series and at - 600 in series]
        )
        busy.append(1.0 - rate)
    cores = sum(w.cpu * w.replicas for w in SPEC.workloads)
    assert 0.4 * cores < sum(b * n.cores for b, n in zip(busy, SPEC.nodes, strict=True)) < 2.5 * cores


def test_the_state_survives_json(history: tuple[list[Series], HistoryGenerator]) -> None:
    state = history[1].state
    again = state_from_dict(json.loads(json.dumps(state_to_dict(state))))
    assert again == state
