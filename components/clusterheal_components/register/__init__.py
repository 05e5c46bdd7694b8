"""Component `register`: see README.md."""

from clusterheal_components.register.component import register

__all__ = ["register"]
