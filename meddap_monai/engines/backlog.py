"""Units that wait, are at work or come again: the bookkeeping of every engine, without any process."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meddap_monai.engines.task import outcome_of
from meddap_monai.errors import FolderInUse, StageError

_SLOW = 3.0
"""Times the mean duration of a unit, after which a second worker may try it."""


@dataclass
class Unit:
    """One unit: its number, its item as JSON, how many workers it has lost, and when it was last handed out."""

    number: int
    item: str
    lost: int = 0
    since: float = 0.0
    copies: int = 0


class Backlog:
    """Hands out units in order; memory depends on those at work, not on those to come.

    Attributes:
        attempts: workers that one unit may lose.
        twice: whether a unit that takes three times as long as the mean is handed out once more when nothing waits,
            so that one slow machine does not hold up the end. Only for units whose second result is the first one's.
        clock: seconds.
    """

    def __init__(
        self,
        items: Iterable[Any],
        attempts: int = 3,
        twice: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coming: Iterator[tuple[int, Any]] = enumerate(items)
        self._clock = clock
        self._spent, self._finished = 0.0, 0
        self._again: deque[Unit] = deque()
        self._working: dict[int, Unit] = {}
        self._ahead: Unit | None = None
        self.attempts = attempts
        self.twice = twice

    def take(self) -> Unit | None:
        """Return a unit to work on now; None where there is none."""
        unit = self._again.popleft() if self._again else self._next() or self._oldest()
        if unit is not None:
            unit.copies += 1
            unit.since = self._clock()
            self._working[unit.number] = unit
        return unit

    def _next(self) -> Unit | None:
        unit, self._ahead = self._peek(), None
        return unit

    def _peek(self) -> Unit | None:
        if self._ahead is None and (found := next(self._coming, None)) is not None:
            self._ahead = Unit(found[0], json.dumps(found[1]))
        return self._ahead

    def _oldest(self) -> Unit | None:
        if not self.twice or not self._finished:
            return None
        limit = self._clock() - _SLOW * self._spent / self._finished
        slow = [unit for unit in self._working.values() if unit.copies == 1 and unit.since < limit]
        return min(slow, key=lambda unit: unit.since, default=None)

    @property
    def done(self) -> bool:
        """Whether every unit is done: none is at work, waits to be tried again, or is still to come."""
        return not self._working and not self._again and self._peek() is None

    def finish(self, unit: Unit) -> bool:
        """Take a unit as done; False where another worker had done it before."""
        self._spent += self._clock() - unit.since
        self._finished += 1
        return self._working.pop(unit.number, None) is not None

    def settle(self, unit: Unit, line: str | bytes) -> Iterator[tuple[int, Any]]:
        """Yield a unit's number and outcome from its answer, once; put it back where its folder was still in use.

        Raises:
            MeddapError: what the unit raised.
        """
        try:
            outcome = outcome_of(line)
        except FolderInUse as error:  # as after a worker whose end its machine has not seen yet
            self.lose(unit, f"found its folder in use ({error})")
            return
        if self.finish(unit):
            yield unit.number, outcome

    def lose(self, unit: Unit, reason: str) -> None:
        """Put a unit back whose worker is gone.

        Raises:
            StageError: it has lost as many workers as it may.
        """
        unit.copies -= 1
        if unit.number not in self._working or unit.copies:
            return
        unit.lost += 1
        if unit.lost >= self.attempts:
            raise StageError(
                f"unit {unit.number} of the work lost {unit.lost} workers, the last one {reason}; what is finished is "
                "kept. Give workers more memory (engine#memory), or raise engine#attempts, and run the same command"
            )
        del self._working[unit.number]
        self._again.append(unit)
