"""Component `stage`: see README.md."""

from clusterheal_components.stage.component import stage

__all__ = ["stage"]
