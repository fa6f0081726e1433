"""Images that come from a patient's image say so; strengths that leave it as it was are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from meddap_monai.cli.main import main
from meddap_monai.core.records import iter_records, pixel_hash, read_records, write_records
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.nearness import NearnessCheck, count_derived, derived_text, refuse_near
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.provenance import images_of
from meddap_monai.images.reading.marks import DERIVED, NOTICE
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.phantom.simulation import simulate_image

FEW: dict[str, Any] = {"counts": 4, "shard_size": 4, "device": "cpu", "mode": "image", "dicom": True}


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 4, "test": 1}, size=128)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four square pictures that the embedded base's autoencoder keeps well."""
    folder = tmp_path_factory.mktemp("sources")
    rows = []
    for number in range(4):
        pixels = simulate_image("malignant", number, size=(128, 128))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        facts = {
            "id": f"source-{number}",
            "image": f"{number}.png",
            "patient": f"p{number}",
            "sha256": pixel_hash(pixels),
        }
        rows.append(facts | {"label": 0, "class_name": "malignant", "split": "train", "source": "real"})
    write_records(folder / "records.jsonl", rows)
    (folder / "stage.json").write_text(json.dumps({"stage": "index", "classes": ["malignant"]}))
    return folder / "records.jsonl"


def test_an_image_is_named_with_the_training_image_that_it_is_near(records: Path) -> None:
    training = read_records(records, split="train", full=True)
    only_base = read_records(records, split="test", full=True)[:1]
    check = NearnessCheck([images_of(only_base)], training)
    copy, fresh = np.asarray(open_recorded(training[2])), simulate_image("normal", 4321, size=(96, 96))
    found = check(
        [copy[3:, 2:], fresh, np.asarray(open_recorded(only_base[0])), fresh], ["text", "text", "text", "image"]
    )
    assert [one["derived"] for one in found] == [True, False, True, True]
    assert found[0]["nearest"]["training"] == training[2]["id"]
    assert found[2]["nearest"]["training"] == only_base[0]["sha256"][:12]
    assert found[0]["nearest"]["correlation"] >= 0.98 > 0.95 > found[1]["nearest"]["correlation"]
    nothing = NearnessCheck([{}])
    assert nothing([copy, copy], ["text", "inpaint"]) == [
        {"derived": False, "nearest": None},
        {"derived": True, "nearest": None},
    ]


def made(strength: float, *correlations: float | None, mode: str = "image") -> list[dict[str, Any]]:
    nearest = [None if value is None else {"training": "x", "correlation": value} for value in correlations]
    return [{"mode": mode, "strength": strength, "nearest": one, "derived": True} for one in nearest]


@pytest.mark.parametrize(
    ("images", "refused"),
    [
        (made(0.1, 0.99, 0.96, 0.2), "0.1 leaves 2 of 3 images near copies"),
        (made(0.5, 0.3, 0.4) + made(0.1, 0.95), "0.1 leaves 1 of 1 images near copies"),
        (made(0.1, 0.99, 0.2, 0.2), ""),
        (made(0.1, None), ""),
        (made(0.1, 0.99, mode="inpaint"), ""),
        (made(1.0, 0.99, mode="text"), ""),
    ],
)
def test_a_strength_with_half_near_copies_is_refused(images: list[dict[str, Any]], refused: str) -> None:
    if not refused:
        refuse_near(images)
        return
    with pytest.raises(
        ConfigurationError, match=rf"generate#strength: {refused}.*by name with generate#near_copies=true"
    ):
        refuse_near(images)


def test_what_a_command_says() -> None:
    counts = count_derived([*made(0.1, 0.99, 0.2), {"derived": False, "nearest": None}])
    assert counts == {"derived": 2, "near_copies": 1}
    said = derived_text(counts, 3)
    assert said.startswith("2 of 3 images are derived from a patient's image, 1 of them near copies")
    assert derived_text({"derived": 0, "near_copies": 0}, 3) == ""


def test_the_embedded_base_at_a_small_strength_is_refused_and_writes_no_shard(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"0\.05 leaves [34] of 4 images near copies of a patient's image"):
        generate(GenerateConfig(strength=0.05, **FEW), tmp_path / "out", records=sources)
    assert not list((tmp_path / "out").rglob("*.png")) + list((tmp_path / "out").rglob("*.dcm"))


def test_near_copies_that_are_asked_for_are_marked_in_every_file(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = generate(GenerateConfig(strength=0.05, near_copies=True, **FEW), tmp_path / "out", records=sources)
    rows = list(iter_records(path))
    assert all(row["synthetic"]["derived"] for row in rows)
    near = sum(row["synthetic"]["nearest"]["correlation"] >= 0.95 for row in rows)
    assert near >= 3
    assert {row["synthetic"]["nearest"]["training"] for row in rows} >= {rows[0]["synthetic"]["source_id"]}
    counts = json.loads((path.parent / "stage.json").read_text())["counts"]
    assert (counts["derived"], counts["near_copies"]) == (4, near)
    assert f"generate: 4 of 4 images are derived from a patient's image, {near} of them" in capsys.readouterr().err
    for row in rows:
        with Image.open(row["image"]) as image:
            assert image.text["Description"] == DERIVED
        dataset = pydicom.dcmread(path.parent / "dicom" / f"{row['id']}.dcm")
        assert dataset.DerivationDescription.startswith(DERIVED)


def test_images_from_words_keep_their_mark(sources: Path, tmp_path: Path) -> None:
    path = generate(
        GenerateConfig(**FEW | {"mode": "text", "steps": 4, "counts": 2}), tmp_path / "out", records=sources
    )
    for row in iter_records(path):
        assert row["synthetic"]["derived"] is False and row["synthetic"]["nearest"]["correlation"] < 0.95
        assert pydicom.dcmread(path.parent / "dicom" / f"{row['id']}.dcm").DerivationDescription.startswith(NOTICE)


def test_synthesize_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own" / "malignant"
    folder.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(simulate_image("malignant", number, size=(128, 128))).save(folder / f"{number}.png")
    words = ["synthesize", "--source", str(folder.parent), "--output", str(tmp_path / "out"), "index#workers=0"]
    assert main([*words, "mode=image", "strength=0.7", "steps=4"]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 images are derived from a patient's image, 0 of them near copies; their marks say so" in out
    assert out.splitlines()[-1].startswith("2 synthetic DICOM files: ")
    again = ["synthesize", "--source", str(folder.parent), "--output", str(tmp_path / "near"), "index#workers=0"]
    assert main([*again, "mode=image", "strength=0.05"]) == 2
    assert "generate#strength: 0.05 leaves 2 of 2 images near copies" in capsys.readouterr().err
