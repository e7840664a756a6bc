"""Many rows in few statements.

Each statement lets go of the interpreter, and a busy thread may keep it for milliseconds before it comes back: a
transaction of three hundred small statements would hold the write lock for a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

__all__ = ["Execute", "Inserter", "matching", "runs"]

Execute = Callable[..., Any]

_ROWS = 64
# A run this long is asked for by its ends; shorter ones go into lists.
_RUN = 8


class Inserter:
    """`INSERT INTO ... VALUES` of any number of rows; sizes are powers of two, so that few statements are prepared."""

    def __init__(self, head: str, width: int) -> None:
        row = "(" + ",".join("?" * width) + ")"
        self._width = width
        self._sql = {1 << n: f"{head} VALUES " + ",".join([row] * (1 << n)) for n in range(_ROWS.bit_length())}

    def __call__(self, execute: Execute, values: Sequence[Any]) -> None:
        """Insert rows whose columns follow one another in `values`."""
        width = self._width
        left = len(values) // width
        start = 0
        while left:
            count = _ROWS if left >= _ROWS else 1 << (left.bit_length() - 1)
            end = start + count * width
            execute(self._sql[count], values if not start and end == len(values) else values[start:end])
            start = end
            left -= count


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Growing numbers as runs without gaps: first and last of each."""
    found: list[tuple[int, int]] = []
    first = last = None
    for number in numbers:
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            found.append((first, last))
        first = last = number
    if first is not None and last is not None:
        found.append((first, last))
    return found


def matching(numbers: Sequence[int], column: str = "seq") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Conditions that together match exactly these growing numbers, with the values of each."""
    single: list[int] = []
    for first, last in runs(numbers):
        if last - first + 1 >= _RUN:
            yield f"{column} BETWEEN ? AND ?", (first, last)
        else:
            single.extend(range(first, last + 1))
    for start in range(0, len(single), _ROWS):
        some = single[start : start + _ROWS]
        size = 1 << (len(some) - 1).bit_length()
        some += [some[-1]] * (size - len(some))
        yield f"{column} IN ({','.join('?' * size)})", tuple(some)
