"""The first hour of a hospital group, walked as a new user would: folders and words as they come, and what is said."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image, ImageDraw

from meddap_monai import store
from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import crop_top
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.transforms.diffusion import RandDiffusionAugmentd
from tests.adapter_material import quick
from tests.pretrain_material import SMALL


# ----------------------------------------------------------------------------------------------------- labels and words
@pytest.fixture(scope="module")
def pictures(make_records: Callable[..., Path]) -> Path:
    """Simulated records, whose pictures stand for a hospital's own."""
    return make_records({"train": 4}, size=32)


def index_table(source: Path, folder: Path, names: dict[str, str]) -> Path:
    """Index these pictures by a table with the hospital's own names of classes, its devices and BI-RADS categories."""
    folder.mkdir(exist_ok=True)
    (folder / "key").write_text("ab" * 32)
    (folder / "key").chmod(0o600)
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "label", "group", "machine", "birads"])
        for number, row in enumerate(read_records(source)):
            if row["class_name"] in names:
                name, label = Path(row["image"]).name, names[row["class_name"]]
                table.writerow([name, label, row["patient"], "LOGIQ_E9", 2 + number % 2])
    config = IndexConfig(
        source.parent / "images",
        labels="csv",
        table=folder / "labels.csv",
        modality="any",
        device_column="machine",
        columns=("birads",),
        fractions={"train": 1.0},
        near_duplicates="off",
        workers=0,
        key_file=folder / "key",
    )
    return index(config, folder / "index")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Classes that no prompt table knows."""
    return index_table(pictures, tmp_path_factory.mktemp("hospital"), {"benign": "Cyst", "malignant": "Abscess"})


def test_any_label_becomes_words(
    labelled: Path, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture
) -> None:
    config = quick(steps=2, columns=("device", "birads"), samples_per_class=1, sample_steps=1)
    with pytest.warns(
        UserWarning, match=r"adapt#prompts: the base does not know the words .*abscess.*cyst.*letter by letter"
    ):
        adapter = adapt(config, tmp_path / "adapter", records=labelled, base=tiny_base)
    said = capsys.readouterr().err
    assert "adapt: prompts by the labels (to change them, give a copy of" in said
    assert "  Abscess: an ultrasound image of abscess\n  Cyst: an ultrasound image of cyst" in said
    assert "an ultrasound image of {class}" in (adapter / "prompts.yaml").read_text()
    card = json.loads((adapter / "adapter.json").read_text())
    assert (card["prompts"], card["columns"]) == ("labels", ["device", "birads"])
    assert card["class_prompts"]["Cyst"] == "an ultrasound image of cyst"
    made = generate(
        GenerateConfig(counts=2, steps=1, device="cpu"),
        tmp_path / "made", records=labelled, base=tiny_base, adapters=[adapter],
    )  # fmt: skip
    prompts = {row["synthetic"]["prompt"] for row in read_records(made, full=True) if row["class_name"] == "Cyst"}
    assert prompts <= {f"an ultrasound image of cyst, device logiq e9, birads {number}" for number in (2, 3)}
    assert prompts
    assert (made.parent / "prompts.yaml").is_file()


def test_a_caliper_and_words_do_not_teach(pictures: Path, tmp_path: Path, tiny_base: Path) -> None:
    rows = read_records(pictures, full=True)
    for row in rows[:3]:
        image = Image.open(row["image"]).convert("RGB")
        ImageDraw.Draw(image).line((4, 20, 12, 20), fill=(255, 220, 0), width=2)
        image.save(tmp_path / f"{row['id']}.png")
        row |= {"image": str(tmp_path / f"{row['id']}.png"), "sha256": pixel_hash(np.asarray(image))}
    write_records(tmp_path / "records.jsonl", rows)
    adapter = adapt(quick(steps=2), tmp_path / "adapter", records=tmp_path / "records.jsonl", base=tiny_base)
    assert store.read_stage(adapter)["counts"]["marked"] == 3


def test_capital_letters_and_another_word_find_the_organ_s_table(
    pictures: Path, tmp_path: Path, tiny_base: Path
) -> None:
    records = index_table(
        pictures, tmp_path / "hospital", {"benign": "Benign", "malignant": "cancer", "normal": "Healthy"}
    )
    made = generate(GenerateConfig(counts=1, steps=1, device="cpu"), tmp_path / "made", records=records, base=tiny_base)
    prompts = [row["synthetic"]["prompt"] for row in read_records(made, full=True)]
    assert prompts == [f"an ultrasound photo of {word} tumor in breast" for word in ("benign", "no", "malignant")]


def test_a_bank_behind_monai_s_own_reading_needs_no_word_about_axes(
    pictures: Path, tmp_path: Path, tiny_base: Path
) -> None:
    made = generate(
        GenerateConfig(counts=1, steps=1, device="cpu"), tmp_path / "made", records=pictures, base=tiny_base
    )
    Image.fromarray(np.full((20, 40), 9, np.uint8)).save(tmp_path / "real.png")
    train = Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), RandDiffusionAugmentd("image", bank=made, prob=1.0)]
    )
    image = train({"image": tmp_path / "real.png", "class_name": "benign"})["image"]
    (drawn,) = (row["image"] for row in read_records(made) if row["class_name"] == "benign")
    expected = crop_top(Image.open(drawn).convert("L"), 20, 40)
    assert np.array_equal(image[0].numpy().T, np.asarray(expected, np.float32))
    plain = RandDiffusionAugmentd("image", bank=made, prob=1.0)
    with pytest.raises(
        ConfigurationError, match=r"nothing tells whether this ndarray \(1, 20, 40\) has its width or its "
    ):
        plain({"image": np.full((1, 20, 40), 9, np.float32), "class_name": "benign"})


def test_a_base_to_train_takes_any_label_too(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    job = PretrainJob(SMALL, tmp_path, labelled)
    assert [table.name for table in job.tables] == ["breast", "labels"]
    assert {"an ultrasound image of cyst", "an ultrasound image of abscess"} <= set(job.views.captions)
    assert "  Cyst: an ultrasound image of cyst" in capsys.readouterr().err
    assert "cyst" in (tmp_path / "prompts.yaml").read_text()
    assert len(job.tokenizer.tokenize("abscess")) == 1


def test_a_column_that_is_not_there_and_one_that_is_taken_are_named(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="index#columns: 'frame' is a fact that the index itself writes"):
        IndexConfig(tmp_path, columns=("frame",))
    with pytest.raises(
        ConfigurationError, match="generate#columns: no training image has 'centre' in its meta, which holds "
    ):
        generate(
            GenerateConfig(counts=1, steps=1, device="cpu", columns=("centre",)), tmp_path / "made", records=labelled
        )
    assert store.read_stage(labelled.parent)["classes"] == ["Abscess", "Cyst"]
