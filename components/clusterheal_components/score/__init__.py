"""Component `score`: see README.md."""

from clusterheal_components.score.component import score

__all__ = ["score"]
