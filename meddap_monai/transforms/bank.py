"""A bank of synthetic images made before: the fast source of a random transform, safe in any worker."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai.core.printing import PrintsArguments
from meddap_monai.core.records import Record, iter_records
from meddap_monai.errors import RecordsError
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.images.writing.write import is_derived


class ImageBank(PrintsArguments):
    """Synthetic images by label, drawn by a seed.

    Args:
        records: ``generated.jsonl`` of generate or ``kept.jsonl`` of select; real images in it are left out.

    Raises:
        RecordsError: the file holds no synthetic image.
    """

    def __init__(self, records: Path | str) -> None:
        self.records = Path(records)
        by_label: dict[int | str, list[Record]] = defaultdict(list)
        for record in iter_records(self.records):
            if record["source"] == "synthetic":
                by_label[record["label"]].append(record)
                by_label[record["class_name"]].append(record)
        if not by_label:
            raise RecordsError(f"{self.records}: holds no synthetic image; give the output of generate or select")
        self._held = dict(by_label)
        self._checked: set[str] = set()

    def has(self, label: int | str) -> bool:
        """Tell whether the bank holds images of a label (an int) or a class (a name)."""
        return label in self._held

    def record(self, label: int | str, seed: int) -> Record:
        """Return the record of one image of a label.

        Args:
            label: integer label or class name.
            seed: chooses the image; equal seeds choose equal images.

        Raises:
            RecordsError: the bank holds no image of that label.
        """
        if label not in self._held:
            held = ", ".join(sorted(str(name) for name in self._held))
            raise RecordsError(
                f"{self.records}: no synthetic image of label {label!r}, it holds {held}; generate that class too, or "
                "allow classes without images (allow_missing_classes)"
            )
        records = self._held[label]
        return records[seed % len(records)]

    def path(self, label: int | str, seed: int) -> str:
        """Return the file of one image of a label, for a reader that follows; checked when it is first drawn."""
        record = self.record(label, seed)
        if record["id"] not in self._checked:
            open_recorded(record)
            self._checked.add(record["id"])
        return str(record["image"])

    def marks(self, label: int | str, seed: int) -> dict[str, Any]:
        """Return what the meta data of one image of a label say, from its record; see `OnlineGenerator.marks`."""
        synthetic = self.record(label, seed)["synthetic"]
        told = {name: synthetic[name] for name in ("base", "mode", "seed") if name in synthetic}
        return told | {"derived": is_derived(synthetic)}

    def draw(self, label: int | str, seed: int) -> np.ndarray:
        """Return one image of a label, ``(H, W) or (H, W, 3) uint8``; see `record`."""
        return np.asarray(open_recorded(self.record(label, seed)))
