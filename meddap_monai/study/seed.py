"""One seed of a study, as a whole: its small draw, then every stage for every variant."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.progress import progress
from meddap_monai.core.records import class_names, draw_split, iter_records, write_records
from meddap_monai.diffusion.bases.base import Base, open_base
from meddap_monai.engines.task import Check, Work
from meddap_monai.images import provenance
from meddap_monai.study.config import DrawConfig, read_study
from meddap_monai.study.track import Shared, StageCache, Track

TASK = "meddap_monai.study.seed:open_seeds"


@dataclass(frozen=True)
class SeedRunner:
    """Runs the seeds of a study, one by one.

    Attributes:
        given: ``sections`` of the study, its ``output``, the records of its index (``own``) and of ``unlabelled`` or
            None, and ``overwrite``; of files their paths.
        ranks: the processes that divide the stages.
        opened: opens a base, each one once.
        before: what all seeds share.
    """

    given: Mapping[str, Any]
    ranks: Ranks
    opened: Callable[[str], Base]
    before: StageCache = field(default_factory=StageCache)

    def run(self, seed: int) -> dict[str, Any]:
        """Run a seed: the unit of an engine.

        Returns:
            ``runs``, its classifiers as (arm, seed, model folder, records file); ``folders``, the first folder of each
            stage; ``stages``, all folders.
        """
        study, variants = read_study(self.given["sections"])
        own, overwrite = Path(self.given["own"]), self.given["overwrite"]
        unlabelled = Path(self.given["unlabelled"]) if self.given["unlabelled"] else None
        folder = Path(self.given["output"]) / f"seed_{seed}"
        records = own
        if study.draw:
            small = partial(draw, study.draw, folder / "draw", own, seed, self.opened(study.base))
            records = self.ranks.run_on_first(partial(small, overwrite, unlabelled))
        shared = Shared(records, overwrite, StageCache(), unlabelled, self.before, self.ranks, self.opened)
        runs: list[list[Any]] = []
        folders: dict[str, str] = {}
        for variant in progress(variants.values(), desc=f"seed {seed}", unit="variant", disable=len(variants) < 2):
            track = Track(folder, variant, seed, shared)
            runs += [[run.arm, run.seed, str(run.model), str(run.records)] for run in track.run()]
            for name, path in track.folders.items():
                folders.setdefault(name, str(path))
        stages = [str(path) for cached in (self.before, shared.once) for path in cached.folders]
        return {"runs": runs, "folders": folders, "stages": stages}


@contextlib.contextmanager
def open_seeds(given: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Open what runs seeds: the task of an engine."""
    yield SeedRunner(given, SINGLE_PROCESS, cache(open_base)).run


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
