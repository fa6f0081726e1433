"""The generation plan: a table with one row per image, made before any image is, and streamed everywhere.

A row holds all that decides its image besides the base and the adapters. The order of the rows keeps equal samplers
together, because images of one batch share sampler, steps, guidance and strength; shards are cut from it by number
alone, so that they do not depend on how many processes work.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.configuration import check_choice, check_keys
from meddap_monai.diffusion.generation_config import GenerateConfig
from meddap_monai.diffusion.prompts import PromptTable
from meddap_monai.errors import ConfigurationError
from meddap_monai.records import Record
from meddap_monai.seeds import derive_seed


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
    def together(self) -> tuple[Any, ...]:
        """What images of one batch must share."""
        return (self.mode, self.scheduler, self.steps, self.guidance, self.strength, self.height, self.width)


COLUMNS: dict[str, Callable[[str], Any]] = {
    field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in dataclasses.fields(PlanRow)
}


@dataclass(frozen=True)
class Wanted:
    """What the records and the base contribute to a plan.

    Attributes:
        classes: class names in the order of their labels.
        real: real training images per class.
        sources: ids of the real training images per class, sorted (for the modes image and inpaint).
        size: height and width of the base's images in pixels.
        prompts: class -> the sentence an adapter was trained with, used instead of the table's.
    """

    classes: Sequence[str]
    real: Mapping[str, int]
    sources: Mapping[str, Sequence[str]]
    size: tuple[int, int]
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def survey(records: Iterable[Record], classes: Sequence[str], size: tuple[int, int], keep_ids: bool) -> Wanted:
    """Count the real training images of each class, in one pass.

    Args:
        records: full records.
        classes: class names in the order of their labels.
        size: height and width of the base's images in pixels.
        keep_ids: also remember ids (modes image and inpaint).
    """
    real: Counter[str] = Counter()
    sources: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record["split"] == "train" and record["source"] == "real":
            real[record["class_name"]] += 1
            if keep_ids:
                sources[record["class_name"]].append(record["id"])
    return Wanted(list(classes), real, {name: sorted(ids) for name, ids in sources.items()}, size)


def counts_per_cell(config: GenerateConfig, wanted: Wanted) -> dict[tuple[str, str], int]:
    """Return images per (class, adjective).

    Ratios follow MEDDAP (expansion ratio times the real count, per class and adjective); `balance` fills each class up
    to the largest one and always divides among the adjectives.

    Raises:
        ConfigurationError: an unknown class, or nothing to generate.
    """
    for name in config.classes:
        check_choice(name, wanted.classes, "generate#classes")
    chosen = list(config.classes or wanted.classes)
    totals = {name: _total(config, wanted, name) for name in chosen}
    share = config.share_adjectives or config.balance
    cells = {}
    for name, total in totals.items():
        for number, adjective in enumerate(config.adjectives):
            part = _part(total, number, len(config.adjectives)) if share else total
            cells[name, adjective] = part
    if not sum(cells.values()):
        counted = ", ".join(f"{name} {wanted.real.get(name, 0)}" for name in chosen)
        raise ConfigurationError(
            f"generate: nothing to generate (real training images: {counted}); raise ratio or counts, or give records "
            "with a train split"
        )
    return cells


def _total(config: GenerateConfig, wanted: Wanted, name: str) -> int:
    real = wanted.real.get(name, 0)
    if config.balance:
        return max(wanted.real.values(), default=0) - real
    if config.counts is not None:
        return _of_class(config.counts, name, wanted, "counts")
    ratio = 1.0 if config.ratio is None else _of_class(config.ratio, name, wanted, "ratio")
    return round(ratio * real)


def _of_class(value: Any, name: str, wanted: Wanted, key: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    check_keys(value, wanted.classes, f"generate#{key}")
    return value.get(name, 0)


def _part(total: int, number: int, parts: int) -> int:
    """Return the size of one of `parts` parts that differ by at most one and sum to `total`."""
    return total // parts + (number < total % parts)


def make_plan(config: GenerateConfig, table: PromptTable, wanted: Wanted) -> Iterator[PlanRow]:
    """Yield the rows of the plan in order; memory does not depend on their number.

    Raises:
        ConfigurationError: an unknown class or adjective, nothing to generate, or no source image for a class.
    """
    if config.plan is not None:
        yield from _given_plan(config.plan, config, table, wanted)
        return
    cells = counts_per_cell(config, wanted)
    strengths = config.strengths if config.mode != "text" else (1.0,)
    turns = list(itertools.product(config.schedulers, strengths))
    row = 0
    for turn, (scheduler, strength) in enumerate(turns):
        for (name, adjective), total in cells.items():
            before = sum(_part(total, earlier, len(turns)) for earlier in range(turn))
            for number in range(before, before + _part(total, turn, len(turns))):
                given = {"class_name": name, "adjective": adjective, "scheduler": scheduler, "strength": strength}
                yield complete_row(row, number, given, config, table, wanted)
                row += 1


def complete_row(
    row: int, number: int, given: Mapping[str, Any], config: GenerateConfig, table: PromptTable, wanted: Wanted
) -> PlanRow:
    """Return a row from what is given, the rest from the configuration.

    Args:
        row: its number in the plan.
        number: its number inside its class and adjective, which chooses template and source image in turn.
        given: columns; ``class_name`` is the least.
        config: the configuration.
        table: the prompt table.
        wanted: see `Wanted`.
    """
    name, adjective = given["class_name"], given.get("adjective") or "none"
    check_choice(name, wanted.classes, f"generate, plan row {row}, class_name")
    mode = given.get("mode") or config.mode
    prompt = (
        "" if config.unconditional else given.get("prompt") or _prompt(name, adjective, number, config, table, wanted)
    )
    sources = wanted.sources.get(name, ())
    if mode != "text" and not given.get("source_id") and not sources:
        raise ConfigurationError(f"generate#mode: {mode} needs real training images of class {name!r}, got none")
    text = mode == "text"
    default_strength = config.strengths[number % len(config.strengths)]
    defaults = {
        "negative_prompt": table.negative if config.negative is None else config.negative,
        "seed": derive_seed(config.seed, "generate", row),
        "scheduler": config.schedulers[number % len(config.schedulers)],
        "steps": config.steps,
        "guidance": float(config.guidance),
        "strength": 1.0 if text else default_strength,
        "source_id": "" if text else sources[number % len(sources)] if sources else "",
        "height": config.height or wanted.size[0],
        "width": config.width or wanted.size[1],
    }
    found = {key: given[key] for key in defaults if given.get(key) not in (None, "")}
    return PlanRow(
        row=row,
        class_name=name,
        label=list(wanted.classes).index(name),
        adjective=adjective,
        prompt=prompt,
        mode=mode,
        **(defaults | found),  # type: ignore[arg-type]
    )


def _prompt(name: str, adjective: str, number: int, config: GenerateConfig, table: PromptTable, wanted: Wanted) -> str:
    if name in wanted.prompts:
        check_choice(adjective, table.adjectives, f"prompt table {table.name!r}: adjectives")
        return f"{table.adjectives[adjective]} {wanted.prompts[name]}".strip()
    templates = config.templates or (0,)
    return table.prompt(name, adjective, templates[number % len(templates)])


def _given_plan(path: Path, config: GenerateConfig, table: PromptTable, wanted: Wanted) -> Iterator[PlanRow]:
    seen: Counter[tuple[str, str]] = Counter()
    for row, given in enumerate(_read_table(path)):
        if not given.get("class_name"):
            raise ConfigurationError(f"{path}, row {row}: class_name is empty, expected one of {list(wanted.classes)}")
        cell = (given["class_name"], given.get("adjective") or "none")
        try:
            yield complete_row(row, seen[cell], given, config, table, wanted)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, row {row}: {error}") from error
        seen[cell] += 1


# ----------------------------------------------------------------------------------------------------------- table
def write_plan(path: Path | str, rows: Iterable[PlanRow]) -> int:
    """Write a plan as a CSV table, atomically and row by row; return how many rows it has."""
    count = 0
    with store.atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([getattr(row, name) for name in COLUMNS])
            count += 1
    return count


def read_plan(path: Path | str) -> Iterator[PlanRow]:
    """Yield the rows of a plan that `write_plan` wrote.

    Raises:
        ConfigurationError: a column is missing or unknown, or a value has the wrong type (the row is named).
    """
    for number, given in enumerate(_read_table(path)):
        missing = [name for name in COLUMNS if name not in given]
        if missing:
            raise ConfigurationError(f"{path}: the column {missing[0]!r} is missing, expected {', '.join(COLUMNS)}")
        if given["row"] != number:
            raise ConfigurationError(f"{path}: row {given['row']} stands in place {number}; write the plan again")
        yield PlanRow(**given)


def _read_table(path: Path | str) -> Iterator[dict[str, Any]]:
    try:
        stream = Path(path).open(newline="", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"generate#plan: {path} cannot be read ({error.strerror})") from error
    with stream:
        reader = csv.reader(stream)
        head = next(reader, [])
        check_keys(head, COLUMNS, f"{path}: columns")
        for number, cells in enumerate(reader):
            if len(cells) != len(head):
                raise ConfigurationError(f"{path}, row {number}: {len(cells)} cells, expected {len(head)}")
            yield {name: _cell(name, text, path, number) for name, text in zip(head, cells, strict=True)}


def _cell(name: str, text: str, path: Path | str, number: int) -> Any:
    if text == "" and COLUMNS[name] is not str:
        return None
    try:
        return COLUMNS[name](text)
    except ValueError as error:
        kind = COLUMNS[name].__name__
        raise ConfigurationError(f"{path}, row {number}: {name} is {text!r}, expected {kind}") from error


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
    for _, group in itertools.groupby(rows, key=lambda row: row.together):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
