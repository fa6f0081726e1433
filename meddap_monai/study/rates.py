"""How fast this machine was: what finished stage folders say, for the estimates of ``--dry-run``.

A rate is measured, never guessed: seconds per unit of work of a finished run of the same stage, with the same settings
that decide speed, on the same base, on this machine.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.ids import leaves, split
from meddap_monai.errors import MeddapError

UNITS = {
    "index": "files",
    "cluster": "images",
    "pretrain": "steps",
    "adapt": "images seen",
    "generate": "images x steps",
    "select": "images",
    "mix": "records",
    "classify": "images seen",
    "evaluate": "classifiers",
}
"""Stage -> what its time grows with."""
_PER_UNIT = ("index", "generate")
"""Stages whose folder grows with their work; the folders of the others have one size."""
_SPEED = {
    *("channels", "compile", "encoder", "features", "fit", "folds", "frames", "gradient_checkpointing", "head"),
    *("height", "layers", "latents", "method", "mode", "precision", "rank", "region", "resolution", "scheduler"),
    *("text_encoder", "use", "views", "width"),
}
"""Names of settings that decide how long a unit of work takes."""
_DEEPEST = 6


@dataclass(frozen=True)
class Work:
    """What a stage has to do.

    Attributes:
        stage: its name.
        configuration: as ``stage.json`` has it.
        units: amount of `UNITS`; None where it is not known yet.
        base: hash of the base that it uses, if any.
    """

    stage: str
    configuration: Mapping[str, Any]
    units: float | None
    base: str | None = None

    @property
    def alike(self) -> dict[str, Any]:
        """Full id -> value of the settings that decide speed, and the base."""
        speed = {key: value for key, value in leaves(self.configuration) if set(split(key)) & _SPEED}
        return {"": self.stage, "base": self.base, "device": self.configuration.get("device"), **speed}


@dataclass(frozen=True)
class Rate:
    """What one finished run took: seconds per unit, and bytes per unit or as a whole."""

    work: Work
    seconds: float
    size: int

    def estimate(self, work: Work) -> tuple[float, float] | None:
        """Return seconds and bytes of other work, or None where this run does not tell."""
        if not self.work.units or work.units is None or work.alike != self.work.alike:
            return None
        share = work.units / self.work.units
        return self.seconds * share, self.size * (share if work.stage in _PER_UNIT else 1.0)


def measured(folders: Iterable[Path]) -> list[Rate]:
    """Return the rates of the finished runs of this machine below some folders, the latest last."""
    found = {path.resolve(): path.parent for folder in folders for path in _stage_files(folder)}
    rates = [rate for folder in found.values() if (rate := _rate_of(folder)) is not None]
    return sorted(rates, key=lambda rate: rate.work.units or 0)


def estimate(work: Work, rates: Iterable[Rate]) -> tuple[float, float] | None:
    """Return seconds and bytes by the largest measured run that is alike, or None."""
    told = [one for rate in rates if (one := rate.estimate(work)) is not None]
    return told[-1] if told else None


def units_of(stage: str, configuration: Mapping[str, Any], items: int | None) -> float | None:
    """Return the amount of work.

    Args:
        stage: its name.
        configuration: of the stage.
        items: files, images, records or classifiers that it gets or makes; None where that is not known.
    """
    if stage == "pretrain":
        return float(sum(part.get("steps", 0) for part in configuration.values() if isinstance(part, Mapping)))
    if stage in ("adapt", "classify"):
        return float(configuration["steps"] * configuration["batch"])
    if items is None:
        return None
    return float(items * configuration["steps"] if stage == "generate" else items)


def _stage_files(folder: Path) -> Iterator[Path]:
    for depth in range(_DEEPEST):
        yield from sorted(folder.glob("/".join([*["*"] * depth, "stage.json"])))


def _rate_of(folder: Path) -> Rate | None:
    try:
        document, cost = store.read_stage(folder), store.read_cost(folder)
    except MeddapError:
        return None
    if document.get("state") != "done" or cost.get("machine") != store.this_machine():
        return None
    stage, counts, inputs = document["stage"], document["counts"], document["inputs"]
    configuration = document["configuration"] | ({"device": document["device"]} if "device" in document else {})
    items = counts["out"] if stage == "generate" else counts["in"]
    if stage == "evaluate":
        items = sum(name.endswith(" model") for name in inputs)
    try:
        units = units_of(stage, configuration, items)
    except (KeyError, TypeError, AttributeError):  # a draw, a join: a folder of another kind of this stage
        return None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Rate(Work(stage, configuration, units, inputs.get("base")), cost["seconds"], size)
