"""Component `check_drift`: see README.md."""

from clusterheal_components.check_drift.component import check_drift

__all__ = ["check_drift"]
