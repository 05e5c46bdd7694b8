"""Splitting entities for collectors that run side by side: by a hash of the key, the same everywhere and always."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from clusterheal.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, order=True)
class Shard:
    """Number `index` of `count` shards; every entity is in exactly one of them."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InvalidInput(f"a shard is index/count with 0 <= index < count, got {self.index}/{self.count}")

    def keeps(self, entity: str) -> bool:
        """Whether the entity with this key belongs here."""
        return self.count == 1 or shard_of(entity, self.count) == self.index

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `index/count`, e.g. `0/4`.

        Raises:
            InvalidInput: another form.
        """
        index, slash, count = text.partition("/")
        if not slash or not index.isdigit() or not count.isdigit():
            raise InvalidInput(f"a shard is written index/count, e.g. 0/4; got {text!r}")
        return cls(index=int(index), count=int(count))


WHOLE = Shard()


def shard_of(entity: str, count: int) -> int:
    """Which of `count` shards the entity is in. Not Python's `hash`, which differs from process to process."""
    return int.from_bytes(hashlib.blake2b(entity.encode(), digest_size=8).digest()) % count
