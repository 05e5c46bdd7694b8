"""Writing files so that a full disk is an error of ours that says where, and leaves no half of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterheal.errors import PermanentError


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Tell a failure of the operating system while `where` (a file or a folder) is written.

    Raises:
        PermanentError: with the reason, such as `No space left on device`.
    """
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise PermanentError(f"cannot write {where}: {reason}; free space there, or choose another folder") from exc


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file by way of a rename: readers see the old one or the new one, and never a part.

    Raises:
        PermanentError: it cannot be written; nothing is left of the attempt.
    """
    aside = path.with_suffix(".tmp")
    with writing(path):
        try:
            aside.write_bytes(content)
            aside.rename(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
    return path


__all__ = ["write_whole", "writing"]
