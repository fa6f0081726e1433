"""From a folder of DICOM or image files to a table of calibrated class probabilities, by one classifier or several."""

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.answers import Scores, abstention_of, cells_of, head_of, join, score_frames
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.scoring import Classifier, load_classifier
from meddap_monai.core.configuration import build
from meddap_monai.core.progress import progress
from meddap_monai.core.records import FILE_GROUP
from meddap_monai.engines.engine import current_engine, needs_gpus, use_engine
from meddap_monai.engines.task import Check, Work
from meddap_monai.errors import ConfigurationError, ForeignOutput, UnreadableImage
from meddap_monai.images.indexing.masks import pair_of
from meddap_monai.images.indexing.sources import walk
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.plain import is_marked_synthetic, read_plain, sniff
from meddap_monai.images.reading.pseudonym import load_key, pseudonym

TASK = "meddap_monai.classifier.inference:open_ensemble"
TOGETHER = 16
"""Files of one unit of an engine."""
_SYNTHETIC = "set synthetic to keep to take it as an image"


@dataclass(frozen=True)
class Reading:
    """What is read of a file.

    Attributes:
        pixels: ``(F, C, H, W)`` uint8.
        numbers: of the frames, 0 is the first.
        patient: pseudonym; empty where the file names none.
    """

    pixels: np.ndarray
    numbers: tuple[int, ...]
    patient: str


@dataclass(frozen=True)
class FileScores:
    """What classifiers say of a file: its name in the table, the numbers of its frames, whose it is, the scores."""

    name: str
    numbers: tuple[int, ...]
    patient: str
    scores: Scores


def infer(
    config: InferConfig, models: Sequence[Path | str], source: Path | str, output: Path | str, overwrite: bool = False
) -> Path:
    """Classify every readable file below a folder (or one file) and write a CSV.

    Columns: what the row is about (``file``, relative to the folder, with ``frames`` or ``frame``; or ``patient`` with
    ``files``, ``flagged_files`` and ``frames``), then

    - ``class``, or ``no answer``; ``confidence``, the largest of ``p_<class>``,
    - ``spread``, the largest standard deviation of a class probability between the models (0 for one model),
    - ``set``, the classes that cannot be excluded at the stated coverage,
    - ``out_of_distribution``, above 1 for images unlike the training images; then ``flagged`` is yes. Flagged files
      are left out of the mean of a patient, unless all are.

    Files that cannot be read, or are not what is asked for, stand in ``<output>.rejected.csv`` with the reason. Both
    have mode 600: file names can hold what the files' content was cleared of. Not for diagnosis.

    Args:
        config: how.
        models: folders of ``classify``; the probabilities of several are averaged (an ensemble of seeds).
        source: folder or file.
        output: the CSV.
        overwrite: replace tables that are there.

    Returns:
        `output`.

    Raises:
        ConfigurationError: no model, no such source, no file in it, or models of different classes.
        ForeignOutput: a table is there already.
        StageError: a model that cannot tell when it has no answer.
    """
    source, output = Path(source), Path(output)
    beside = output.with_name(output.name + ".rejected.csv")
    if there := [path for path in (output, beside) if path.exists() and not overwrite]:
        raise ForeignOutput(f"infer: {there[0]} exists already; give another output, or --overwrite to replace it")
    with use_engine(config.engine) as engine:
        ensemble = load_ensemble(models, config.device if engine.in_process else "cpu")
        _say_few(ensemble, config)
        found, rejected = _score_files(source, models, ensemble, config)
    table = store.csv_text(head_of(config, ensemble[0].classes), list(_rows(found, ensemble, config)))
    store.write_atomic(beside, store.csv_text(["file", "reason"], rejected), mode=0o600)
    return store.write_atomic(output, table, mode=0o600)


