"""Synthetic images inside MONAI pipelines: same label, same draw whatever the workers, one override in a bundle."""

import inspect
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, ThreadDataLoader, list_data_collate
from monai.engines import SupervisedTrainer
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    MultiSampleTrait,
    RandRotated,
    Resized,
    Rotate90d,
    Rotated,
    ScaleIntensityRanged,
    Transposed,
)
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.core.seeded import SeededDataset
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.transforms.bank import ImageBank
from meddap_monai.transforms.diffusion import (
    RandDiffusionAugment,
    RandDiffusionAugmentd,
    RandDiffusionSamples,
    RandDiffusionSamplesd,
)
from meddap_monai.transforms.online import DiffusionPrepareBatch, OnlineGenerator, refuse_forked_cuda
from tests.record_material import CLASSES, image_record

MADE = {"patient": "synthetic", "source": "synthetic", "synthetic": {"seed": 1}}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank whose images tell their label: levels 10, 20, 30 for benign, 110, ... for malignant; none of normal."""
    folder = tmp_path_factory.mktemp("bank") / "generate"
    made = []
    for label, name in enumerate(CLASSES[:2]):
        for number in range(3):
            pixels = np.full((24, 24), 100 * label + 10 * (number + 1), np.uint8)
            made.append(image_record(folder, f"{name}-{number}", pixels, name, **MADE))
    write_records(folder / "generated.jsonl", made)
    return folder / "generated.jsonl"


@pytest.fixture(scope="module")
def online(tiny_base: Path) -> OnlineGenerator:
    return OnlineGenerator(CLASSES, base=tiny_base, steps=2, guidance=1.0)


def image_like(kind: str, channels: int = 1, value: float = 200):
    values = np.full((channels, 20, 30), value, np.float32)
    return {"numpy": values, "tensor": torch.from_numpy(values), "meta": MetaTensor(values, meta={"who": "me"})}[kind]


@pytest.mark.parametrize("kind", ["numpy", "tensor", "meta"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("black_white", [(0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)])
def test_a_replacement_has_the_form_of_the_image(kind: str, channels: int, black_white: tuple, bank: Path) -> None:
    image = image_like(kind, channels, value=black_white[1])
    result = RandDiffusionAugment(bank, prob=1.0, transposed=False, black_white=black_white).set_random_state(0)(
        image, 1
    )
    assert type(result) is type(image) and result.dtype == image.dtype and tuple(result.shape) == (channels, 20, 30)
    black, white = black_white
    levels = (np.asarray(result) - black) / (white - black) * 255
    assert np.allclose(levels, levels.flat[0]) and round(float(levels.flat[0])) in (110, 120, 130)
    assert np.asarray(image).min() == white
    if kind == "meta":
        assert result.meta["who"] == "me"


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_probability(prob: float, low: int, high: int, bank: Path) -> None:
    augment = RandDiffusionAugment(bank, prob=prob, transposed=False).set_random_state(3)
    image = image_like("numpy")
    replaced = sum(augment(image, 0) is not image for _ in range(200))
    assert low <= replaced <= high


@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1), torch.tensor([1]), "malignant"])
def test_any_form_of_label(label, bank: Path) -> None:
    assert RandDiffusionAugment(bank, prob=1.0, transposed=False)(image_like("numpy"), label).max() >= 110


def test_every_image_of_the_bank_is_drawn(bank: Path) -> None:
    augment = RandDiffusionAugment(bank, prob=1.0).set_random_state(0)
    assert {Path(augment("real.png", 0)).stem for _ in range(60)} == {"benign-0", "benign-1", "benign-2"}


def test_transposed_images_are_filled_the_right_way(tmp_path: Path) -> None:
    wide = np.zeros((10, 20), np.uint8)
    wide[:, 10:] = 255
    augment = RandDiffusionAugment(_bank_of(tmp_path, wide), prob=1.0, transposed=True)
    result = augment(np.zeros((1, 20, 10), np.float32), 0)
    assert result[0, 2].max() < 5 and result[0, 17].min() > 250


def _bank_of(folder: Path, pixels: np.ndarray) -> Path:
    write_records(folder / "bank.jsonl", [image_record(folder, "a", pixels, "benign", **MADE)])
    return folder / "bank.jsonl"


def test_a_missing_class_is_an_error_or_allowed(bank: Path) -> None:
    image = image_like("numpy")
    with pytest.raises(RecordsError, match="no synthetic image of label 2, it holds 0, 1, benign, malignant"):
        RandDiffusionAugment(bank, prob=1.0, transposed=False)(image, 2)
    assert RandDiffusionAugment(bank, prob=1.0, allow_missing_classes=True)(image, 2) is image


@pytest.mark.parametrize("arguments", [{}, {"bank": "x", "generator": {"classes": CLASSES}}])
def test_exactly_one_source(arguments: dict) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of bank and generator"):
        RandDiffusionAugment(**arguments)


def test_a_bank_is_printed_by_its_file(bank: Path) -> None:
    assert repr(RandDiffusionAugment(bank)) == f"RandDiffusionAugment(bank={bank!r})"
    assert repr(RandDiffusionAugment(ImageBank(bank))) == f"RandDiffusionAugment(bank=ImageBank(records={bank!r}))"


def test_a_bank_of_real_images_is_refused(records: Path) -> None:
    with pytest.raises(RecordsError, match="holds no synthetic image"):
        ImageBank(records)


def test_dictionary_version_leaves_the_item_alone(bank: Path) -> None:
    item = {"image": "real.png", "label": 0, "source": "real", "id": "7"}
    result = RandDiffusionAugmentd("image", bank=bank, prob=1.0)(item)
    assert item == {"image": "real.png", "label": 0, "source": "real", "id": "7"}
    assert result["source"] == "synthetic" and Path(result["image"]).parent == bank.parent / "images"
    assert result["label"] == 0


def test_class_name_is_preferred_to_the_label(bank: Path) -> None:
    result = RandDiffusionAugmentd("image", bank=bank, prob=1.0)({"image": "a", "label": 0, "class_name": "malignant"})
    assert Path(result["image"]).name.startswith("malignant")


def test_missing_keys(bank: Path) -> None:
    with pytest.raises(KeyError):
        RandDiffusionAugmentd("image", bank=bank, prob=1.0)({"label": 0})
    augment = RandDiffusionAugmentd("image", bank=bank, prob=1.0, allow_missing_keys=True)
    assert augment({"label": 0}) == {"label": 0}
    with pytest.raises(ConfigurationError, match="neither 'class_name' nor 'label', but image"):
        RandDiffusionAugmentd("image", bank=bank, prob=1.0)({"image": "a"})


def test_two_keys_get_the_same_draw(bank: Path) -> None:
    result = RandDiffusionAugmentd(["image", "view"], bank=bank, prob=1.0)({"image": "a", "view": "b", "label": 1})
    assert result["image"] == result["view"]


@pytest.mark.parametrize("form", ["array", "dictionary"])
def test_multi_sample(form: str, bank: Path) -> None:
    if form == "array":
        transform = RandDiffusionSamples(2, bank=bank)
        found = transform("real.png", 0)
    else:
        transform = RandDiffusionSamplesd("image", 2, bank=bank)
        items = transform({"image": "real.png", "label": 0, "source": "real"})
        assert [item["source"] for item in items] == ["real", "synthetic", "synthetic"]
        found = [item["image"] for item in items]
    assert isinstance(transform, MultiSampleTrait)
    assert found[0] == "real.png" and len(set(found)) == 3


def loading(*extra) -> Compose:
    return Compose(
        [
            *extra,
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            Resized("image", (16, 16)),
            ScaleIntensityRanged("image", 0, 255, 0, 1),
        ]
    )


def test_multi_sample_inside_compose(bank: Path, records: Path) -> None:
    items = read_records(records, split="train")
    items = [item for item in items if item["class_name"] != "normal"]
    data = Dataset(items, loading(RandDiffusionSamplesd("image", 1, bank=bank)))
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch["image"].shape == (8, 1, 16, 16)
    assert batch["source"] == ["real", "synthetic"] * 4


@pytest.mark.parametrize("after_loading", [False, True])
def test_workers_do_not_matter(after_loading: bool, bank: Path, records: Path) -> None:
    augment = RandDiffusionAugmentd("image", bank=bank, prob=0.5, allow_missing_classes=True)
    data = SeededDataset(read_records(records, split="train"), loading(augment), seed=5)
    if after_loading:
        inner = RandDiffusionAugmentd(
            "image", bank=bank, prob=0.5, transposed=False, black_white=(0, 1), allow_missing_classes=True
        )
        data = SeededDataset(read_records(records, split="train"), Compose([loading(), inner]), seed=5)
    epochs = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = [
            torch.cat([batch["image"].as_tensor() for batch in DataLoader(data, batch_size=5, num_workers=workers)])
            for workers in (0, 2, 4)
        ]
        assert torch.equal(batches[0], batches[1]) and torch.equal(batches[0], batches[2])
        epochs.append(batches[0])
    assert not torch.equal(*epochs)


# ---------------------------------------------------------------------------------------------------------- online
def test_online_text_to_image(online: OnlineGenerator) -> None:
    augment = RandDiffusionAugment(generator=online, prob=1.0, transposed=False).set_random_state(1)
    image = image_like("tensor", 3)
    first, second = augment(image, 0), augment(image, 0)
    assert first.shape == image.shape and not torch.equal(first, second)
    again = RandDiffusionAugment(generator=online, prob=1.0, transposed=False).set_random_state(1)
    assert torch.equal(again(image, 0), first)


def test_online_image_to_image_follows_the_image(tiny_base: Path) -> None:
    near = OnlineGenerator(CLASSES, base=tiny_base, steps=10, guidance=1.0, mode="image", strength=0.1)
    augment = RandDiffusionAugment(generator=near, prob=1.0, transposed=False, black_white=(0, 1))
    results = [augment(torch.full((1, 32, 32), level), 0).mean() for level in (0.1, 0.9)]
    text = RandDiffusionAugment(
        generator={"classes": CLASSES, "base": tiny_base, "steps": 2, "guidance": 1.0},
        prob=1.0,
        transposed=False,
        black_white=(0, 1),
    )
    alike = [text.set_random_state(0)(torch.full((1, 32, 32), level), 0).mean() for level in (0.1, 0.9)]
    assert results[0] != results[1] and alike[0] == alike[1]


def test_online_image_to_image_keeps_what_is_where() -> None:
    real = simulate_image("benign", seed=3)[:, 32:96]
    near = OnlineGenerator(CLASSES, steps=10, mode="image", strength=0.1)
    found = RandDiffusionAugment(generator=near, prob=1.0, transposed=False)(real[None].astype(np.float32), 0)[0]
    assert found.shape == real.shape and not np.array_equal(found, real)
    assert np.corrcoef(found.ravel(), real.ravel())[0, 1] > 0.8


def test_online_images_that_stay_what_they_were_are_refused_unless_asked_for() -> None:
    real = [simulate_image("malignant", seed, size=(128, 128)) for seed in range(4)]
    near = OnlineGenerator(CLASSES, steps=10, mode="image", strength=0.05)
    near.draw_batch([1] * 4, range(4), real)
    with pytest.raises(
        ConfigurationError, match=r"generator#strength: 0\.05 leaves \d of 8 .*generator#near_copies=true"
    ):
        near.draw_batch([1] * 4, range(4, 8), real)
    for settings in ({"strength": 0.05, "near_copies": True}, {"strength": 0.8}):
        fine = OnlineGenerator(CLASSES, steps=10, mode="image", **settings)
        assert len(fine.draw_batch([1] * 8, range(8), real * 2)) == 8


@pytest.mark.parametrize(("mode", "derived"), [("text", False), ("image", True)])
def test_meta_data_say_whether_a_patients_image_is_in_it(mode: str, derived: bool, tmp_path: Path) -> None:
    import pydicom

    from meddap_monai.images.reading.marks import DERIVED, NOTICE
    from meddap_monai.images.writing.writer import SyntheticDicomWriter

    image = MetaTensor(torch.full((1, 64, 64), 90.0), meta={"filename_or_obj": "x"})
    generator = {"classes": CLASSES, "mode": mode, "strength": 0.8, "steps": 2}
    augment = RandDiffusionAugment(generator=generator, prob=1.0, transposed=False)
    made = augment.set_random_state(3)(image, "benign")
    assert (made.meta["mode"], made.meta["derived"], made.meta["base"]) == (mode, derived, "embedded")
    assert "derived" not in image.meta
    writer = SyntheticDicomWriter()
    writer.set_data_array(made, channel_dim=0)
    writer.set_metadata(made.meta)
    writer.write(tmp_path / "x.dcm")
    said = pydicom.dcmread(tmp_path / "x.dcm").DerivationDescription
    assert said.startswith(DERIVED if derived else NOTICE)


def test_online_pickles_without_its_networks(online: OnlineGenerator) -> None:
    before = online.draw(0, 3)
    packed = pickle.dumps(online)
    assert len(packed) < 20_000
    assert np.array_equal(pickle.loads(packed).draw(0, 3), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_online_in_a_thread_loader(workers: int, online: OnlineGenerator, records: Path) -> None:
    augment = RandDiffusionAugmentd("image", generator=online, prob=1.0, transposed=False, black_white=(0, 1))
    data = SeededDataset(read_records(records, split="train")[:4], Compose([loading(), augment]), seed=5)
    plain = torch.cat([batch["image"] for batch in DataLoader(data, batch_size=2)])
    threads = ThreadDataLoader(data, batch_size=2, num_workers=workers, use_thread_workers=workers > 0)
    assert torch.equal(torch.cat([batch["image"] for batch in threads]), plain)


def test_online_on_the_cpu_works_in_a_worker(online: OnlineGenerator, records: Path) -> None:
    augment = RandDiffusionAugmentd("image", generator=online, prob=1.0, transposed=False, black_white=(0, 1))
    data = SeededDataset(read_records(records, split="train")[:2], Compose([loading(), augment]), seed=5)
    batches = [next(iter(DataLoader(data, batch_size=2, num_workers=workers)))["image"] for workers in (0, 1)]
    assert torch.equal(*batches)


def _in_a_fork(pipe) -> None:
    try:
        refuse_forked_cuda(torch.device("cuda:0"))
        pipe.send("nothing")
    except ConfigurationError as error:
        pipe.send(str(error))


def test_cuda_in_a_forked_worker_is_refused() -> None:
    refuse_forked_cuda(torch.device("cuda:0"))
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(there,))
    process.start()
    process.join(20)
    assert "num_workers=0, MONAI's ThreadDataLoader, or a bank" in here.recv()


def test_online_before_loading_is_refused(online: OnlineGenerator) -> None:
    with pytest.raises(ConfigurationError, match="after LoadImaged"):
        RandDiffusionAugment(generator=online, prob=1.0)("real.png", 0)


@pytest.mark.parametrize(
    ("keys", "text"), [({"step": 3}, "did you mean 'steps'"), ({"mode": "inpaint"}, "generator#mode")]
)
def test_wrong_generator_settings_are_named(keys: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        OnlineGenerator(CLASSES, **keys)


def test_unknown_label_is_named(online: OnlineGenerator) -> None:
    with pytest.raises(ConfigurationError, match="label 9 is none of benign, malignant, normal"):
        online.draw(9, 0)


# ------------------------------------------------------------------------------------------------- inside the engine
def test_prepare_batch_replaces_some_in_one_go(online: OnlineGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    draw = online.draw_batch
    monkeypatch.setattr(online, "draw_batch", lambda labels, *rest: sizes.append(len(labels)) or draw(labels, *rest))
    batch = {"image": torch.full((8, 1, 32, 32), 0.5), "label": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])}
    prepare = DiffusionPrepareBatch(online, black_white=(0, 1), transposed=False, prob=0.5, seed=1)
    images, labels = prepare(batch, torch.device("cpu"))
    changed = [index for index in range(8) if not torch.equal(images[index], batch["image"][index])]
    assert sizes == [len(changed)] and 0 < len(changed) < 8
    assert torch.equal(labels, batch["label"]) and float(images.min()) >= 0 and float(images.max()) <= 1
    again, _ = DiffusionPrepareBatch(online, black_white=(0, 1), transposed=False, prob=0.5, seed=1)(
        batch, torch.device("cpu")
    )
    assert torch.equal(again, images)
    later, _ = prepare(batch, torch.device("cpu"))
    assert not torch.equal(later, images)


def test_prepare_batch_inside_a_trainer(online: OnlineGenerator, records: Path) -> None:
    data = DataLoader(Dataset(read_records(records, split="train")[:4], loading()), batch_size=2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    before = network[1].weight.detach().clone()
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        prepare_batch=DiffusionPrepareBatch(online, black_white=(0, 1), transposed=False, prob=1.0),
    ).run()
    assert torch.isfinite(network[1].weight).all() and not torch.equal(network[1].weight, before)


# -------------------------------------------------------------------------------------------- a bundle of MONAI's own
CONFIG = """
device: cpu
network_def:
  _target_: DenseNet
  spatial_dims: 2
  in_channels: 1
  out_channels: 3
  init_features: 4
  growth_rate: 4
  block_config: [1, 1]
