"""An image of a record is opened only as an image, and used only when its pixels are those of the record."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meddap_monai.classifier.data import LoadFramed
from meddap_monai.core.records import pixel_hash, write_records
from meddap_monai.errors import ChangedImage, UnreadableImage
from meddap_monai.images.reading.recorded import CHECK_PIXELS, open_recorded
from meddap_monai.images.writing.write import export_dicom
from meddap_monai.transforms.bank import ImageBank
from meddap_monai.transforms.diffusion import RandDiffusionAugmentd
from tests.selection.synthetic import synthetic_record

PIXELS = np.arange(32 * 24, dtype=np.uint32).reshape(32, 24).astype(np.uint8)


def written(folder: Path, pixels: np.ndarray = PIXELS) -> dict[str, Any]:
    path = folder / "a.png"
    Image.fromarray(pixels).save(path)
    return {"id": "a", "image": str(path), "sha256": pixel_hash(pixels)}


@pytest.mark.parametrize("pixels", [PIXELS, np.stack([PIXELS] * 3, -1)], ids=["grey", "colour"])
def test_unchanged_pixels_are_given(tmp_path: Path, pixels: np.ndarray) -> None:
    assert np.array_equal(np.asarray(open_recorded(written(tmp_path, pixels))), pixels)


def test_another_file_of_the_same_pixels_is_the_same_image(tmp_path: Path) -> None:
    record = written(tmp_path)
    Image.fromarray(PIXELS).save(record["image"], optimize=True)
    assert np.array_equal(np.asarray(open_recorded(record)), PIXELS)


@pytest.mark.parametrize(
    "change",
    [lambda p: p[::-1], lambda p: p.T, lambda p: np.stack([p] * 3, -1), lambda p: p ^ np.uint8(1)],
    ids=["turned", "transposed", "coloured", "one level"],
)
def test_changed_pixels_are_named_unless_the_check_is_off(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = written(tmp_path)
    Image.fromarray(np.ascontiguousarray(change(PIXELS))).save(record["image"])
    with pytest.raises(ChangedImage, match=r"a\.png: its pixels changed since its record 'a' was written"):
        open_recorded(record)
    with pytest.raises(ChangedImage):
        LoadFramed("image", 16)(record)
    monkeypatch.setenv(CHECK_PIXELS, "0")
    assert open_recorded(record).size
    assert LoadFramed("image", 16)(record)["image"].shape == (1, 16, 16)


def broken(kind: str, path: Path) -> None:
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link out":
        outside = path.parent.parent / "outside.png"
        Image.fromarray(PIXELS).save(outside)
        path.symlink_to(outside)
    elif kind == "PostScript":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 32\nshowpage\n")
    elif kind == "cut":
        Image.fromarray(PIXELS).save(path)
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("kind", ["missing", "a pipe", "a link out", "PostScript", "cut"])
def test_what_is_no_image_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    record = written(tmp_path / "in")
    broken(kind, Path(record["image"]))
    with pytest.raises(UnreadableImage, match=r"a\.png: "):
        open_recorded(record)


def test_a_bank_and_the_export_use_what_was_generated_only(tmp_path: Path) -> None:
    record = synthetic_record(tmp_path, 0, "benign", PIXELS)
    write_records(tmp_path / "generated.jsonl", [record])
    item = written(tmp_path) | {"label": 0, "class_name": "benign", "source": "real"}
    found = RandDiffusionAugmentd("image", bank=tmp_path / "generated.jsonl", prob=1.0)(item)
    assert found["source"] == "synthetic"  # its path goes on to a reader, with the hash that belongs to it
    assert np.array_equal(np.asarray(open_recorded(found)), PIXELS)
    Image.fromarray(PIXELS[::-1].copy()).save(record["image"])
    bank = ImageBank(tmp_path / "generated.jsonl")
    for use in (lambda: bank.draw(0, 1), lambda: bank.path("benign", 1)):
        with pytest.raises(ChangedImage):
            use()
    with pytest.raises(ChangedImage):
        export_dicom(tmp_path / "generated.jsonl", tmp_path / "dicom")
