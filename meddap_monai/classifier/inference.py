"""From a folder of DICOM or image files to a table of calibrated class probabilities, by one classifier or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from meddap_monai import store
from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.scoring import Classifier, load_classifier, logits_of_views, softmax
from meddap_monai.core.progress import progress
from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.framing import to_square
from meddap_monai.images.indexing.masks import pair_of
from meddap_monai.images.indexing.sources import walk
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.plain import read_plain, sniff


def infer(config: InferConfig, models: Sequence[Path | str], source: Path | str, output: Path | str) -> Path:
    """Classify every readable file below a folder (or one file) and write a CSV.

    Columns: ``file`` (relative to the folder), ``frames``, ``class``, ``confidence``, ``p_<class>`` for each class, and
    ``spread``, the largest standard deviation of a class probability between the models (0 for one model). Files that
    cannot be read stand in ``<output>.rejected.csv`` with the reason. Both are written with mode 600: file names can
    hold what the files' content was cleared of. Not for diagnosis.

    Args:
        config: how.
        models: folders of ``classify``; the probabilities of several are averaged (an ensemble of seeds).
        source: folder or file.
        output: the CSV.

    Returns:
        `output`.

    Raises:
        ConfigurationError: no model, no such source, no file in it, or models of different classes.
    """
    source, output = Path(source), Path(output)
    ensemble = load_ensemble(models, config.device)
    classes = ensemble[0].classes
    found, rejected = [], []
    files = source_files(source, config.masks, config.follow_links)
    for path, refused in progress(files, desc="infer", unit="file"):
        name = store.name_text(path.relative_to(source) if path != source else path.name)
        try:
            if refused:
                raise UnreadableImage(f"{path}: {refused}")
            frames = read_frames(path, config)
        except UnreadableImage as error:
            rejected.append([name, str(error).replace(str(path), name)])
            continue
        each = np.stack([predict_frames(model, frames, config.calibrated).mean(axis=0) for model in ensemble])
        mean = each.mean(axis=0)
        best = int(mean.argmax())
        values = [f"{value:.6f}" for value in (mean[best], *mean, float(each.std(axis=0).max()))]
        found.append([name, len(frames), classes[best], *values])
    head = ["file", "frames", "class", "confidence", *[f"p_{name}" for name in classes], "spread"]
    beside = output.with_name(output.name + ".rejected.csv")
    store.write_atomic(beside, store.csv_text(["file", "reason"], rejected), mode=0o600)
    return store.write_atomic(output, store.csv_text(head, found), mode=0o600)


def load_ensemble(models: Sequence[Path | str], device: str = "cpu") -> list[Classifier]:
    """Load classifiers that share their classes.

    Raises:
        ConfigurationError: none is given, or their classes differ.
    """
    if not models:
        raise ConfigurationError("infer: got no model, expected at least one folder of classify")
    ensemble = [load_classifier(folder, device) for folder in models]
    for folder, model in zip(models, ensemble, strict=True):
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


def read_frames(path: Path, config: InferConfig) -> np.ndarray:
    """Return the wanted frames of a DICOM or image file: ``(F, C, H, W)`` uint8.

    Raises:
        UnreadableImage: see `meddap_monai.images`.
    """
    kind = sniff(path)
    if kind == "dicom":
        outside = "crop" if config.region == "b-mode" else "keep"
        return read_ultrasound(
            path,
            frames=config.frames,
            outside=outside,
            colour="auto",
            guess_region=True,  # no picture leaves, so that a name that the guess keeps does not either
            full_frame=config.full_frame,
            key=b"not needed",
        )[0]
    if not kind:
        raise UnreadableImage(f"{path}: is neither DICOM nor a known image format")
    return read_plain(path, frames=config.frames)[0]


def picture_of(pixels: np.ndarray, channels: int) -> Image.Image:
    """Return pixels ``(C, H, W)`` uint8, grey or colour, as a grey (`channels` 1) or colour picture."""
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array).convert("L" if channels == 1 else "RGB")


@torch.inference_mode()
def predict_frames(model: Classifier, frames: np.ndarray, calibrated: bool = True) -> np.ndarray:
    """Return ``(F, K)`` probabilities of frames ``(F, C, H, W)`` uint8."""
    config = model.config
    pictures = [picture_of(pixels, config.channels) for pixels in frames]
    images = torch.stack([to_square(picture, config.resolution, config.fit) for picture in pictures]).to(config.device)
    logits = logits_of_views(model.network.eval(), to_float(images), config.views).numpy()
    return softmax(logits / (model.temperature if calibrated else 1.0))
