"""Component `notify`: see README.md."""

from clusterheal_components.notify.component import notify

__all__ = ["notify"]
