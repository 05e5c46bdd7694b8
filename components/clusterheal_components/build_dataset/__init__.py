"""Component `build_dataset`: see README.md."""

from clusterheal_components.build_dataset.component import build_dataset

__all__ = ["build_dataset"]
