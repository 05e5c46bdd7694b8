"""One exception tree, named by who has to act.

Every message says what was expected, what came, and what to do about it.
"""

from __future__ import annotations


class ClusterhealError(Exception):
    """Base of everything this project raises on purpose."""


class RetryableError(ClusterhealError):
    """The same call may succeed later (timeouts, 429, 5xx, conflicts). The caller retries, bounded."""


class PermanentError(ClusterhealError):
    """The same call will fail again until somebody changes something outside this process."""


class InvalidInput(ClusterhealError):
    """The caller's input is wrong; retrying it is pointless and nothing was changed."""


class ContractMismatch(PermanentError):
    """A feature contract differs from the one the other side was built for."""


class PackageInvalid(PermanentError):
    """A model package is incomplete, altered, too large, or asks for something that is refused."""


class DataQualityError(PermanentError):
    """Collected data is too bad to train or decide on; the message names the findings."""


class GateRejected(PermanentError):
    """A candidate model did not beat what it must beat; the message says on what and by how much."""
