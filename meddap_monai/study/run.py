"""Run a study: one draw of the small data set per seed, and on each draw every stage for every variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from meddap_monai import provenance, store
from meddap_monai.classifier.train import classify
from meddap_monai.diffusion.base import base_folder
from meddap_monai.diffusion.pretrain import pretrain
from meddap_monai.diffusion.sample import generate
from meddap_monai.diffusion.train import AdaptConfig, adapt
from meddap_monai.evaluation.stage import Run, evaluate
from meddap_monai.images.index import IndexConfig, index
from meddap_monai.records import class_names, draw_split, iter_records, write_records
from meddap_monai.selection.cluster import cluster
from meddap_monai.selection.filter import select
from meddap_monai.selection.mix import mix
from meddap_monai.study.configuration import ARMS, DrawConfig, StudyConfig, read_study
from meddap_monai.study.simulated import place


def run_study(output: Path | str, sections: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Run every stage of a study and return the path of its report.

    Args:
        output: folder of the study; each stage writes into its own folder below.
        sections: the keys of `StudyConfig`.
        overwrite: replace folders of another configuration instead of refusing them.

    Raises:
        ConfigurationError: before anything is read or written.
        MeddapError: what the stages raise; what is finished stays, and the same call goes on.
    """
    output = Path(output)
    study, variants = read_study(sections)
    own = _index(study, study.index, output, "index", overwrite)
    unseen = _index(study, study.unseen, output, "unseen", overwrite) if study.unseen else None
    runs: list[Run] = []
    folders: dict[str, Path] = {"index": output / "index"} | ({"unseen": output / "unseen"} if unseen else {})
    for seed in tqdm(study.seeds, desc="study", unit="seed", leave=True):
        folder = output / f"seed_{seed}"
        records = draw(study.draw, folder / "draw", own, seed, study.base, overwrite) if study.draw else own
        once = Once()
        for name, variant in variants.items():
            track = _Track(folder, name, seed, records, overwrite, once)
            runs += track.run(variant)
            folders.update(track.folders)
    return evaluate(
        study.evaluate, output / "evaluate", runs=runs, unseen=unseen, sections=folders, overwrite=overwrite
    )


def _index(study: StudyConfig, config: IndexConfig, output: Path, name: str, overwrite: bool) -> Path:
    source = place(config.source, study.simulated, output, "own" if name == "index" else "unseen")
    return index(dataclasses.replace(config, source=source), output / name, overwrite=overwrite)


def draw(config: DrawConfig, output: Path, records: Path, seed: int, base: str, overwrite: bool = False) -> Path:
    """Draw the small data set of one seed from an index; the images stay where they are.

    Images that the base was trained on may train here too, and are left out of val and test.
    """
    seen = provenance.train_hashes(base_folder(base))
    configuration = {"draw": config, "seed": seed, "seen": store.sha256_text("\n".join(sorted(seen)))}
    with store.open_stage(output, "index", configuration, {"records": records}, overwrite) as stage:
        if not stage.done:
            everything = list(iter_records(records))
            drawn = draw_split(everything, config.train, config.val, seed, seen)
            write_records(output / "records.jsonl", drawn)
            counts = {"in": len(everything), "out": len(drawn), "rejected": len(everything) - len(drawn)}
            stage.finish(counts, classes=class_names(records))
    return output / "records.jsonl"


class Once:
    """Compute equal things once: the same stage with the same configuration and inputs keeps its first folder."""

    def __init__(self) -> None:
        self._made: dict[str, Path] = {}

    def __call__(self, key: Any, folder: Path, make: Callable[[Path], Path]) -> Path:
        """Return what `make(folder)` returned for the first equal `key`."""
        name = store.hash_configuration(key)
        if name not in self._made:
            self._made[name] = make(folder)
        return self._made[name]


@dataclass
class _Track:
    """One variant of one seed: from its records to one classifier per arm."""

    folder: Path
    variant: str
    seed: int
    records: Path
    overwrite: bool
    once: Once
    folders: dict[str, Path] = field(default_factory=dict)

    def run(self, study: StudyConfig) -> list[Run]:
        needs_synthetic = any(ARMS[arm][0] != "real" for arm in study.arms)
        kept = self._synthetic(study) if needs_synthetic else None
        runs = []
        for arm in study.arms:
            run = self._arm(study, arm, kept)
            if run is not None:
                runs.append(run)
        return runs

    def _stage(self, name: str, config: Any, make: Callable[[Path], Path], *inputs: Any, leaf: str = "") -> Path:
        folder = self.folder / name / self.variant / leaf if self.variant else self.folder / name / leaf
        result = self.once([name, config, [str(item) for item in inputs]], folder, make)
        self.folders.setdefault(name, result if result.is_dir() else result.parent)
        return result

    def _synthetic(self, study: StudyConfig) -> Path:
        learn = self.records
        if study.cluster is not None:
            config = dataclasses.replace(study.cluster, seed=self.seed)
            learn = self._stage(
                "cluster", config, lambda to: cluster(config, to, records=self.records, overwrite=self.overwrite), learn
            )
        base = self._base(study)
        adapters: list[Path] = []
        if study.adapt is not None:
            base, adapters = self._adapt(study.adapt, base, learn)
        make = dataclasses.replace(study.generate, seed=self.seed)
        generated = self._stage(
            "generate",
            make,
            lambda to: generate(make, to, records=self.records, base=base, adapters=adapters, overwrite=self.overwrite),
            base,
            *adapters,
        )
        choose = dataclasses.replace(study.select, seed=self.seed)
        return self._stage(
            "select",
            choose,
            lambda to: select(choose, to, records=self.records, generated=generated, overwrite=self.overwrite),
            generated,
        )

    def _base(self, study: StudyConfig) -> str:
        if study.pretrain is None:
            return study.base
        config = dataclasses.replace(study.pretrain, seed=self.seed)
        return str(
            self._stage(
                "pretrain", config, lambda to: pretrain(config, to, records=self.records, overwrite=self.overwrite)
            )
        )

    def _adapt(self, config: AdaptConfig, base: str, learn: Path) -> tuple[str, list[Path]]:
        config = dataclasses.replace(config, seed=self.seed)
        made = self._stage(
            "adapt",
            config,
            lambda to: adapt(config, to, records=learn, base=base, overwrite=self.overwrite),
            base,
            learn,
        )
        return (str(made / "base"), []) if (made / "base").is_dir() else (base, [made])

    def _arm(self, study: StudyConfig, arm: str, kept: Path | None) -> Run | None:
        content, changes = ARMS[arm]
        blend = dataclasses.replace(study.mix, arm=content, seed=self.seed)
        inputs = None if content == "real" else kept
        hybrid = self._stage(
            "mix",
            blend,
            lambda to: mix(blend, to, records=self.records, kept=inputs, overwrite=self.overwrite),
            inputs,
            leaf=content,
        )
        train = dataclasses.replace(study.classify, seed=self.seed, **changes)
        fresh = False

        def make(to: Path) -> Path:
            nonlocal fresh
            fresh = True
            return classify(train, to, records=hybrid, overwrite=self.overwrite)

        model = self._stage("classify", train, make, hybrid, leaf=arm)
        name = f"{arm}@{self.variant}" if self.variant else arm
        return Run(arm=name, seed=self.seed, model=model, records=self.records) if fresh else None
