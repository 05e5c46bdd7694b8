"""Component `collect`: see README.md."""

from clusterheal_components.collect.component import collect

__all__ = ["collect"]