network: '$@network_def.to(@device)'
train:
  preprocessing:
    _target_: Compose
    transforms:
    - {_target_: LoadImaged, keys: image, image_only: true}
    - {_target_: EnsureChannelFirstd, keys: image}
    - {_target_: Resized, keys: image, spatial_size: [16, 16]}
    - {_target_: ScaleIntensityRanged, keys: image, a_min: 0, a_max: 255, b_min: 0, b_max: 1}
    - {_target_: ToTensord, keys: [image, label]}
  dataset:
    _target_: CacheDataset
    data: []
    transform: '@train#preprocessing'
    progress: false
  dataloader: {_target_: DataLoader, dataset: '@train#dataset', batch_size: 4, shuffle: true, num_workers: 0}
  inferer: {_target_: SimpleInferer}
  trainer:
    _target_: SupervisedTrainer
    max_epochs: 1
    device: '@device'
    train_data_loader: '@train#dataloader'
    network: '@network'
    loss_function: {_target_: torch.nn.CrossEntropyLoss}
    optimizer: {_target_: torch.optim.SGD, params: '$@network.parameters()', lr: 0.01}
    inferer: '@train#inferer'
"""
OVERRIDE = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "meddap_monai.transforms.RandDiffusionAugmentd", "keys": "image", "prob": 1.0},
        "@train#preprocessing",
    ],
}


def monai_bundle(records: Path) -> ConfigParser:
    """A configuration of MONAI's own on the training images that the bank has classes of."""
    import yaml

    assert "meddap" not in CONFIG
    parser = ConfigParser(yaml.safe_load(CONFIG))
    items = [item for item in read_records(records, split="train") if item["class_name"] != "normal"]
    parser["train"]["dataset"]["data"] = [{"image": item["image"], "label": item["label"]} for item in items]
    return parser


