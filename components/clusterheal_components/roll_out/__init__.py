"""Component `roll_out`: see README.md."""

from clusterheal_components.roll_out.component import roll_out

__all__ = ["roll_out"]
