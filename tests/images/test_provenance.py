"""The provenance guard: what was trained on, or was edited from it, is not judged on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.core import resources
from meddap_monai.core.records import FILE_GROUP, pixel_hash, write_records
from meddap_monai.errors import LeakedRecords, StageError
from meddap_monai.images import provenance
from meddap_monai.images.likeness import from_text
from meddap_monai.phantom.simulation import simulate_image


def smaller(pixels: np.ndarray) -> np.ndarray:
    """Two pixels less on each axis."""
    size = (pixels.shape[1] - 2, pixels.shape[0] - 2)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


@pytest.fixture
def item(tmp_path: Path) -> Callable[..., dict]:
    """Make a full record with its image."""

    def make(number: int, edit: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels, **keys: object) -> dict:
        pixels = edit(simulate_image("benign", number))
        path = tmp_path / "images" / f"{pixel_hash(pixels)[:16]}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        return {
            "id": f"r{number:03d}",
            "image": str(path),
            "label": 0,
            "class_name": "benign",
            "patient": f"p{number}",
            "split": "train",
            "source": "real",
            "sha256": pixel_hash(pixels),
        } | keys

    return make


def test_a_trained_thing_is_not_judged_on_its_training_images_nor_on_their_group(item, tmp_path: Path) -> None:
    training = [item(1, patient="a")]
    group = [item(2, patient="a", split="test"), item(3, patient="b", split="test")]
    provenance.write_train_hashes(tmp_path, training, training + group)
    provenance.check_provenance(tmp_path, [group[1], item(1, patient="a")])
    with pytest.raises(LeakedRecords, match=r"1 validation, test or unseen image\(s\).*r002 \(test\)"):
        provenance.check_provenance(tmp_path, group)


def test_a_resized_training_image_is_refused_and_named_with_its_likeness(item, tmp_path: Path) -> None:
    provenance.write_train_hashes(tmp_path, [item(1), item(2)])
    provenance.check_provenance(tmp_path, [item(3, smaller, split="unseen")])
    with pytest.raises(LeakedRecords) as caught:
        provenance.check_provenance(tmp_path, [item(1, smaller, split="unseen"), item(2, split="unseen")])
    said = str(caught.value)
    assert "2 validation, test or unseen image(s) are among its training images, 1 of them resized, cropped" in said
    assert "r001 (unseen, 0.99" in said and f" like {item(1)['sha256'][:12]})" in said
    assert "r002 (unseen);" in said


def test_pairs_that_are_only_much_alike_are_listed_in_a_warning(item, tmp_path: Path) -> None:
    """A picture a third of which is another one: between the two thresholds."""

    def mixed(pixels: np.ndarray) -> np.ndarray:
        other = np.asarray(Image.fromarray(simulate_image("malignant", 70)).resize(pixels.shape[::-1]))
        return np.rint(0.68 * pixels + 0.32 * other).astype(np.uint8)

    provenance.write_train_hashes(tmp_path, [item(1)])
    near = item(1, mixed, split="test")
    (found,) = provenance.find_seen([near], provenance.training_images(tmp_path))
    assert provenance.ALIKE <= found.likeness < provenance.SAME
    with pytest.warns(UserWarning, match=r"1 image\(s\) are much like its training images: r001 \(test, 0\.9\d\d like"):
        provenance.check_provenance(tmp_path, [near])


def test_images_of_one_index_are_left_to_its_own_search_for_near_duplicates(item, tmp_path: Path) -> None:
    training = item(1)
    provenance.write_train_hashes(tmp_path, [training])
    other = item(1, smaller, split="test")
    provenance.check_provenance(tmp_path, [training, other])
    provenance.check_provenance(tmp_path, [other], beside=[training])
    with pytest.raises(LeakedRecords):
        provenance.check_provenance(tmp_path, [other])


def test_what_it_was_built_on_counts_and_a_known_fingerprint_stays_known(item, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    provenance.write_train_hashes(base, [item(1)])
    synthetic = item(2, source="synthetic")
    provenance.write_train_hashes(adapter, [item(3), synthetic], inherited=provenance.training_images(base))
    saw = provenance.training_images(adapter)
    assert {digest: bool(look) for digest, look in saw.items()} == {
        item(1)["sha256"]: True,
        item(2)["sha256"]: False,
        item(3)["sha256"]: True,
    }
    bare = dict.fromkeys(saw, "")
    assert provenance.together(saw, bare) == provenance.together(bare, saw) == saw


def test_the_guard_is_never_off_without_a_word(item, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"carries no train_sha256\.txt"):  # a foreign thing
        provenance.check_provenance(tmp_path, [item(1, split="test")])
    for card in ("adapter.json", "base.json", "classifier.json", "filter.json", "model.pt"):
        (tmp_path / card).write_text("{}")
        with pytest.raises(StageError, match=r"train_sha256\.txt: missing"):
            provenance.train_hashes(tmp_path)
        (tmp_path / card).unlink()
    (tmp_path / "train_sha256.txt").write_text("0" * 64 + "\n")
    with pytest.warns(UserWarning, match="holds no fingerprints, so only images with equal pixels are recognised"):
        assert provenance.train_hashes(tmp_path) == {"0" * 64}


@pytest.mark.parametrize("wrong", ["abc", "0" * 64 + " 12", "0" * 64 + " " + "g" * 256, "0" * 64 + "0" * 256])
def test_a_line_that_is_none_is_named(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "train_sha256.txt").write_text(f"{'0' * 64} {'f' * 256}\n{wrong}\n")
    with pytest.raises(StageError, match=r"train_sha256\.txt, line 2: expected 64 hexadecimal digits"):
        provenance.train_hashes(tmp_path)
    (tmp_path / "train_sha256.txt").write_bytes("0\n".encode("utf-16"))
    with pytest.raises(StageError, match="not UTF-8"):
        provenance.train_hashes(tmp_path)


def test_images_and_patients_shared_by_two_sets_are_found(item, tmp_path: Path) -> None:
    ours = [item(1, patient="a"), item(2, patient="a"), item(3, patient="b"), item(4, patient="c"), item(5, smaller)]
    theirs = [item(4, patient="z"), item(50, patient="a"), item(5, patient="y")]
    found = {ours[0]["sha256"], ours[1]["sha256"], ours[3]["sha256"], ours[4]["sha256"]}
    assert provenance.shared_with(ours, theirs) == found
    nobody = f"{FILE_GROUP}1234"  # files of equal names in two folders, patients unknown
    assert provenance.shared_with([item(1, patient=nobody)], [item(2, patient=nobody)]) == frozenset()
    mine, archive = tmp_path / "m" / "records.jsonl", tmp_path / "a" / "records.jsonl"
    _write(mine, ours)
    _write(archive, theirs)
    with pytest.raises(LeakedRecords, match=r"4 image\(s\), such as r001, r002, r004, stand in .*a/records\.jsonl too"):
        provenance.check_apart(mine, archive)


def _write(path: Path, records: Sequence[dict]) -> None:
    path.parent.mkdir()
    write_records(path, [record | {"image": str(_beside(path, record))} for record in records])


def _beside(path: Path, record: dict) -> Path:
    copy = path.parent / Path(record["image"]).name
    copy.write_bytes(Path(record["image"]).read_bytes())
    return copy


@pytest.mark.parametrize("folder", ["data/base", "data/adapter"])
def test_what_is_shipped_has_a_fingerprint_of_every_training_image(folder: str) -> None:
    place = resources.find(folder)
    saw = provenance.training_images(place)
    assert len(saw) > 400
    assert all(saw.values())
    assert from_text(list(saw.values())).shape == (len(saw), 16, 16)
    assert (place / "train_sha256.txt").stat().st_size < 400_000


def test_a_simulated_training_image_of_the_embedded_base_is_recognised_after_a_resize(item) -> None:
    """Its simulated images are the only ones that a test can make again."""
    saw = provenance.training_images(resources.find("data/base"))
    (found,) = provenance.find_seen([item(7_000_000, smaller), item(7)], saw)
    assert (found.record["id"], found.training) == ("r7000000", pixel_hash(simulate_image("benign", 7_000_000)))
    assert found.same
