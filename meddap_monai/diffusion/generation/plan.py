"""The generation plan: a table with one row per image, made before any image is, and streamed everywhere.

A row holds all that decides its image besides the base and the adapters. The order of the rows keeps equal samplers
together, because images of one batch share sampler, steps, guidance and strength; shards are cut from it by number
alone, so that they do not depend on how many processes work.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.configuration import check_keys, field_types
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
class PlanRow:
    """One image to make.

    Attributes:
        row: its number in the plan, from 0.
        class_name: intended class.
        label: its integer.
        adjective: name in the prompt table.
        prompt: words.
        negative_prompt: words to stay away from.
        seed: of the image's own random numbers, in ``[0, 2**63)``.
        mode: text, image or inpaint.
        scheduler: name of the sampler.
        steps: sampling steps.
        guidance: classifier-free guidance scale.
        strength: share of the noising a source image goes through; 1 for text.
        source_id: id of the source record; empty for text.
        height: pixels.
        width: pixels.
    """

    row: int
    class_name: str
    label: int
    adjective: str
    prompt: str
    negative_prompt: str
    seed: int
    mode: str
    scheduler: str
    steps: int
    guidance: float
    strength: float
    source_id: str
    height: int
    width: int

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What images of one batch must share."""
        return (self.mode, self.scheduler, self.steps, self.guidance, self.strength, self.height, self.width)


COLUMNS: dict[str, Callable[[str], Any]] = field_types(PlanRow)


def write_plan(path: Path | str, rows: Iterable[PlanRow]) -> int:
    """Write a plan as a CSV table, atomically and row by row; return how many rows it has."""
    with store.atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        return store.write_rows(stream, COLUMNS, ([getattr(row, name) for name in COLUMNS] for row in rows))


def read_plan(path: Path | str) -> Iterator[PlanRow]:
    """Yield the rows of a plan that `write_plan` wrote.

    Raises:
        ConfigurationError: a column is missing or unknown, or a value has the wrong type (the row is named).
    """
    for number, given in enumerate(read_table(path)):
        missing = [name for name in COLUMNS if name not in given]
        if missing:
            raise ConfigurationError(f"{path}: the column {missing[0]!r} is missing, expected {', '.join(COLUMNS)}")
        if given["row"] != number:
            raise ConfigurationError(f"{path}: row {given['row']} stands in place {number}; write the plan again")
        yield PlanRow(**given)


def count_rows(path: Path | str) -> int:
    """Return the number of rows of a plan, without looking at them."""
    return sum(1 for _ in store.read_csv(path, ConfigurationError, "give generate#plan another table")) - 1


def read_table(path: Path | str, more: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of any CSV table with columns of `COLUMNS`, empty numbers as None.

    Args:
        path: of the table.
        more: names of further columns of text that it may have.

    Raises:
        ConfigurationError: see `read_plan`.
    """
    lines = store.read_csv(path, ConfigurationError, "give generate#plan another table")
    _, head = next(lines, (1, []))
    check_keys(head, (*COLUMNS, *more), f"{path}, line 1: columns")
    if len(set(head)) != len(head):
        raise ConfigurationError(f"{path}, line 1: a column stands twice in {', '.join(head)}; expected each once")
    for number, (line, cells) in enumerate(lines):
        where = f"{path}, line {line}, row {number}"
        if len(cells) != len(head):
            raise ConfigurationError(f"{where}: {len(cells)} cells, expected {len(head)}")
        yield {name: _cell(name, text, where) for name, text in zip(head, cells, strict=True)}


def _cell(name: str, text: str, where: str) -> Any:
    kind = COLUMNS.get(name, str)
    if text == "" and kind is not str:
        return None
    try:
        value = kind(text)
        if kind is not str and not abs(value) < 2**63:
            raise ValueError("not finite, or too large")
    except ValueError as error:
        raise ConfigurationError(f"{where}: {name} is {text!r:.80}, expected {kind.__name__}") from error
    return value


def shards(rows: Iterable[PlanRow], size: int) -> Iterator[tuple[int, list[PlanRow]]]:
    """Yield (shard number, its rows) in order, `size` rows each, the last one with what is left."""
    iterator = iter(rows)
    for number in itertools.count():
        shard = list(itertools.islice(iterator, size))
        if not shard:
            return
        yield number, shard


def batches(rows: Sequence[PlanRow], size: int) -> Iterator[list[PlanRow]]:
    """Cut the rows of a shard into batches of at most `size` rows that may be sampled together."""
    for _, group in itertools.groupby(rows, key=lambda row: row.batch_key):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
