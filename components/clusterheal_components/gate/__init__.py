"""Component `gate`: see README.md."""

from clusterheal_components.gate.component import gate

__all__ = ["gate"]
