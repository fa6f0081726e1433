"""One seed of a study, as a whole: its small draw, then every stage for every variant."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.progress import progress
from meddap_monai.core.records import class_names, draw_split, iter_records, write_records
from meddap_monai.diffusion.bases.base import Base, open_base
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.task import Check, Work
from meddap_monai.images import provenance
from meddap_monai.study.config import DrawConfig, StudyConfig, Variant
from meddap_monai.study.track import Shared, StageCache, Track

TASK = "meddap_monai.study.seed:open_seeds"


@dataclass(frozen=True)
class SeedRunner:
    """Runs the seeds of a study, one by one.

    Attributes:
        study: what all variants share.
        variants: of the study.
        output: its folder.
        own: the records of its index.
        unlabelled: records that train the base before, or None.
        overwrite: see `run_study`.
        ranks: the processes that divide the stages.
        opened: opens a base, each one once.
        before: what all seeds share.
    """

    study: StudyConfig
    variants: Sequence[Variant]
    output: Path
    own: Path
    unlabelled: Path | None
    overwrite: bool
    ranks: Ranks = SINGLE_PROCESS
    opened: Callable[[str], Base] = field(default_factory=lambda: cache(open_base))
    before: StageCache = field(default_factory=StageCache)

    def plain(self) -> dict[str, Any]:
        """Return what another process needs to run the same seeds: plain data, of files their paths."""
        variants = [[one.name, one.real, _applied(one.config)] for one in self.variants]
        unlabelled = str(self.unlabelled) if self.unlabelled else None
        places = {"output": str(self.output), "own": str(self.own), "unlabelled": unlabelled}
        return {"study": _applied(self.study), "variants": variants, "overwrite": self.overwrite, **places}

    def run(self, seed: int) -> dict[str, Any]:
        """Run a seed: the unit of an engine.

        Returns:
            ``runs``, its classifiers as (arm, seed, model folder, records file); ``folders``, the first folder of each
            stage; ``stages``, all folders.
        """
        folder, records = self.output / f"seed_{seed}", self.own
        if self.study.draw:
            small = partial(draw, self.study.draw, folder / "draw", self.own, seed, self.opened(self.study.base))
            records = self.ranks.run_on_first(partial(small, self.overwrite, self.unlabelled))
        shared = Shared(records, self.overwrite, StageCache(), self.unlabelled, self.before, self.ranks, self.opened)
        runs: list[list[Any]] = []
        folders: dict[str, str] = {}
        for variant in progress(self.variants, desc=f"seed {seed}", unit="variant", disable=len(self.variants) < 2):
            track = Track(folder, variant, seed, shared)
            runs += [[run.arm, run.seed, str(run.model), str(run.records)] for run in track.run()]
            for name, path in track.folders.items():
                folders.setdefault(name, str(path))
        stages = [str(path) for cached in (self.before, shared.once) for path in cached.folders]
        return {"runs": runs, "folders": folders, "stages": stages}


def _applied(config: StudyConfig) -> dict[str, Any]:
    """Return a configuration as plain data, without what was applied: axes, and limits, whose keys may be numbers."""
    return store.plain(replace(config, limits={}, variants={}, grid={}, engine=EngineConfig()))


def read_runner(given: Mapping[str, Any]) -> SeedRunner:
    """Return the runner of which `SeedRunner.plain` was made."""
    variants = [Variant(name, real, build(StudyConfig, keys, "study")) for name, real, keys in given["variants"]]
    unlabelled = Path(given["unlabelled"]) if given["unlabelled"] else None
    places = Path(given["output"]), Path(given["own"]), unlabelled
    return SeedRunner(build(StudyConfig, given["study"], "study"), variants, *places, given["overwrite"])


@contextlib.contextmanager
def open_seeds(given: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Open what runs seeds: the task of an engine."""
    yield read_runner(given).run


def draw(
    config: DrawConfig,
    output: Path,
    records: Path,
    seed: int,
    base: str | Path | Base,
    overwrite: bool = False,
    unlabelled: Path | None = None,
) -> Path:
    """Draw the small data set of one seed from an index; the images stay where they are.

    Images that the base was trained on, equal or edited, or will be from `unlabelled`, and other images of those
    patients may train here too, and are left out of val and test.
    """
    saw = open_base(base).training_images
    configuration = {"draw": config, "seed": seed, "seen": store.sha256_text("\n".join(sorted(saw)))}
    inputs = {"records": records} | ({"unlabelled": unlabelled} if unlabelled else {})
    with store.open_stage(output, "index", configuration, inputs, overwrite) as stage:
        if not stage.done:
            everything = list(iter_records(records))
            seen = frozenset(one.record["sha256"] for one in provenance.find_seen(everything, saw) if one.same)
            if unlabelled:
                seen |= provenance.shared_with(everything, iter_records(unlabelled))
            drawn = draw_split(everything, config.train, config.val, seed, seen)
            write_records(output / "records.jsonl", drawn)
            counts = {"in": len(everything), "out": len(drawn), "rejected": len(everything) - len(drawn)}
            stage.finish(counts, classes=class_names(records))
    return output / "records.jsonl"
