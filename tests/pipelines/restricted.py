"""Run a command that can write only below some folders: what a pod with a read-only root can do.

    python restricted.py FOLDER [FOLDER ...] -- COMMAND ...

Linux's Landlock forbids the rest to the command and all that it starts; no privilege is needed. Run as a script.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
NO_NEW_PRIVILEGES = 38
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
CREATE_AND_REMOVE = sum(1 << bit for bit in range(4, 14))  # directories, files, sockets, links, renames across folders

_libc = ctypes.CDLL(None, use_errno=True)


def supported() -> bool:
    """Whether this kernel can forbid all kinds of writes (Landlock ABI 3: also truncation)."""
    return int(_libc.syscall(CREATE_RULESET, None, 0, 1)) >= 3


def restrict(writable: list[str]) -> None:
    """From now on this process may write only below `writable`, and to /dev/null."""
    handled = WRITE_FILE | TRUNCATE | CREATE_AND_REMOVE
    attributes = struct.pack("Q", handled)
    ruleset = _call(CREATE_RULESET, attributes, len(attributes), 0)
    for path in [*writable, "/dev/null"]:
        allowed = handled if os.path.isdir(path) else WRITE_FILE | TRUNCATE  # noqa: PTH112 - no imports to speak of
        folder = os.open(path, os.O_PATH)
        _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, folder), 0)
    _libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call(RESTRICT_SELF, ruleset, 0)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number} failed")
    return result


if __name__ == "__main__":
    cut = sys.argv.index("--")
    restrict(sys.argv[1:cut])
    os.execvp(sys.argv[cut + 1], sys.argv[cut + 1 :])
