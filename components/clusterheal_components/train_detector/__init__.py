"""Component `train_detector`: see README.md."""

from clusterheal_components.train_detector.component import train_detector

__all__ = ["train_detector"]
