"""Pieces that the classifier bundle's YAML puts together; each is an ordinary MONAI or Ignite component."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import EpochMetric
from monai.transforms import MapTransform
from torch import nn

from meddap_monai import store
from meddap_monai.classifier.answers import picture_of
from meddap_monai.classifier.inference import read_frames, source_files
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.core.distributed import launched
from meddap_monai.core.printing import PrintsArguments
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.tensors import cpu_state, save_tensors
from meddap_monai.errors import LeakedRecords, UnreadableImage
from meddap_monai.images.framing import to_square
from meddap_monai.statistics.metrics import macro_auc
from meddap_monai.training.finite import check_finite


def split_records(folder: Path | str, split: str, file: str = "records.jsonl", shared: bool = False) -> list[Record]:
    """Return the records of one split as MONAI items.

    Args:
        folder: of ``index`` or ``mix``.
        split: train, val, test or unseen.
        file: records file in it.
        shared: under ``torchrun``, only this process's share; all shares are equally long (last items are repeated).

    Raises:
        LeakedRecords: a synthetic record outside train.
    """
    rows = read_records(Path(folder) / file, split=split)
    if split != "train" and any(row["source"] == "synthetic" for row in rows):
        raise LeakedRecords(f"{folder}: synthetic images in split {split}; they only train")
    ranks = launched()
    if shared and ranks.size > 1:
        rows = [rows[place % len(rows)] for place in range(ranks.rank, len(rows) + -len(rows) % ranks.size, ranks.size)]
    return rows


def folder_items(folder: Path | str, **reading: Any) -> list[dict[str, str]]:
    """Return every file below a folder that can be classified as ``{"image": path}``, for inference.

    One frame of each file is read, so that none stops the run later. Files that are left out (`source_files`), cannot
    be read, show another modality or are marked as synthetic are counted in a warning, with the first reason.

    Args:
        folder: is searched through.
        reading: as `LoadForClassifierd` is told: region, full_frame, modality, synthetic.
    """
    config, items, reasons = InferConfig(frames="first", **reading), [], []
    for path, left_out in source_files(Path(folder)):
        try:
            if left_out:
                raise UnreadableImage(f"{path}: {left_out}")
            read_frames(path, config)
        except UnreadableImage as error:
            reasons.append(str(error))
        else:
            items.append({"image": str(path)})
    if reasons:
        number = f"{len(reasons)} of {len(items) + len(reasons)} files are left out"
        warnings.warn(f"classifier bundle: {number}, such as {reasons[0]}", stacklevel=2)
    return items


class LoadForClassifierd(PrintsArguments, MapTransform):
    """Read a DICOM or image file as the index does and fit it into a square: path -> ``(C, size, size)`` float 0..1.

    Args:
        keys: keys that hold paths.
        size: side in pixels.
        channels: 1 or 3.
        fit: see `ClassifyConfig`.
        frames: which frame of a clip; one is taken.
        region: ``b-mode`` or ``full``.
        full_frame: see `InferConfig`.
        modality: see `InferConfig`.
        synthetic: see `InferConfig`.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: Any = "image",
        size: int = 64,
        channels: int = 1,
        fit: str = "pad",
        frames: str = "middle",
        region: str = "b-mode",
        full_frame: bool = False,
        modality: str = "US",
        synthetic: str = "reject",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.channels, self.fit = size, channels, fit
        self.reading = InferConfig(
            frames=frames, region=region, full_frame=full_frame, modality=modality, synthetic=synthetic
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the image as a tensor and its path under ``<key>_path``."""
        item = dict(data)
        for key in self.key_iterator(item):
            path = Path(item[key])
            picture = picture_of(read_frames(path, self.reading).pixels[0], self.channels)
            item[key] = to_square(picture, self.size, self.fit).float() / 255
            item[f"{key}_path"] = str(path)
        return item


class MacroAuc(EpochMetric):
    """Macro AUC over the classes present, from MONAI's decollated ``pred`` (probabilities) and ``label``."""

    def __init__(self) -> None:
        super().__init__(self._value, output_transform=self._stack, check_compute_fn=False)

    @staticmethod
    def _stack(output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(output, Mapping):
            return output["pred"].float(), output["label"].long().view(-1)
        scores = torch.stack([torch.as_tensor(item["pred"]).float() for item in output])
        labels = torch.stack([torch.as_tensor(item["label"]).long().view(()) for item in output])
        return scores, labels

    @staticmethod
    def _value(scores: torch.Tensor, labels: torch.Tensor) -> float:
        return macro_auc(scores.cpu().numpy(), labels.cpu().numpy())


class SaveBest:
    """Write ``<folder>/model.pt`` atomically whenever the evaluator's key metric is the best so far.

    The file holds the state dict alone, which MONAI's `CheckpointLoader` and ``ckpt_export`` read without naming a key.
    """

    def __init__(self, folder: Path | str, network: nn.Module, name: str = "model.pt") -> None:
        self.path, self.network = Path(folder) / name, network

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Write when this evaluation was the best."""
        if engine.state.best_metric_epoch == engine.state.epoch and engine.state.rank == 0:
            network = getattr(self.network, "module", self.network)
            save_tensors(self.path, cpu_state(network))


class StopOnNonFinite:
    """Stop a MONAI trainer within one step when its loss is NaN or infinite, naming step and images (R18)."""

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Check the loss of this step."""
        output = engine.state.output
        loss = output[0]["loss"] if isinstance(output, list) else output["loss"]
        batch = engine.state.batch
        ids = [str(item.get("id", "?")) for item in (batch if isinstance(batch, list) else [batch])]
        rate = engine.optimizer.param_groups[0]["lr"]
        check_finite(torch.as_tensor(loss), "classifier bundle", engine.state.iteration, rate, ids)


class PredictionTable:
    """Collect ``pred`` of a MONAI evaluator and write a CSV atomically at the end (mode 600).

    Args:
        path: of the CSV.
        classes: names in the order of the probabilities.
    """

    def __init__(self, path: Path | str, classes: Sequence[str]) -> None:
        self.path, self.classes = Path(path), list(classes)
        self.rows: list[list[str]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, lambda _: self._write())

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            scores = torch.as_tensor(output["pred"]).float().cpu()
            chosen = self.classes[int(scores.argmax())]
            name = item.get("image_path", item.get("id", ""))
            self.rows.append([str(name), chosen, *[f"{value:.6f}" for value in scores.tolist()]])

    def _write(self) -> None:
        head = ["file", "class", *[f"p_{name}" for name in self.classes]]
        store.write_atomic(self.path, store.csv_text(head, self.rows), mode=0o600)
