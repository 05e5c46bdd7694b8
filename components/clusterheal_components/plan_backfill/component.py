# mypy: disable-error-code="untyped-decorator,valid-type"
"""Cut a long collection into shards that run side by side."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_backfill(end: str, shards: int) -> list[dict[str, str]]:
    """Name the shards of a collection; every entity is in exactly one of them.

    Args:
        end: where the collection ends, ISO 8601 with zone; every shard carries it.
        shards: how many, 1 to 64.

    Returns:
        One entry per shard, such as `{"shard": "0/4", "end": "2026-01-05T00:00:00+00:00"}`.
    """
    from clusterheal_components.collecting import plan_shards

    return plan_shards(end, shards)
