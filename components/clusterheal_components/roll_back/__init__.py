"""Component `roll_back`: see README.md."""

from clusterheal_components.roll_back.component import roll_back

__all__ = ["roll_back"]
