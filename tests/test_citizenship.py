"""A citizen of MONAI: our readers and transforms in pipelines, data sets, loaders and engines that are none of ours."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    ThreadDataLoader,
    list_data_collate,
)
from monai.engines import SupervisedTrainer
from monai.handlers import MLFlowHandler, StatsHandler
from monai.inferers import SimpleInferer
from monai.networks.nets import DenseNet121
from monai.transforms import (
    Compose,
    EnsureTyped,
    LoadImaged,
    RandFlipd,
    RandRotated,
    Resized,
    ScaleIntensityd,
)

from meddap_monai import LoadUltrasoundd, SeededDataset, read_records
from meddap_monai.phantom.simulation import write_phantom_study
from meddap_monai.transforms import RandSpeckled


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A datalist over DICOM files, as a user of MONAI would write it by hand."""
    folder = write_phantom_study(tmp_path_factory.mktemp("dicom"), 2, 1, seed=5)
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return [
        {"image": str(file), "label": label}
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("IM*"))
    ]


def third_party(random: bool = True) -> Compose:
    """A pipeline of MONAI's own transforms around ours."""
    middle = [RandSpeckled("image", prob=1.0), RandFlipd("image", prob=0.5, spatial_axis=1), RandRotated("image", 0.2)]
    return Compose(
        [
            LoadUltrasoundd("image"),
            ScaleIntensityd("image"),
            *(middle if random else []),
            Resized("image", spatial_size=(32, 32)),
            EnsureTyped(["image", "label"]),
        ]
    )


def test_ours_stand_among_monai_s_transforms(dicom: list[dict[str, Any]]) -> None:
    before = [dict(item) for item in dicom]
    item = third_party()(dicom[0])
    assert isinstance(item["image"], MetaTensor)
    assert item["image"].shape == (1, 32, 32)
    assert torch.isfinite(item["image"]).all() and item["image"].max() > 0.2
    assert dicom == before, "the datalist of the caller must stay as it is"


def test_the_reader_serves_monai_s_own_loader(dicom: list[dict[str, Any]]) -> None:
    ours = LoadUltrasoundd("image")(dicom[0])["image"]
    load = LoadImaged("image", reader="meddap_monai.images.reading.reader.UltrasoundReader", ensure_channel_first=True)
    theirs = load(dicom[0])["image"]
    assert theirs.shape[-2:] == ours.shape[-2:], "rows first, as everywhere in this package"
    np.testing.assert_array_equal(np.asarray(theirs).squeeze(), np.asarray(ours).squeeze())


@pytest.mark.parametrize("kind", [Dataset, CacheDataset, PersistentDataset])
def test_monai_s_data_sets_hold_it(kind: type, dicom: list[dict[str, Any]], tmp_path: Path) -> None:
    options: dict[type, dict[str, Any]] = {
        CacheDataset: {"progress": False},
        PersistentDataset: {"cache_dir": tmp_path},
    }
    data = kind(data=dicom, transform=third_party(random=False), **options.get(kind, {}))
    reference = Dataset(dicom, third_party(random=False))
    for number in range(4):
        for _ in range(2):
            torch.testing.assert_close(
                torch.as_tensor(data[number]["image"]), torch.as_tensor(reference[number]["image"])
            )


def test_a_random_transform_of_ours_is_not_frozen_by_the_cache(dicom: list[dict[str, Any]]) -> None:
    data = CacheDataset(dicom, third_party(), progress=False)
    assert not torch.equal(torch.as_tensor(data[0]["image"]), torch.as_tensor(data[0]["image"]))


@pytest.mark.parametrize("loader", [DataLoader, ThreadDataLoader])
@pytest.mark.parametrize("workers", [0, 2])
def test_monai_s_loaders_batch_it(loader: type, workers: int, dicom: list[dict[str, Any]]) -> None:
    if loader is ThreadDataLoader and workers:
        options: dict[str, Any] = {"num_workers": workers, "use_thread_workers": True}
    else:
        options = {"num_workers": workers}
    batches = list(loader(Dataset(dicom, third_party()), batch_size=3, collate_fn=list_data_collate, **options))
    assert [tuple(batch["image"].shape) for batch in batches] == [(3, 1, 32, 32)] * 2
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [item["label"] for item in dicom]


def test_set_random_state_makes_a_pipeline_repeat(dicom: list[dict[str, Any]]) -> None:
    first = third_party().set_random_state(3)(dicom[0])["image"]
    again = third_party().set_random_state(3)(dicom[0])["image"]
    other = third_party().set_random_state(4)(dicom[0])["image"]
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(again))
    assert not torch.equal(torch.as_tensor(first), torch.as_tensor(other))


def test_records_are_a_datalist(simulated_records: Path) -> None:
    items = read_records(simulated_records, split="train")
    steps = Compose([LoadUltrasoundd("image"), ScaleIntensityd("image"), RandFlipd("image", prob=0.5)])
    data = SeededDataset(items, steps, seed=1)
    first, second = (list(DataLoader(data, batch_size=6, num_workers=workers)) for workers in (0, 2))
    assert torch.equal(torch.cat([b["image"] for b in first]), torch.cat([b["image"] for b in second]))


def test_a_pipeline_pickles(dicom: list[dict[str, Any]]) -> None:
    copy = pickle.loads(pickle.dumps(third_party()))
    assert copy(dicom[0])["image"].shape == (1, 32, 32)


def test_ours_trains_in_monai_s_trainer_with_monai_s_handlers(dicom: list[dict[str, Any]]) -> None:
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3, init_features=8, growth_rate=4)
    trainer = _trainer(network, dicom, [StatsHandler(output_transform=lambda output: output[0]["loss"])])
    trainer.run()
    assert trainer.state.iteration == 2
    assert np.isfinite(float(trainer.state.output[0]["loss"]))


def _trainer(network: torch.nn.Module, items: list[dict[str, Any]], handlers: list[Any]) -> SupervisedTrainer:
    loader = DataLoader(Dataset(items, third_party()), batch_size=3)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=torch.nn.CrossEntropyLoss(),
        inferer=SimpleInferer(),
        train_handlers=handlers,
    )


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
def test_mlflow_through_monai_s_own_handler(dicom: list[dict[str, Any]], tmp_path: Path) -> None:
    import mlflow

    place = f"sqlite:///{tmp_path / 'runs.db'}"
    handler = MLFlowHandler(
        tracking_uri=place,
        experiment_name="ours",
        output_transform=lambda output: output[0]["loss"],
        close_on_complete=True,
    )
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 3))
    _trainer(network, dicom, [handler]).run()
    client = mlflow.MlflowClient(place)
    (experiment,) = [found for found in client.search_experiments() if found.name == "ours"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics


def test_naming_the_diffusion_transform_does_not_load_diffusers() -> None:
    code = "import sys, meddap_monai.transforms as t; t.RandDiffusionAugmentd; print('diffusers' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