@pytest.mark.parametrize("override", [False, True])
def test_one_override_puts_it_into_a_monai_bundle(override: bool, bank: Path, records: Path) -> None:
    parser = monai_bundle(records)
    if override:
        OVERRIDE["transforms"][0]["bank"] = str(bank)
        parser.set(OVERRIDE, "train#dataset#transform")
    trainer = parser.get_parsed_content("train#trainer")
    assert isinstance(trainer, SupervisedTrainer)
    assert isinstance(trainer.data_loader.dataset, CacheDataset)
    levels = set()
    iterate = trainer._iteration

    def watching(engine, batch):
        levels.update(round(float(value) * 255) for value in batch["image"].amax((1, 2, 3)))
        return iterate(engine, batch)

    trainer._process_function = watching
    trainer.run()
    assert trainer.state.iteration == 2
    assert (levels <= {10, 20, 30, 110, 120, 130}) is override


def test_one_override_puts_the_generator_into_its_engine(tiny_base: Path, records: Path) -> None:
    parser = monai_bundle(records)
    generator = {"classes": CLASSES, "base": str(tiny_base), "mode": "image", "strength": 0.5, "steps": 2}
    batches = {"_target_": "meddap_monai.transforms.DiffusionPrepareBatch", "generator": generator, "transposed": True}
    batches["black_white"] = [0, 1]
    parser.set(batches, "train#trainer#prepare_batch")
    trainer = parser.get_parsed_content("train#trainer")
    loaded = next(iter(trainer.data_loader))
    images, _ = trainer.prepare_batch(loaded, torch.device("cpu"))
    changed = [not torch.equal(one, other) for one, other in zip(images, loaded["image"], strict=True)]
    assert any(changed) and not all(changed)
    trainer.run()
    assert trainer.state.iteration == 2


