"""Bearer tokens that are rotated while we run."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx

from clusterheal.kube.ports import ApiRetryable


class TokenFile(httpx.Auth):
    """A bearer token from a file that is rotated under us: read again when its modification time changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, str] = (-1, "")

    def _token(self) -> str:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._seen[0]:
                self._seen = (changed, self._path.read_text().strip())
        except OSError as exc:
            raise ApiRetryable(f"token file {self._path} cannot be read: {exc}") from exc
        return self._seen[1]

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request
