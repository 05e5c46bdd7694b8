"""Which code a local run is made with: what an image says of itself on a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import clusterheal

TIMEOUT_SECONDS = 10.0


def checkout_commit(root: Path | None = None) -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` when files were changed; None outside one."""
    root = root or Path(clusterheal.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or a checkout of somebody else's that git refuses to read
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS)
    return done.stdout.strip()