def _score_files(
    source: Path, models: Sequence[Path | str], ensemble: Sequence[Classifier], config: InferConfig
) -> tuple[list[FileScores], list[list[str]]]:
    """Return the scores of the files that can be used, and name and reason of the others, by the engine in use."""
    key = load_key(config.key_file) if config.rows == "patient" else b"not needed"
    found: list[FileScores] = []
    rejected: list[list[str]] = []
    files = source_files(source, config.masks, config.follow_links)
    chunks = [
        [[str(path), refused] for path, refused in files[start : start + TOGETHER]]
        for start in range(0, len(files), TOGETHER)
    ]
    settings = {
        "config": store.plain(config),
        "models": [str(Path(folder).absolute()) for folder in models],
        "source": str(source),
        "key": key.hex(),
    }
    judge = functools.partial(_score_chunk, ensemble=ensemble, config=config, source=source, key=key)
    answers: dict[int, list[Any]] = {}
    with progress(total=len(files), desc="infer", unit="file") as bar:
        made = current_engine().map(TASK, chunks, settings, gpus=needs_gpus(config.device), twice=True, here=judge)
        for number, outcome in made:
            answers[number] = outcome
            bar.update(len(outcome))
    for outcome in (one for number in sorted(answers) for one in answers[number]):
        if "reason" in outcome:
            rejected.append([outcome["file"], outcome["reason"]])
        else:
            scores = Scores.from_plain(outcome["scores"])
            found.append(FileScores(outcome["file"], tuple(outcome["frames"]), outcome["patient"], scores))
    return found, rejected


