"""Running queries side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

from clusterheal.errors import InvalidInput, PermanentError, RetryableError

T = TypeVar("T")


async def gather(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. The first failure cancels the rest and is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as exc:
        raise_first(exc)
    return [task.result() for task in tasks]


def raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """The error that somebody can act on; the others are of its kind or follow from it."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        exc = todo.pop(0)
        if isinstance(exc, BaseExceptionGroup):
            todo.extend(exc.exceptions)
        else:
            flat.append(exc)
    order = (InvalidInput, PermanentError, RetryableError)
    flat.sort(key=lambda e: next((i for i, kind in enumerate(order) if isinstance(e, kind)), -1))
    raise flat[0] from group
