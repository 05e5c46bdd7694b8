"""Component `score_window`: see README.md."""

from clusterheal_components.score_window.component import score_window

__all__ = ["score_window"]
