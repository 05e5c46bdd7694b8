"""Component `watch`: see README.md."""

from clusterheal_components.watch.component import watch

__all__ = ["watch"]
