"""Component `train_forecaster`: see README.md."""

from clusterheal_components.train_forecaster.component import train_forecaster

__all__ = ["train_forecaster"]
