# mypy: disable-error-code="untyped-decorator,valid-type"
"""Fetch metric history from Prometheus into the dataset."""

from typing import NamedTuple

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect(metrics: dsl.Output[dsl.Metrics], days: float = 7.0, end: str = "now", shard: str = "0/1") -> NamedTuple(
    "Range", [("start", str), ("end", str)]
):
    """Fetch the catalogue's series of some days from Prometheus; what the dataset has already is skipped.

    Args:
        metrics: samples, parts and entities of this collection.
        days: how far back to collect, in days.
        end: end of the range, ISO 8601 with zone, or `now`.
        shard: which part of the entities to collect, as index/count; `0/1` is all of them.

    Returns:
        start: begin of the collected range, ISO 8601 UTC.
        end: end of the collected range, ISO 8601 UTC, itself not included.
    """
    from clusterheal_components.collecting import collect_range
    from clusterheal_components.repeating import repeated

    return repeated(collect_range)(days=days, end=end, shard=shard, log_metric=metrics.log_metric)
