"""Component `promote`: see README.md."""

from clusterheal_components.promote.component import promote

__all__ = ["promote"]