@contextlib.contextmanager
def open_ensemble(settings: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Load the classifiers once, to judge lists of files: the task of an engine."""
    config = build(InferConfig, settings["config"], "infer")
    ensemble, key = load_ensemble(settings["models"], config.device), bytes.fromhex(settings["key"])
    yield functools.partial(_score_chunk, ensemble=ensemble, config=config, source=Path(settings["source"]), key=key)


def _score_chunk(
    files: Sequence[tuple[str, str]], ensemble: Sequence[Classifier], config: InferConfig, source: Path, key: bytes
) -> list[dict[str, Any]]:
    return [_score_file(Path(path), refused, ensemble, config, source, key) for path, refused in files]


def _score_file(
    path: Path, refused: str, ensemble: Sequence[Classifier], config: InferConfig, source: Path, key: bytes
) -> dict[str, Any]:
    """Return what classifiers say of a file, or why it cannot be used, as plain data."""
    name = store.name_text(path.relative_to(source) if path != source else path.name)
    try:
        if refused:
            raise UnreadableImage(f"{path}: {refused}")
        reading = read_frames(path, config, key)
    except UnreadableImage as error:
        return {"file": name, "reason": str(error).replace(str(path), name)}
    scores = score_frames(ensemble, reading.pixels, config.outliers)
    if config.rows != "frame":
        scores = scores.mean()
    patient = reading.patient or FILE_GROUP + pseudonym(name, key, "file")
    numbers = [int(number) for number in reading.numbers]
    return {"file": name, "frames": numbers, "patient": patient, "scores": scores.to_plain()}


def _rows(found: Sequence[FileScores], ensemble: Sequence[Classifier], config: InferConfig) -> Iterator[list[Any]]:
    if config.rows == "patient":
        patients: dict[str, list[FileScores]] = {}
        for file in found:
            patients.setdefault(file.patient, []).append(file)
        for patient, files in sorted(patients.items()):
            kept = [file.scores for file in files if not file.scores.flagged]
            scores = join(kept or [file.scores for file in files])
            about = [patient, len(files), len(files) - len(kept), sum(len(file.numbers) for file in files)]
            yield [*about, *cells_of(scores, ensemble, config)]
        return
    for file in found:
        each = [(len(file.numbers), file.scores)]
        if config.rows == "frame":
            each = [(number, file.scores.frame(place)) for place, number in enumerate(file.numbers)]
        for number, scores in each:
            yield [file.name, number, *cells_of(scores, ensemble, config)]


def _say_few(ensemble: Sequence[Classifier], config: InferConfig) -> None:
    """Warn where no set can leave out a class: with G patients, no p-value is below 1 / (G + 1)."""
    fewest = min(abstention_of(model).known_patients for model in ensemble)
    needed = math.ceil(1 / (1 - config.coverage) - 1 - 1e-9)
    if fewest < needed:
        warnings.warn(
            f"infer: calibrated on {fewest} validation patient(s); a coverage of {config.coverage:g} needs at least "
            f"{needed}, so that every set holds all classes"
            + (" and nothing is answered" if config.answer == "set" else "")
            + "; train with more validation patients, lower coverage or set answer=always",
            stacklevel=3,
        )


def load_ensemble(models: Sequence[Path | str], device: str = "cpu") -> list[Classifier]:
    """Load classifiers that share their classes and can tell when they have no answer.

    Raises:
        ConfigurationError: none is given, or their classes differ.
        StageError: one is missing, or of an earlier version.
    """
    if not models:
        raise ConfigurationError("infer: got no model, expected at least one folder of classify")
    ensemble = [load_classifier(folder, device) for folder in models]
    for folder, model in zip(models, ensemble, strict=True):
        abstention_of(model, folder)
        if model.classes != ensemble[0].classes:
            raise ConfigurationError(
                f"infer: {folder} knows {', '.join(model.classes)}, the first model {', '.join(ensemble[0].classes)}; "
                "an ensemble needs equal classes in equal order"
            )
    return ensemble


def source_files(source: Path, masks: str = "reject", follow_links: bool = False) -> list[tuple[Path, str]]:
    """Return (path, why it is left out or "") of everything below a folder in a fixed order; of a file, itself.

    Left out are, as in the index, folders that cannot be listed, links that are not followed and masks. Hidden files
    are not returned at all.

    Args:
        source: folder or file.
        masks: see `InferConfig`.
        follow_links: see `InferConfig`.

    Raises:
        ConfigurationError: nothing is there.
    """
    if source.is_file():
        return [(source, "")]
    if not source.is_dir():
        raise ConfigurationError(f"infer: {source} does not exist; give a folder or a file")
    found = [(path, error, *pair_of(relative)) for path, relative, error in walk(source, follow_links)]
    if not found:
        raise ConfigurationError(f"infer: {source} holds no file, expected DICOM files or images")
    pictures = {pair for _, error, pair, is_mask in found if pair and not is_mask and not error}
    drawn = "is a mask, by its name, of an image that is there; set masks to keep to take it as an image"
    return [
        (path, error or (drawn if masks == "reject" and is_mask and pair in pictures else ""))
        for path, error, pair, is_mask in sorted(found)
    ]


def read_frames(path: Path, config: InferConfig, key: bytes = b"not needed") -> Reading:
    """Return the wanted frames of a DICOM or image file.

    Args:
        path: the file.
        config: how it is read.
        key: for the patient's pseudonym.

    Raises:
        UnreadableImage: see `meddap_monai.images`; another modality, or marked as synthetic, unless that is asked for.
    """
    kind = sniff(path)
    if not kind:
        raise UnreadableImage(f"{path}: is neither DICOM nor a known image format")
    if kind != "dicom":
        if config.synthetic == "reject" and is_marked_synthetic(path):
            raise UnreadableImage(f"{path}: is marked as synthetic; {_SYNTHETIC}")
        pixels, _, numbers, _ = read_plain(path, frames=config.frames)
        return Reading(pixels, numbers, "")
    pixels, info = read_ultrasound(
        path,
        frames=config.frames,
        outside="crop" if config.region == "b-mode" else "keep",
        colour="auto",
        modality=config.modality,
        guess_region=True,  # no picture leaves, so that a name that the guess keeps does not either
        full_frame=config.full_frame,
        key=key,
    )
    if config.synthetic == "reject" and info.synthetic:
        raise UnreadableImage(f"{path}: is marked as synthetic (0008,001C); {_SYNTHETIC}")
    return Reading(pixels, info.chosen_frames, info.patient)
