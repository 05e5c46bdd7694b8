"""The rows behind the development registry: one SQLite table of JSON resources."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Kind = Literal["registered_model", "model_version", "model_artifact"]
Body = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resource (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    parent_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    external_id TEXT,
    body TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    UNIQUE (kind, parent_id, name)
);
CREATE UNIQUE INDEX IF NOT EXISTS external ON resource (kind, external_id) WHERE external_id IS NOT NULL;
"""
_ORDER = {"ID": "id", "CREATE_TIME": "created_ms", "LAST_UPDATE_TIME": "updated_ms"}
NO_PARENT = 0


class Duplicate(Exception):
    """A resource of that kind, parent and name (or external id) exists already."""


class ResourceStore:
    """Create, read, list and merge resources. Safe to call from several threads; every call is one transaction.

    `now_ms` gives milliseconds since the epoch.
    """

    def __init__(self, path: Path | None, *, now_ms: Callable[[], int]) -> None:
        """`path` is the database file; None keeps everything in memory."""
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._db = sqlite3.connect(str(path) if path else ":memory:", check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        with self._lock, self._db:
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def create(self, kind: Kind, body: Mapping[str, Any], *, parent_id: int = NO_PARENT) -> Body:
        """Insert; the answer carries the server's own fields.

        Raises:
            Duplicate: name or external id is taken.
        """
        now = self._now_ms()
        row = (kind, parent_id, body["name"], body.get("externalId"), json.dumps(dict(body)), now, now)
        with self._lock, self._db:
            try:
                cursor = self._db.execute(
                    "INSERT INTO resource (kind, parent_id, name, external_id, body, created_ms, updated_ms)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
            except sqlite3.IntegrityError as exc:
                raise Duplicate(f"{kind} {body['name']!r} already exists") from exc
            return _answer(self._row(kind, int(cursor.lastrowid or 0)))

    def get(self, kind: Kind, resource_id: int) -> Body | None:
        with self._lock:
            row = self._row(kind, resource_id)
        return None if row is None else _answer(row)

    def find(self, kind: Kind, *, name: str | None, external_id: str | None, parent_id: int = NO_PARENT) -> Body | None:
        """By external id when one is given, otherwise by name below the parent."""
        if external_id is not None:
            where, values = "external_id = ?", (kind, external_id)
        else:
            where, values = "name = ? AND parent_id = ?", (kind, name or "", parent_id)  # type: ignore[assignment]
        with self._lock:
            row = self._db.execute(f"SELECT * FROM resource WHERE kind = ? AND {where}", values).fetchone()  # noqa: S608
        return None if row is None else _answer(row)

    def list(
        self, kind: Kind, *, parent_id: int | None, page_size: int, offset: int, order_by: str, descending: bool
    ) -> tuple[list[Body], int | None]:
        """One page, and the offset of the next one or None."""
        where, values = ("AND parent_id = ?", [kind, parent_id]) if parent_id is not None else ("", [kind])
        column, direction = _ORDER.get(order_by, "id"), "DESC" if descending else "ASC"
        query = (
            f"SELECT * FROM resource WHERE kind = ? {where} "  # noqa: S608
            f"ORDER BY {column} {direction}, id {direction} LIMIT ? OFFSET ?"
        )
        with self._lock:
            rows = self._db.execute(query, [*values, page_size + 1, offset]).fetchall()
        following = offset + page_size if len(rows) > page_size else None
        return [_answer(row) for row in rows[:page_size]], following

    def update(self, kind: Kind, resource_id: int, changes: Mapping[str, Any]) -> Body | None:
        """Merge the given top-level fields; `name` never changes, `customProperties` is replaced as a whole."""
        with self._lock, self._db:
            row = self._row(kind, resource_id)
            if row is None:
                return None
            body = {**json.loads(row["body"]), **{k: v for k, v in changes.items() if k not in ("name", "id")}}
            self._db.execute(
                "UPDATE resource SET body = ?, updated_ms = ? WHERE id = ?",
                (json.dumps(body), self._now_ms(), resource_id),
            )
            return _answer(self._row(kind, resource_id))

    def _row(self, kind: Kind, resource_id: int) -> Any:
        return self._db.execute("SELECT * FROM resource WHERE kind = ? AND id = ?", (kind, resource_id)).fetchone()


def _answer(row: Any) -> Body:
    return {
        **json.loads(row["body"]),
        "id": str(row["id"]),
        "createTimeSinceEpoch": str(row["created_ms"]),
        "lastUpdateTimeSinceEpoch": str(row["updated_ms"]),
    }
