"""A study's unseen set is held against all that trains, as soon as both are indexed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.errors import ConfigurationError, LeakedRecords, RecordsError
from meddap_monai.images.provenance import images_of
from meddap_monai.study.apart import Training, keep_apart
from meddap_monai.study.config import DrawConfig, read_study
from meddap_monai.study.run import run_study
from meddap_monai.study.sections import load_sections
from meddap_monai.study.seed import draw


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width - 2, image.height - 2), Image.Resampling.BICUBIC)


@pytest.fixture
def own(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 3, "val": 1, "test": 2})


def unseen_with(folder: Path, own: Path, split: str, fresh: Path) -> Path:
    """Records of the unseen set `fresh` and of two edited images of one split of the own set."""
    folder.mkdir()
    rows = read_records(fresh, full=True)
    for number, row in enumerate(read_records(own, split=split, full=True)[:2]):
        with Image.open(row["image"]) as image:
            small = smaller(image)
        small.save(folder / f"known-{number}.png")
        facts = {"id": f"known-{number}", "split": "unseen", "sha256": pixel_hash(np.asarray(small))}
        rows.append(row | facts | {"image": str(folder / f"known-{number}.png"), "patient": f"other-{number}"})
    write_records(folder / "records.jsonl", rows)
    shutil.copy(fresh.parent / "stage.json", folder)
    return folder / "records.jsonl"


@pytest.fixture
def fresh(make_records: Callable[..., Path]) -> Path:
    return make_records({"unseen": 2})


def training(own: Path, **keys: Any) -> Training:
    return Training(**{"base": {}, "base_name": "mine", "own": own, "drawn": True, "unlabelled": None} | keys)


def test_images_that_nothing_trains_on_pass(own: Path, fresh: Path, tmp_path: Path) -> None:
    assert keep_apart(tmp_path, fresh, training(own), exclude=False) == fresh
    assert not (tmp_path / "unseen_apart").exists()


@pytest.mark.parametrize(
    ("split", "drawn", "refused"),
    [("train", True, True), ("test", True, True), ("train", False, True), ("val", False, True), ("test", False, False)],
)
def test_edited_own_images_are_refused_where_they_may_train(
    split: str, drawn: bool, refused: bool, own: Path, fresh: Path, tmp_path: Path
) -> None:
    unseen = unseen_with(tmp_path / "unseen", own, split, fresh)
    given = (tmp_path / "study", unseen, training(own, drawn=drawn), False)
    if not refused:
        assert keep_apart(*given) == unseen
        return
    with pytest.raises(LeakedRecords) as caught:
        keep_apart(*given)
    said = str(caught.value)
    assert "2 validation, test or unseen image(s) are among the own images (index), 2 of them resized" in said
    assert "To leave them out, counted and listed, type unseen#exclude_seen=true; or give another base" in said


def test_images_of_the_base_are_left_out_counted_and_listed(own: Path, fresh: Path, tmp_path: Path) -> None:
    rows = read_records(own, split="test", full=True)
    base = images_of(rows)
    unseen = unseen_with(tmp_path / "unseen", own, "test", fresh)
    (unseen.parent / "rejects.csv").write_text("item,reason\nx,is not an image\n")
    kept = keep_apart(tmp_path / "study", unseen, training(own, base=base, drawn=False), exclude=True)
    assert kept == tmp_path / "study" / "unseen_apart" / "records.jsonl"
    assert {row["id"] for row in read_records(kept)} == {row["id"] for row in read_records(fresh)}
    stage = json.loads((kept.parent / "stage.json").read_text())
    assert stage["counts"] == {"in": 6, "out": 6, "rejected": 2, "seen_left_out": 2}
    lines = (kept.parent / "rejects.csv").read_text().splitlines()
    assert lines[:2] == ["item,reason", "x,is not an image"]
    assert [line.split(",")[0] for line in lines[2:]] == ["known-0", "known-1"]
    assert "seen, among the training images of the base 'mine': 0.99" in lines[2]
    assert rows[0]["sha256"][:12] in lines[2]
    assert keep_apart(tmp_path / "study", unseen, training(own, base=base, drawn=False), exclude=True) == kept


def test_patients_of_the_unlabelled_set_are_refused_or_left_out(own: Path, fresh: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive" / "records.jsonl"
    first = read_records(fresh, full=True)[0]
    write_records(archive, [first | {"split": "train"}])
    shutil.copy(fresh.parent / "stage.json", archive.parent)
    with pytest.raises(LeakedRecords, match=r"or show its patients; expected none\. .*type unseen#exclude_seen=true"):
        keep_apart(tmp_path / "study", fresh, training(own, unlabelled=archive), exclude=False)
    kept = keep_apart(tmp_path / "study", fresh, training(own, unlabelled=archive), exclude=True)
    left = {row["id"] for row in read_records(fresh) if row["patient"] != first["patient"]}
    assert left and {row["id"] for row in read_records(kept)} == left


def test_nothing_left_is_one_named_error(own: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="all 18 images were seen in training; give another unseen set"):
        keep_apart(tmp_path / "study", own, training(own), exclude=True)


def test_only_the_unseen_set_has_the_key() -> None:
    study, _ = read_study({"index": {"source": "a"}, "unseen": {"source": "b", "exclude_seen": True}})
    assert study.unseen is not None and study.unseen.exclude_seen and study.unseen.split == "unseen"
    with pytest.raises(ConfigurationError, match="unknown key 'exclude_seen'"):
        read_study({"index": {"source": "a", "exclude_seen": True}})


def test_edited_images_of_the_base_may_train_and_are_not_judged(tmp_path: Path) -> None:
    """The embedded base's own simulated images, two pixels smaller, in a set that is drawn from."""
    from meddap_monai.phantom.simulation import simulate_image

    rows = []
    for first, name in ((7_000_000, "known"), (500, "fresh")):
        for number in range(6):
            for label, class_name in enumerate(("benign", "malignant")):
                small = smaller(Image.fromarray(simulate_image(class_name, first + number)))
                identity = f"{name}-{class_name}-{number}"
                small.save(tmp_path / f"{identity}.png")
                facts = {"id": identity, "image": f"{identity}.png", "patient": identity, "class_name": class_name}
                digest = pixel_hash(np.asarray(small))
                rows.append(facts | {"label": label, "split": "train", "source": "real", "sha256": digest})
    write_records(tmp_path / "records.jsonl", rows)
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "index", "classes": ["benign", "malignant"]}))
    drawn = read_records(draw(DrawConfig(6, 2), tmp_path / "draw", tmp_path / "records.jsonl", 0, "embedded"))
    splits = {row["split"] for row in drawn if row["id"].startswith("known")}
    assert splits == {"train"}
    assert {row["split"] for row in drawn if row["id"].startswith("fresh")} == {"val", "test"}


def write_folder(folder: Path, edit: Callable[[Image.Image], Image.Image], first: int) -> Path:
    from meddap_monai.phantom.simulation import simulate_image

    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            edit(Image.fromarray(simulate_image(name, first + number))).save(folder / name / f"{number}.png")
    return folder


def test_a_study_says_so_before_it_trains(tmp_path: Path) -> None:
    """An unseen folder that is the embedded base's training data, edited: refused with no stage begun."""
    own = write_folder(tmp_path / "own", lambda image: image, 300)
    known = write_folder(tmp_path / "known", smaller, 7_000_000)
    words = [f"index#source={own}", f"unseen#source={known}", "index#workers=0", "unseen#workers=0"]
    with pytest.raises(LeakedRecords, match=r"6 validation.*the base 'embedded'.*type unseen#exclude_seen=true"):
        run_study(tmp_path / "study", load_sections([], words))
    assert {path.parent.name for path in (tmp_path / "study").rglob("stage.json")} == {"index", "unseen"}