def test_stage_folder_serves_as_a_bank(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    from meddap_monai.diffusion.generation.config import GenerateConfig
    from meddap_monai.diffusion.generation.stage import generate

    config = GenerateConfig(counts=1, steps=1, shard_size=3, batch=3, sheet_columns=1)
    made = generate(config, tmp_path / "out", records=records, base=tiny_base)
    assert store.read_stage(made.parent)["state"] == "done"
    assert RandDiffusionAugment(made, prob=1.0, transposed=False)(np.zeros((1, 32, 32), np.float32), "normal").max() > 0


# ---------------------------------------------------------------------------------------------- width, black and white
WIDE = np.zeros((20, 40), np.uint8)
WIDE[:, 20:] = 255
"""Dark left, bright right: tells in which direction an image was filled."""


def saved(folder: Path, kind: str, rows: int = 20, columns: int = 40) -> Path:
    pixels = np.full((rows, columns), 9, np.uint8)
    if kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(pixels.T, np.diag([-0.1, -0.1, 1, 1])), folder / "real.nii.gz")
        return folder / "real.nii.gz"
    Image.fromarray(pixels).save(folder / "real.png")
    return folder / "real.png"


@pytest.mark.parametrize(
    ("kind", "reader", "then", "width_axis"),
    [
        ("png", {}, [], 1),
        ("png", {"reader": "PILReader", "reverse_indexing": False}, [], 2),
        ("png", {"reader": UltrasoundReader()}, [], 2),
        ("nifti", {}, [], 1),
        ("nifti", {"reader": UltrasoundReader()}, [], 2),
        ("png", {}, [Resized("image", (32, 32))], 1),
        ("png", {"reader": "PILReader", "reverse_indexing": False}, [Resized("image", (32, 32))], 2),
        ("png", {}, [Rotate90d("image", k=3)], 2),
        ("png", {}, [Transposed("image", (0, 2, 1))], 2),
        ("png", {"reader": UltrasoundReader()}, [Transposed("image", (0, 2, 1))], 1),
        ("png", {}, [Resized("image", (32, 32)), Transposed("image", (0, 2, 1))], 2),
        ("png", {}, [CenterSpatialCropd("image", (16, 16))], 1),
        ("png", {}, [RandRotated("image", 0.3, prob=1.0)], 1),
    ],
)  # fmt: skip
def test_the_width_is_found_in_shapes_and_meta_data(
    kind: str, reader: dict, then: list, width_axis: int, tmp_path: Path
) -> None:
    loading = [LoadImaged("image", **reader), EnsureChannelFirstd("image"), *then]
    augment = RandDiffusionAugmentd("image", bank=_bank_of(tmp_path, WIDE), prob=1.0)
    image = Compose([*loading, augment])({"image": saved(tmp_path, kind), "label": 0})["image"]
    along = image.float().mean(dim=3 - width_axis)[0]
    assert along[0] < 60 and along[-1] > 195, along
    assert float(image.float().mean(dim=width_axis).std()) < 2


