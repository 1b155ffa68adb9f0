"""Work beside the networks: reading, entropy coding and writing of other frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items and errors; a thread of its own makes the next one while one is used.

    Close it (`contextlib.closing`) before what `items` reads from.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]


class Behind(Generic[T]):
    """Calls made one after the other by a thread of its own, of which one may be under way.

    As a context manager it waits at the end of the block, whatever ended it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "behind")
        self._under_way: Future[T] | None = None

    def __call__(self, function: Callable[[], T]) -> list[T]:
        """Start `function` when the one before is done: its result, in a list, or its error."""
        done = self.last()
        self._under_way = self._thread.submit(function)
        return done

    def last(self) -> list[T]:
        """Wait for what is under way; its result, if there is one that was not given yet."""
        under_way, self._under_way = self._under_way, None
        return [] if under_way is None else [under_way.result()]

    def __enter__(self) -> Behind[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
