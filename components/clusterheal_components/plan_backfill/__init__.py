"""Component `plan_backfill`: see README.md."""

from clusterheal_components.plan_backfill.component import plan_backfill

__all__ = ["plan_backfill"]