UNKNOWN_WIDTH = (
    "RandDiffusionAugment: nothing tells whether this .* has its width or its height first; say transposed=True"
)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((1, 20, 40), 9.0, np.float32), r"this ndarray \(1, 20, 40\) has its width"),
        (torch.full((1, 20, 20), 9.0), r"this image of equal sides \(1, 20, 20\)"),
    ],
)
def test_a_width_that_cannot_be_known_is_refused(image, said: str, tmp_path: Path) -> None:
    augment = RandDiffusionAugment(_bank_of(tmp_path, WIDE), prob=1.0)
    with pytest.raises(ConfigurationError, match=UNKNOWN_WIDTH):
        augment(image, 0)
    with pytest.raises(ConfigurationError, match=said):
        augment(image, 0)


def test_a_square_png_of_monai_s_reader_is_refused_and_a_turn_by_half_a_right_angle_too(tmp_path: Path) -> None:
    augment = RandDiffusionAugmentd("image", bank=_bank_of(tmp_path, WIDE), prob=1.0)
    loading = [LoadImaged("image"), EnsureChannelFirstd("image")]
    with pytest.raises(RuntimeError) as caught:
        Compose([*loading, augment])({"image": saved(tmp_path, "png", 20, 20), "label": 0})
    assert "this image of equal sides (1, 20, 20)" in str(caught.value.__cause__)
    turned = [*loading, Rotated("image", np.pi / 4, keep_size=True)]
    with pytest.raises(RuntimeError):
        Compose([*turned, augment])({"image": saved(tmp_path, "png"), "label": 0})


