"""Simulated images in place of a data set that is not at hand: the source called ``simulated``."""

from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.errors import ForeignOutput
from meddap_monai.phantom.simulation import write_phantom_pictures, write_phantom_study
from meddap_monai.study.config import SIMULATED, SimulatedConfig

_WHO = {"index": (0, "own"), "unseen": (1, "unseen"), "unlabelled": (2, "own")}
"""Section -> seed of its patients, and its scanner."""


def place(source: Any, config: SimulatedConfig, folder: Path, section: str) -> Any:
    """Return `source`, or for the source ``simulated`` the folder of images that are written there once.

    Args:
        source: a path, or ``simulated``.
        config: how many, and whether in colour.
        folder: of the study; images go to ``simulated/<section>`` below it.
        section: "index", "unseen" (another scanner) or "unlabelled" (other patients).
    """
    if str(source) != SIMULATED:
        return source
    target = folder / SIMULATED / section
    marker = target.with_suffix(".json")
    seed, scanner = _WHO[section]
    plan = {"patients": config.patients_per_class, "images": config.images_per_patient, "colour": config.colour}
    if not marker.exists():
        write = write_phantom_pictures if config.colour else write_phantom_study
        write(target, config.patients_per_class, config.images_per_patient, seed, scanner)
        store.write_json(marker, plan)
    elif store.read_json(marker) != plan:
        raise ForeignOutput(f"{target}: holds other simulated images than {plan}; give another output folder")
    return target
