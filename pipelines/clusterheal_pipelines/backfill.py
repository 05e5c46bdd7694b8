# mypy: disable-error-code=untyped-decorator
"""The pipeline `backfill`: a long history into the dataset, in shards side by side."""

from clusterheal_components.collect import collect
from clusterheal_components.plan_backfill import plan_backfill
from kfp import dsl

from clusterheal_pipelines.cluster import FETCH, PURE, on_cluster
from clusterheal_pipelines.steps import reporting


@dsl.pipeline(
    name="backfill",
    display_name="Backfill the dataset",
    description="Collects a long history, the entities split into shards that run side by side. What the dataset has "
    "already is not fetched again, so that a run that was cut off can simply be repeated.",
)
def backfill(days: float = 30.0, shards: int = 4) -> None:
    """Collect a long history.

    Args:
        days: how far back to collect, in days; Prometheus must still have it.
        shards: into how many parts the entities are split; up to four are collected at a time.
    """
    with dsl.ExitHandler(reporting(), name="Backfill"):
        newest = on_cluster(collect(days=1.0), "Collect newest day", FETCH)  # fixes the feature contract and the end
        planned = on_cluster(plan_backfill(end=newest.outputs["end"], shards=shards), "Plan shards", PURE)
        with dsl.ParallelFor(planned.output, parallelism=4, name="shards") as part:
            on_cluster(collect(days=days, end=part.end, shard=part.shard), "Collect shard", FETCH)
