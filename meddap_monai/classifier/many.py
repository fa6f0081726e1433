"""Many classifiers at once: the cells of a grid, the candidates of a search; each one a unit of the engine in use."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.configuration import build
from meddap_monai.core.progress import progress
from meddap_monai.engines.engine import current_engine, needs_gpus
from meddap_monai.engines.task import Check, Work

TASK = "meddap_monai.classifier.many:open_training"


@dataclass(frozen=True)
class Training:
    """One classifier to train: the arguments of `classify`."""

    config: ClassifyConfig
    output: Path
    records: Path
    overwrite: bool = False


def classify_all(trainings: Sequence[Training], desc: str, unit: str) -> None:
    """Train all classifiers; what is done is skipped.

    Args:
        trainings: each with an output folder of its own.
        desc: of the progress line.
        unit: what one is, in the progress line.
    """
    items = [
        {
            "config": store.plain(one.config),
            "output": str(one.output),
            "records": str(one.records),
            "overwrite": one.overwrite,
        }
        for one in trainings
    ]
    gpus = needs_gpus(trainings[0].config.device) if trainings else False
    with progress(total=len(items), desc=desc, unit=unit) as bar:
        for _ in current_engine().map(TASK, items, None, gpus=gpus):
            bar.update()


@contextlib.contextmanager
def open_training(_settings: Any, _check: Check) -> Iterator[Work]:
    """Open what trains one classifier: the task of an engine."""

    def work(item: Mapping[str, Any]) -> None:
        config = build(ClassifyConfig, item["config"], "classify")
        classify(config, Path(item["output"]), records=Path(item["records"]), overwrite=item["overwrite"])

    yield work
