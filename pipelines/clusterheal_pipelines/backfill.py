# mypy: disable-error-code=untyped-decorator
"""The pipeline `backfill`: a long history into the dataset, in shards side by side."""

from clusterheal_components.collect import collect
from clusterheal_components.plan_backfill import plan_backfill
from kfp import dsl

from clusterheal_pipelines.cluster import FETCH, on_cluster
from clusterheal_pipelines.steps import reporting


@dsl.pipeline(
    name="backfill",
    display_name="Backfill the dataset",
    description="Collects a long history in shards of some days each. What the dataset has already is not fetched "
    "again, so that a run that was cut off can simply be repeated.",
)
def backfill(days: float = 30.0, shard_days: float = 5.0) -> None:
    """Collect a long history.

    Args:
        days: how far back to collect, in days; Prometheus must still have it.
        shard_days: days per shard; up to four shards are collected at a time.
    """
    with dsl.ExitHandler(reporting(), name="Backfill"):
        newest = on_cluster(collect(days=shard_days), "Collect newest shard", FETCH)  # fixes the feature contract
        planned = plan_backfill(end=newest.outputs["start"], days=days, shard_days=shard_days)
        on_cluster(planned, "Plan shards")
        with dsl.ParallelFor(planned.output, parallelism=4, name="shards") as end:
            on_cluster(collect(days=shard_days, end=end), "Collect shard", FETCH)
