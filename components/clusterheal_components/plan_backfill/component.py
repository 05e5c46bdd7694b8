# mypy: disable-error-code="untyped-decorator,valid-type"
"""Cut a long history into shards."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_backfill(end: str, days: float, shard_days: float) -> list[str]:
    """Cut the history before `end` into shards, newest first.

    Args:
        end: where the newest shard ends, ISO 8601 with zone.
        days: length of the whole history, in days, counted from one shard after `end`.
        shard_days: length of a shard, in days.

    Returns:
        The end of each shard, ISO 8601 UTC.
    """
    from clusterheal_components.collecting import shard_ends

    return shard_ends(end, days=days, shard_days=shard_days)
