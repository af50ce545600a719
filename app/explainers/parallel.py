"""Threads for work that leaves Python's lock alone most of the time: NumPy on large arrays, and the runtime."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Sequence[T], threads: int) -> None:
    """Do the work for every item; what one raises ends all that have not begun."""
    if threads == 1 or len(items) == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as executor:
        under_way: deque[Future[None]] = deque(executor.submit(work, item) for item in items)
        try:
            while under_way:
                under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
