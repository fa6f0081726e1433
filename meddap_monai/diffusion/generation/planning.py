"""From what is wanted to the rows of a plan: how many of each class and adjective, with which words and sources."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meddap_monai.core.configuration import check_keys
from meddap_monai.core.constraints import check_choice, check_range
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.words import Words, check_facts, ending, facts_of
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.plan import PlanRow, read_table
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
class PlanInputs:
    """What the records and the base contribute to a plan.

    Attributes:
        classes: class names in the order of their labels.
        real: real training images per class.
        sources: ids of the real training images per class, sorted (for the modes image and inpaint).
        size: height and width of the base's images in pixels.
        prompts: class -> the sentence an adapter was trained with, used instead of the table's.
        details: class -> what its real training images say in their columns, in the order of `sources`.
        words: of the base, that say facts.
    """

    classes: Sequence[str]
    real: Mapping[str, int]
    sources: Mapping[str, Sequence[str]]
    size: tuple[int, int]
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Sequence[Mapping[str, str]]] = dataclasses.field(default_factory=dict)
    words: Words = dataclasses.field(default_factory=dict)


def count_training_images(
    records: Iterable[Record],
    classes: Sequence[str],
    size: tuple[int, int],
    keep_ids: bool,
    columns: Sequence[str] = (),
) -> PlanInputs:
    """Count the real training images of each class, in one pass.

    Args:
        records: full records.
        classes: class names in the order of their labels.
        size: height and width of the base's images in pixels.
        keep_ids: also remember ids (modes image and inpaint).
        columns: keys of ``meta`` that end the prompts.
    """
    real: Counter[str] = Counter()
    sources: dict[str, list[str]] = defaultdict(list)
    details: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for record in records:
        if record["split"] == "train" and record["source"] == "real":
            real[record["class_name"]] += 1
            if keep_ids:
                sources[record["class_name"]].append(record["id"])
            if columns:
                details[record["class_name"]][record["id"]] = facts_of(record, columns)
    told = {name: [own[key] for key in sorted(own)] for name, own in details.items()}
    return PlanInputs(list(classes), real, {name: sorted(ids) for name, ids in sources.items()}, size, details=told)


def counts_per_cell(config: GenerateConfig, wanted: PlanInputs) -> dict[tuple[str, str], int]:
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
        advice = "raise ratio or counts, or give records with a train split"
        if config.balance and any(wanted.real.values()):
            advice = "no chosen class is smaller than the largest one; use ratio or counts"
        raise ConfigurationError(f"generate: nothing to generate (real training images: {counted}); {advice}")
    return cells


def _total(config: GenerateConfig, wanted: PlanInputs, name: str) -> int:
    real = wanted.real.get(name, 0)
    if config.balance:
        return max(wanted.real.values(), default=0) - real
    if config.counts is not None:
        return _of_class(config.counts, name, wanted, "counts")
    ratio = 1.0 if config.ratio is None else _of_class(config.ratio, name, wanted, "ratio")
    return round(ratio * real)


def _of_class(value: Any, name: str, wanted: PlanInputs, key: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    check_keys(value, wanted.classes, f"generate#{key}")
    return value.get(name, 0)


def _part(total: int, number: int, parts: int) -> int:
    """Return the size of one of `parts` parts that differ by at most one and sum to `total`."""
    return total // parts + (number < total % parts)


def make_plan(config: GenerateConfig, table: PromptTable, wanted: PlanInputs) -> Iterator[PlanRow]:
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
    row: int, number: int, given: Mapping[str, Any], config: GenerateConfig, table: PromptTable, wanted: PlanInputs
) -> PlanRow:
    """Return a row from what is given, the rest from the configuration.

    Args:
        row: its number in the plan.
        number: its number inside its class and adjective, which chooses template and source image in turn.
        given: columns; ``class_name`` is the least.
        config: the configuration.
        table: the prompt table.
        wanted: see `PlanInputs`.
    """
    name, adjective = given["class_name"], given.get("adjective") or "none"
    check_choice(name, wanted.classes, f"generate, plan row {row}, class_name")
    mode = given.get("mode") or config.mode
    asked = {column: str(value) for column, value in config.words.items()} | _cell_words(given.get("words") or "")
    check_facts(asked, wanted.words, "generate#words")
    if config.unconditional:
        prompt = ""
    elif given.get("prompt"):
        prompt = given["prompt"] + ending(asked, wanted.words)
    else:
        prompt = _prompt(name, adjective, number, asked, config, table, wanted)
    sources = wanted.sources.get(name, ())
    if mode != "text" and not given.get("source_id") and not sources:
        raise ConfigurationError(f"generate#mode: {mode} needs real training images of class {name!r}, got none")
    text = mode == "text"
    default_strength = config.strengths[number % len(config.strengths)]
    defaults = {
        "negative_prompt": table.negative if config.negative is None else config.negative,
        "seed": derive_seed(config.seed, "generate", row),
        "scheduler": config.schedulers[number % len(config.schedulers)],
        "steps": config.steps_,
        "guidance": config.guidance_,
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


def _prompt(
    name: str,
    adjective: str,
    number: int,
    asked: Mapping[str, str],
    config: GenerateConfig,
    table: PromptTable,
    wanted: PlanInputs,
) -> str:
    told = wanted.details.get(name) or ({},)
    end = ending({**told[number % len(told)], **asked}, wanted.words)
    if name in wanted.prompts:
        check_choice(adjective, table.adjectives, f"prompt table {table.name!r}: adjectives")
        return f"{table.adjectives[adjective]} {wanted.prompts[name]}{end}".strip()
    templates = config.templates or (0,)
    return table.prompt(name, adjective, templates[number % len(templates)]) + end


def _cell_words(text: str) -> dict[str, str]:
    """Return the facts in a cell of a plan: ``device: GE Logiq E9; birads: 4``."""
    facts = {}
    for part in filter(str.strip, text.split(";")):
        column, colon, value = part.partition(":")
        if not colon or not column.strip() or not value.strip():
            raise ConfigurationError(f"words is {text!r:.80}, expected such as 'device: GE Logiq E9; birads: 4'")
        facts[column.strip()] = value.strip()
    return facts


_AS_CONFIGURED = ("mode", "scheduler", "steps", "guidance", "strength", "height", "width")
"""Columns of a plan that are checked as the configuration's keys of the same names are."""


def _given_plan(path: Path, config: GenerateConfig, table: PromptTable, wanted: PlanInputs) -> Iterator[PlanRow]:
    seen: Counter[tuple[str, str]] = Counter()
    checked: set[tuple[Any, ...]] = set()
    for row, given in enumerate(read_table(path, ("words",))):
        if not given.get("class_name"):
            raise ConfigurationError(f"{path}, row {row}: class_name is empty, expected one of {list(wanted.classes)}")
        cell = (given["class_name"], given.get("adjective") or "none")
        try:
            made = complete_row(row, seen[cell], given, config, table, wanted)
            check_range(made.seed, 0, 2**63 - 1, "seed")
            if made.batch_key not in checked:
                replace(config, **{name: getattr(made, name) for name in _AS_CONFIGURED})
                checked.add(made.batch_key)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, row {row}: {error}") from error
        seen[cell] += 1
        yield made
    if not seen:
        raise ConfigurationError(f"{path}: holds no row; expected a head line and one line per image")
