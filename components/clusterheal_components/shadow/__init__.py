"""Component `shadow`: see README.md."""

from clusterheal_components.shadow.component import shadow

__all__ = ["shadow"]
