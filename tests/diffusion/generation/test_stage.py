"""The stage generate: what stands in its folder, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_material import write_adapter
from PIL import Image

from meddap_monai import store
from meddap_monai.core.devices import choose_device
from meddap_monai.core.records import iter_records, pixel_hash, read_records, write_records
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.generation.config import ClassifierGuidance, GenerateConfig, LatentClassifierConfig
from meddap_monai.diffusion.generation.marking import read_mark
from meddap_monai.diffusion.generation.remake import remake_shard
from meddap_monai.diffusion.generation.stage import generate, open_sampler
from meddap_monai.errors import BadAdapter, ConfigurationError, ForeignOutput, LeakedRecords
from meddap_monai.images.provenance import write_train_hashes

FEW = {"steps": 2, "shard_size": 4, "batch": 2, "sheet_columns": 2}


@pytest.fixture(scope="module")
def made(records: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("generate") / "out"
    config = GenerateConfig(ratio=0.5, adjectives=("none", "dark"), **FEW)
    return generate(config, output, records=records, base=tiny_base)


def test_records_follow_the_contract(made: Path, records: Path) -> None:
    found = read_records(made, full=True)
    assert len(found) == 12 and len({record["id"] for record in found}) == 12
    for number, record in enumerate(found):
        synthetic = record["synthetic"]
        with Image.open(record["image"]) as image:
            pixels = np.asarray(image)
        assert pixels.shape == (32, 32)
        assert record["sha256"] == pixel_hash(pixels)
        assert (record["source"], record["split"], record["patient"]) == ("synthetic", "train", "synthetic")
        assert synthetic["row"] == number and synthetic["shard"] == number // 4 and synthetic["batch"] == 2
        assert record["class_name"] == ["benign", "malignant", "normal"][record["label"]]
    assert store.read_stage(made.parent)["classes"] == store.read_stage(records.parent)["classes"]


def test_every_file_says_that_it_is_synthetic(made: Path) -> None:
    for record in iter_records(made):
        assert read_mark(record["image"]) == record["synthetic"]
        with Image.open(record["image"]) as image:
            assert image.text["SyntheticData"] == "YES" and "not for diagnosis" in image.text["Description"]


def test_folder_holds_plan_sheets_and_curves(made: Path) -> None:
    folder = made.parent
    with (folder / "plan.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 12
    assert sorted(path.name for path in (folder / "sheets").iterdir()) == [
        "00_benign.png",
        "01_malignant.png",
        "02_normal.png",
    ]
    assert list((folder / "tensorboard").glob("events.*"))
    assert store.read_stage(folder)["counts"] == {"in": 12, "out": 12, "rejected": 0, "derived": 0, "near_copies": 0}


def test_done_folder_is_skipped(made: Path, records: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "meddap_monai.diffusion.generation.stage.load_base", lambda *_: pytest.fail("the base was loaded")
    )
    config = GenerateConfig(ratio=0.5, adjectives=("none", "dark"), **FEW)
    before = made.read_bytes()
    assert generate(config, made.parent, records=records, base=tiny_base) == made
    assert made.read_bytes() == before


def test_another_configuration_is_refused_unless_allowed(made: Path, records: Path, tiny_base: Path) -> None:
    with pytest.raises(ForeignOutput, match="configuration steps was 2, now 3|configuration"):
        generate(GenerateConfig(ratio=0.5, **FEW | {"steps": 3}), made.parent, records=records, base=tiny_base)


def test_overwrite_replaces_it(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    generate(GenerateConfig(counts=2, **FEW), tmp_path / "out", records=records, base=tiny_base)
    config = GenerateConfig(counts=1, **FEW)
    path = generate(config, tmp_path / "out", records=records, base=tiny_base, overwrite=True)
    assert len(read_records(path)) == 3


@pytest.mark.parametrize("mode", ["image", "inpaint"])
def test_label_and_patient_are_the_sources(mode: str, records: Path, tiny_base: Path, tmp_path: Path) -> None:
    config = GenerateConfig(mode=mode, strength=0.5, counts=2, **FEW)
    found = read_records(generate(config, tmp_path / "out", records=records, base=tiny_base), full=True)
    sources = {record["id"]: record for record in iter_records(records)}
    assert len(found) == 6
    for record in found:
        source = sources[record["synthetic"]["source_id"]]
        assert source["split"] == "train" and record["synthetic"]["mode"] == mode
        assert (record["patient"], record["class_name"]) == (source["patient"], source["class_name"])


def test_masks_say_what_is_painted_again(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 10:26] = 255
    for record in read_records(records, split="train"):
        Image.fromarray(mask).save(masks / f"{record['id']}.png")
    for region in ("lesion", "background"):
        config = GenerateConfig(mode="inpaint", region=region, masks=masks, counts={"benign": 2}, strength=1.0, **FEW)
        painted = (mask > 0) == (region == "lesion")
        found = read_records(generate(config, tmp_path / region, records=records, base=tiny_base), full=True)
        assert len(found) == 2
        for record in found:
            source = records.parent / "images" / f"{record['synthetic']['source_id']}.png"
            old, new = (np.asarray(Image.open(path)) for path in (source, record["image"]))
            assert (old[~painted] == new[~painted]).all()
            assert (old[painted] != new[painted]).any()


def test_missing_mask_is_named(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    config = GenerateConfig(mode="inpaint", masks=tmp_path, counts=1, **FEW)
    with pytest.raises(ConfigurationError, match="train-benign-000.png: no mask for source train-benign-000"):
        generate(config, tmp_path / "out", records=records, base=tiny_base)


def test_same_images_whatever_the_shard_size(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    hashes = []
    for size in (2, 6):
        config = GenerateConfig(counts=2, **FEW | {"shard_size": size})
        path = generate(config, tmp_path / str(size), records=records, base=tiny_base)
        hashes.append([record["sha256"] for record in iter_records(path)])
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 6


def test_seed_changes_every_image(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    hashes = []
    for seed in (0, 1):
        config = GenerateConfig(counts=1, seed=seed, **FEW)
        path = generate(config, tmp_path / str(seed), records=records, base=tiny_base)
        hashes.append({record["sha256"] for record in iter_records(path)})
    assert not hashes[0] & hashes[1]


def test_size_and_colour_are_the_configured_ones(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    config = GenerateConfig(counts=1, grey=False, height=24, width=40, **FEW)
    path = generate(config, tmp_path / "out", records=records, base=tiny_base)
    with Image.open(read_records(path)[0]["image"]) as image:
        assert (image.size, image.mode) == ((40, 24), "RGB")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_base_that_saw_the_test_set_is_refused(split: str, records: Path, tmp_path: Path) -> None:
    from tools.tiny_base import build_tiny_base

    base = build_tiny_base(tmp_path / "base")
    leaked = [record for record in iter_records(records) if record["split"] == split][:1]
    write_train_hashes(base, leaked)
    with pytest.raises(LeakedRecords, match=rf"{leaked[0]['id']} \({split}\)"):
        generate(GenerateConfig(counts=1, **FEW), tmp_path / "out", records=records, base=base)
    assert not list((tmp_path / "out").glob("shards/*"))


def test_a_base_that_saw_the_training_set_is_fine(records: Path, tmp_path: Path) -> None:
    from tools.tiny_base import build_tiny_base

    base = build_tiny_base(tmp_path / "base")
    write_train_hashes(base, [record for record in iter_records(records) if record["split"] == "train"])
    assert generate(GenerateConfig(counts=1, **FEW), tmp_path / "out", records=records, base=base).is_file()


@pytest.mark.parametrize(
    "class_name",
    ["../../escape", "/etc/passwd", "nul\x00name", "x" * 300, "\u202egnp.exe", "a/b\\c", "..", "con", "%00"],
)
def test_hostile_class_names_write_nothing_outside(
    class_name: str, tiny_base: Path, records: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    real = [record | {"class_name": class_name, "label": 0} for record in iter_records(records)][:2]
    with store.open_stage(index, "index", {}) as stage:
        write_records(index / "records.jsonl", real)
        stage.finish({"in": 2, "out": 2, "rejected": 0}, classes=[class_name])
    table = tmp_path / "table.yaml"
    table.write_text(json.dumps({"name": "t", "templates": ["{class}"], "classes": {class_name: class_name}}))
    before = sorted(path for path in tmp_path.parent.rglob("*") if tmp_path / "out" not in path.parents)
    config = GenerateConfig(counts=1, prompts=str(table), **FEW)
    path = generate(config, tmp_path / "out", records=index / "records.jsonl", base=tiny_base)
    after = sorted(path for path in tmp_path.parent.rglob("*") if tmp_path / "out" not in path.parents)
    assert [path for path in after if path not in before] == [tmp_path / "out"]
    assert read_records(path)[0]["class_name"] == class_name


def test_number_of_adapter_weights_is_checked(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 weights for 0 adapters"):
        config = GenerateConfig(counts=1, adapter_weights=(1.0,), **FEW)
        generate(config, tmp_path / "out", records=records, base=tiny_base)


def test_a_missing_adapter_is_refused(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match="no: does not exist"):
        generate(
            GenerateConfig(counts=1, **FEW),
            tmp_path / "out",
            records=records,
            base=tiny_base,
            adapters=[tmp_path / "no"],
        )


# -------------------------------------------------------------------------------------------------------- adapters
@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    write_adapter(folder, load_base(tiny_base), {"unet": "attention"})
    return folder


def hashes_of(path: Path) -> list[str]:
    return [record["sha256"] for record in iter_records(path)]


def test_an_adapter_changes_every_image_and_is_named(
    adapter: Path, records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    config = GenerateConfig(counts=1, **FEW)
    given = {"records": records, "base": tiny_base}
    plain = hashes_of(generate(config, tmp_path / "plain", **given))
    adapted = generate(config, tmp_path / "adapted", **given, adapters=[adapter])
    assert not set(plain) & set(hashes_of(adapted))
    named = read_records(adapted, full=True)[0]["synthetic"]["adapters"]
    card = json.loads((adapter / "adapter.json").read_text())
    assert named == [{"name": "mine", "sha256": card["weights_sha256"], "weight": 1.0}]
    off = generate(
        GenerateConfig(counts=1, adapter_weights=(0.0,), **FEW), tmp_path / "off", **given, adapters=[adapter]
    )
    assert hashes_of(off) == plain


def test_another_adapter_is_another_run(adapter: Path, records: Path, tiny_base: Path, tmp_path: Path) -> None:
    config = GenerateConfig(counts=1, **FEW)
    generate(config, tmp_path / "out", records=records, base=tiny_base)
    with pytest.raises(ForeignOutput, match="inputs adapter_0 was None"):
        generate(config, tmp_path / "out", records=records, base=tiny_base, adapters=[adapter])


def test_an_adapter_that_saw_the_test_set_is_refused(
    adapter: Path, records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    leaked = shutil.copytree(adapter, tmp_path / "leaked")
    write_train_hashes(leaked, [record for record in iter_records(records) if record["split"] == "test"][:1])
    with pytest.raises(LeakedRecords, match="leaked: 1 validation, test or unseen"):
        generate(GenerateConfig(counts=1, **FEW), tmp_path / "out", records=records, base=tiny_base, adapters=[leaked])


def test_prompt_and_clip_skip_are_those_of_the_training(
    adapter: Path, records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(adapter, tmp_path / "own")
    card = json.loads((own / "adapter.json").read_text())
    card |= {"class_prompts": {"benign": "a photo of sks breast"}, "clip_skip": 1}
    (own / "adapter.json").write_text(json.dumps(card))
    config = GenerateConfig(counts=1, **FEW)
    path = generate(config, tmp_path / "out", records=records, base=tiny_base, adapters=[own])
    prompts = [record["synthetic"]["prompt"] for record in iter_records(path)]
    assert prompts[:2] == ["a photo of sks breast", "an ultrasound photo of malignant tumor in breast"]
    with open_sampler(config, tiny_base, [own]) as sampler:
        assert sampler.settings.clip_skip == 1
    with open_sampler(GenerateConfig(clip_skip=0), tiny_base, [own]) as sampler:
        assert sampler.settings.clip_skip == 0


# ------------------------------------------------------------------------------------------------ guidance and DICOM
def test_classifier_guidance_trains_its_classifier_on_the_training_split(
    records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    given = {"records": records, "base": tiny_base}
    few = {**FEW, "counts": 1, "unconditional": True, "guidance": 1.0, "scheduler": "ddim", "eta": 1.0}
    plain = hashes_of(generate(GenerateConfig(**few), tmp_path / "plain", **given))
    training = LatentClassifierConfig(steps=3, learning_rate=5e-5)
    guided = GenerateConfig(**few, classifier_guidance=ClassifierGuidance(scale=50.0, training=training))
    path = generate(guided, tmp_path / "guided", **given)
    assert not set(hashes_of(path)) & set(plain)
    synthetic = read_records(path, full=True)[0]["synthetic"]
    assert synthetic["prompt"] == "" and synthetic["classifier_guidance"]["scale"] == 50.0
    card = json.loads((tmp_path / "guided" / "classifier" / "classifier.json").read_text())
    assert (card["configuration"]["steps"], card["configuration"]["learning_rate"]) == (3, 5e-5)
    seen = (tmp_path / "guided" / "classifier" / "train_sha256.txt").read_text().split()
    assert set(seen) >= {record["sha256"] for record in iter_records(records) if record["split"] == "train"}
    assert not set(seen) & {record["sha256"] for record in iter_records(records) if record["split"] != "train"}
    none = GenerateConfig(
        **few, classifier_guidance=ClassifierGuidance(classifier=tmp_path / "guided/classifier", scale=0.0)
    )
    assert hashes_of(generate(none, tmp_path / "none", **given)) == plain
    assert all(item.equal for item in remake_shard(tmp_path / "guided", 0, tmp_path / "again", **given))


def test_a_classifier_that_saw_the_test_set_is_refused(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    folder.mkdir()
    (folder / "classifier.safetensors").write_bytes(b"")
    write_train_hashes(folder, [record for record in iter_records(records) if record["split"] == "test"])
    config = GenerateConfig(counts=1, classifier_guidance=ClassifierGuidance(classifier=folder), **FEW)
    with pytest.raises(LeakedRecords, match="classifier: 6 validation, test or unseen"):
        generate(config, tmp_path / "out", records=records, base=tiny_base)


@pytest.mark.parametrize(
    ("keys", "text"), [({"variant": "nosy"}, "did you mean 'noisy'"), ({"start": 0.5, "end": 0.2}, "guidance#end")]
)
def test_wrong_guidance_is_named(keys: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ClassifierGuidance(**keys)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [str(choose_device(name, "generate#device")) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigurationError, match="generate#device: 'cuda:1', but there is no GPU here"):
        choose_device("cuda:1", "generate#device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(choose_device(name, "")) for name in ("auto", "cuda", "cuda:0")] == ["cuda:1", "cuda:1", "cuda:0"]


def test_dicom_files_say_that_they_are_synthetic(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    import pydicom

    path = generate(GenerateConfig(counts=1, dicom=True, **FEW), tmp_path / "out", records=records, base=tiny_base)
    found = {record["id"]: record for record in iter_records(path)}
    files = sorted((tmp_path / "out" / "dicom").iterdir())
    assert {file.stem for file in files} == set(found)
    for file in files:
        dataset = pydicom.dcmread(file)
        assert dataset.SyntheticData == "YES" and dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
        with Image.open(found[file.stem]["image"]) as image:
            assert (dataset.pixel_array == np.asarray(image)).all()
