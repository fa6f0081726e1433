"""Embeddings for TensorBoard: its own plugin finds and reads them; a full disk leaves what was there."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from meddap_monai.classifier.projector import write_projector
from meddap_monai.errors import DiskFull

FEATURES = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
LABELS = [["benign", "real"], ["tab\tand\nline", "real"], ["a", "real"], ["b", "synthetic"], ["c", "synthetic"]]


def test_tensorboards_plugin_reads_what_was_written(tmp_path: Path) -> None:
    pictures = np.linspace(0, 1, 5 * 8 * 6).reshape(5, 8, 6)
    write_projector(tmp_path, FEATURES, LABELS, ["class", "source"], "images", pictures)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (found,) = config.embeddings
    read = np.loadtxt(tmp_path / found.tensor_path, delimiter="\t")
    assert read == pytest.approx(FEATURES, rel=1e-4)
    with (tmp_path / found.metadata_path).open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["source"] for row in rows] == [source for _, source in LABELS]
    assert rows[1]["class"] == "tab and line"
    assert list(found.sprite.single_image_dim) == [6, 8]
    sheet = np.asarray(Image.open(tmp_path / found.sprite.image_path))
    assert sheet.shape == (3 * 8, 3 * 6)
    assert np.array_equal(sheet[8:16, 6:12], (pictures[4] * 255).astype(np.uint8)), "row by row, three a row"


def test_a_full_disk_leaves_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_projector(tmp_path, FEATURES, LABELS, ["class", "source"], "images")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real = os.fdopen

    def full(*arguments, **options):
        real(*arguments, **options).close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(DiskFull, match=r"tensors\.tsv"):
        write_projector(tmp_path, FEATURES + 1, LABELS, ["class", "source"], "images")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
