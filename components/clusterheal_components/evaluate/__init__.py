"""Component `evaluate`: see README.md."""

from clusterheal_components.evaluate.component import evaluate

__all__ = ["evaluate"]