def test_a_batch_is_filled_as_its_meta_data_say(tmp_path: Path, online: OnlineGenerator) -> None:
    loading = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    batch = list_data_collate([loading({"image": saved(tmp_path, "png"), "label": 0}) for _ in range(2)])
    images, _ = DiffusionPrepareBatch(online, prob=1.0)(batch, torch.device("cpu"))
    assert images.shape == (2, 1, 40, 20)
    with pytest.raises(ConfigurationError, match="DiffusionPrepareBatch: nothing tells whether this Tensor"):
        DiffusionPrepareBatch(online, prob=1.0)({"image": torch.full((2, 1, 20, 40), 9.0), "label": torch.zeros(2)})


@pytest.mark.parametrize(
    ("value", "black_white"), [(0.9, None), (200.0, (0.0, 1.0)), (-4.0, (0.0, 0.5)), (0.5, (0.0, 255.0))]
)
def test_black_and_white_that_cannot_be_are_refused(value: float, black_white: tuple | None, tmp_path: Path) -> None:
    given = {} if black_white is None else {"black_white": black_white}
    augment = RandDiffusionAugment(_bank_of(tmp_path, WIDE), prob=1.0, transposed=False, **given)
    with pytest.raises(ConfigurationError, match=r"the image holds values from .* to .*, but black_white says 0 and"):
        augment(np.full((1, 20, 40), value, np.float32), 0)


def test_one_default_for_black_and_white() -> None:
    makers = (RandDiffusionAugment, DiffusionPrepareBatch)
    assert {inspect.signature(maker).parameters["black_white"].default for maker in makers} == {(0.0, 255.0)}
