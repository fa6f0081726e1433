"""The stage classify: what it writes and refuses, that it resumes to the same bits, stops on NaN, shares memory."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.engine import TrainingStep
from meddap_monai.classifier.material import read_material
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify, initial_network
from meddap_monai.core.records import Record, read_records
from meddap_monai.errors import (
    ConfigurationError,
    ForeignOutput,
    Interrupted,
    LeakedRecords,
    MissingPackage,
    NonFiniteLoss,
    RecordsError,
)
from meddap_monai.images.provenance import check_provenance
from meddap_monai.training.checkpoint import NAME as CHECKPOINT
from tests.classifier_material import TINY
from tests.record_material import as_synthetic, write_like


def rewritten(source: Path, folder: Path, change: Callable[[list[Record]], list[Record]]) -> Path:
    """Write a changed copy of a records file with the stage.json that names its classes."""
    return write_like(source, folder, change(read_records(source, full=True)))


def synthetic_copies(records: list[Record], count: int) -> list[Record]:
    """Return the records plus `count` synthetic ones that borrow training images."""
    return records + [as_synthetic(row) for row in records if row["split"] == "train"][:count]


def test_writes_a_model_that_predicts_and_carries_its_provenance(simulated_records: Path, tmp_path: Path) -> None:
    folder = classify(replace(TINY, pictures=True), tmp_path / "model", records=simulated_records)
    results = json.loads((folder / "metrics.json").read_text())
    assert [row["step"] for row in results["history"]] == [8, 16, 24]
    assert results["step"] in (8, 16, 24)
    assert not (folder / CHECKPOINT).exists(), "the checkpoint is of no use after the end"
    document = torch.load(folder / "model.pt", weights_only=True)
    assert document["classes"] == ["benign", "malignant", "normal"]
    test = read_records(simulated_records, split="test", full=True)
    probabilities = load_classifier(folder).probabilities(test)
    assert probabilities.shape == (24, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    check_provenance(folder, test)
    leaked = read_records(simulated_records, split="train", full=True)[:1]
    with pytest.raises(LeakedRecords, match="are among its training images"):
        check_provenance(folder, [leaked[0] | {"split": "unseen"}])
    names = {path.name for path in (folder / "tensorboard").iterdir()}
    assert any(name.startswith("events.out") for name in names)
    assert "projector_config.pbtxt" in names
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    pictures = {tag.removeprefix("classify/") for tag in events.Tags()["images"]}
    assert {"confusion", "roc and precision-recall", "calibration", "Grad-CAM"} <= pictures
    assert ("surest errors" in pictures) == (results["validation"]["accuracy"] < 1)


def test_the_chosen_weights_are_the_best_by_validation_auc(simulated_records: Path, tmp_path: Path) -> None:
    folder = classify(TINY, tmp_path / "model", records=simulated_records)
    results = json.loads((folder / "metrics.json").read_text())
    best = max(results["history"], key=lambda row: (row["val_auc"], -row["val_loss"]))
    assert results["step"] == best["step"]
    assert results["validation"]["auc"] == pytest.approx(best["val_auc"], abs=1e-6)


@pytest.mark.parametrize("augmentation", ["classical", "ultrasound"])
def test_same_configuration_twice_gives_equal_files(simulated_records: Path, tmp_path: Path, augmentation: str) -> None:
    config = replace(TINY, augmentation=augmentation)
    first = classify(config, tmp_path / "a", records=simulated_records)
    second = classify(config, tmp_path / "b", records=simulated_records)
    assert (first / "model.pt").read_bytes() == (second / "model.pt").read_bytes()


@pytest.mark.parametrize("way", [{"cache": "none", "workers": 2}, {"cache": "disk"}, {"cache": "disk", "workers": 2}])
def test_caches_and_workers_change_nothing(simulated_records: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    first = classify(TINY, tmp_path / "a", records=simulated_records)
    second = classify(replace(TINY, **way), tmp_path / "b", records=simulated_records)
    for name in ("model.pt", "metrics.json", "train_sha256.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert bool(list(second.glob("cache/*.pt"))) == (way["cache"] == "disk"), "PersistentDataset keeps what it decoded"
    before = (first / "model.pt").stat().st_mtime_ns
    classify(TINY, first, records=simulated_records)
    assert (first / "model.pt").stat().st_mtime_ns == before, "a finished folder is skipped"


FINETUNED = {
    "encoder": "efficientnet_lite0",
    "mode": "finetune",
    "ema": 0.9,
    "freeze": 3,
    "layer_decay": 0.9,
    "steps": 8,
}


@pytest.mark.parametrize(
    ("stop_at", "changed"),
    [
        (3, {}),
        (11, {"augmentation": "ultrasound"}),
        (23, {}),
        pytest.param(5, FINETUNED, id="fine-tuned, averaged, partly frozen"),
    ],
)
def test_interrupted_run_ends_with_the_same_weights(
    simulated_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, changed: dict[str, Any]
) -> None:
    config = replace(TINY, **changed)
    whole = classify(config, tmp_path / "whole", records=simulated_records)
    original = TrainingStep.__call__

    def signalled(self: TrainingStep, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        if engine.state.iteration == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, engine, batch)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", signalled)
        with pytest.raises(Interrupted, match=f"stopped after step {stop_at} of {config.steps} with a checkpoint"):
            classify(config, tmp_path / "cut", records=simulated_records)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    resumed = classify(config, tmp_path / "cut", records=simulated_records)
    assert store.sha256_file(resumed / "model.pt") == store.sha256_file(whole / "model.pt")
    assert (resumed / "metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_nan_loss_stops_within_one_step_and_names_it(
    simulated_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingStep._prepare

    def poisoned(self: TrainingStep, batch: dict[str, Any], step: int, device: torch.device) -> Any:
        images, targets = original(self, batch, step, device)
        return (images * float("nan") if step == 6 else images), targets

    monkeypatch.setattr(TrainingStep, "_prepare", poisoned)
    named = r"nan at step 6.*\(learning rate .*, images train-.*checkpoint is finite"
    with pytest.raises(NonFiniteLoss, match=named):
        classify(TINY, tmp_path / "model", records=simulated_records)
    saved = torch.load(tmp_path / "model" / CHECKPOINT, weights_only=True)
    assert saved["step"] == 4
    assert all(
        torch.isfinite(tensor).all() for tensor in saved["state"]["network"].values() if tensor.is_floating_point()
    )


def test_out_of_memory_halves_the_batch_and_is_recorded(
    simulated_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingStep._update

    def limited(self: TrainingStep, *arguments: Any) -> torch.Tensor:
        if self.chunk > 2:
            raise torch.OutOfMemoryError("injected: out of memory")
        return original(self, *arguments)

    monkeypatch.setattr(TrainingStep, "_update", limited)
    folder = classify(TINY, tmp_path / "model", records=simulated_records)
    cost = store.read_cost(folder)
    assert cost["images_at_a_time"] == 2
    assert cost["memory_halvings"] == 2


def test_smaller_chunks_give_the_same_gradient() -> None:
    config = replace(
        TINY, encoder="vit_tiny", mode="scratch", batch=8, augmentation="none", learning_rate=0.1, optimizer="sgd"
    )
    batch = {
        "image": torch.randint(0, 255, (8, 1, 32, 32), dtype=torch.uint8),
        "label": torch.arange(8) % 3,
        "synthetic": torch.tensor([0, 1] * 4),
        "id": [str(i) for i in range(8)],
    }
    weights = [_one_step(config, batch, chunk) for chunk in (8, 3)]
    for whole, parts in zip(*weights, strict=True):
        assert torch.allclose(whole, parts, atol=1e-6)


def _one_step(config: ClassifyConfig, batch: dict[str, Any], chunk: int) -> list[torch.Tensor]:
    from meddap_monai.classifier.engine import Criterion, build_trainer
    from meddap_monai.classifier.optimization import build_optimizer

    network = initial_network(config, 3)
    step = TrainingStep(config, Criterion(config), 3)
    step.chunk = chunk
    trainer = build_trainer(replace(config, steps=1), network, build_optimizer(config, network), [batch], step, [])
    trainer.run()
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_early_stopping_ends_before_the_last_step(simulated_records: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=400, validation_every=2, patience=2, learning_rate=1e-8, augmentation="none")
    folder = classify(config, tmp_path / "model", records=simulated_records)
    assert json.loads((folder / "metrics.json").read_text())["steps"] < 400


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal", "class_weights": "balanced"},
        {"label_smoothing": 0.1, "mixup": 0.4},
        {"optimizer": "sgd", "schedule": "constant", "keep": "last"},
        {"balance_classes": True, "synthetic_weight": 0.5, "synthetic_loss_weight": 0.2, "augmentation_of": "real"},
        {"channels": 3, "fit": "crop", "normalise": "range", "cache": "disk"},
        {"augmentation": "ultrasound", "augmentation_without": ("marks",), "augmentation_strength": 2.0, "channels": 3},
    ],
    ids="+".join,
)
def test_options_train_and_load(simulated_records: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    records = rewritten(simulated_records, tmp_path / "hybrid", lambda rows: synthetic_copies(rows, 9))
    folder = classify(replace(TINY, steps=4, validation_every=2, **options), tmp_path / "model", records=records)
    stage = store.read_stage(folder)
    assert stage["counts"]["train_synthetic"] == 9
    test = read_records(records, split="test")[:4]
    assert np.isfinite(load_classifier(folder).probabilities(test, calibrated=True)).all()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "model.pt", weights_only=True)["network"])


def test_a_file_of_weights_stands_there_by_its_content_and_not_by_its_path(
    simulated_records: Path, tmp_path: Path
) -> None:
    first = tmp_path / "Jane Roe, ward 'B'" / "start.pt"
    first.parent.mkdir()
    torch.save(initial_network(replace(TINY, seed=9), 3).state_dict(), first)
    config = replace(TINY, steps=2, validation_every=1, weights=first)
    folder = classify(config, tmp_path / "model", records=simulated_records)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in written if b"Jane Roe" in path.read_bytes()] == []
    shown = json.loads((folder / "stage.json").read_text())["configuration"]["weights"]
    assert shown == f"{store.sha256_file(first)}.pt"
    moved = shutil.copy(first, tmp_path / "moved.pt")
    assert classify(replace(config, weights=Path(moved)), folder, records=simulated_records) == folder
    assert load_classifier(folder).classes == ["benign", "malignant", "normal"]
    torch.save(initial_network(replace(TINY, seed=8), 3).state_dict(), first)
    with pytest.raises(ForeignOutput, match="configuration weights was"):
        classify(config, folder, records=simulated_records)
    with pytest.raises(ConfigurationError, match=r"classify#weights: .*gone\.pt: cannot be read"):
        classify(replace(config, weights=tmp_path / "gone.pt"), tmp_path / "none", records=simulated_records)
    assert not (tmp_path / "none").exists()


def test_mixed_precision_on_a_cpu_trains_in_bfloat16_and_keeps_full_weights(
    simulated_records: Path, tmp_path: Path
) -> None:
    seen = set()

    def look(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if module.training and isinstance(module, torch.nn.Conv2d):
            seen.add(output.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        for name in ("first", "second"):
            config = replace(TINY, steps=6, validation_every=3, precision="bf16")
            classify(config, tmp_path / name, records=simulated_records)
    finally:
        handle.remove()
    assert seen == {torch.bfloat16}
    plain = classify(replace(TINY, steps=6, validation_every=3), tmp_path / "plain", records=simulated_records)
    mixed, whole = weights_of(tmp_path / "first"), weights_of(plain)
    assert {tensor.dtype for tensor in mixed.values() if tensor.is_floating_point()} == {torch.float32}
    assert (tmp_path / "first" / "model.pt").read_bytes() == (tmp_path / "second" / "model.pt").read_bytes()
    first = next(name for name in whole if name.endswith("conv1.weight"))
    assert not torch.equal(mixed[first], whole[first])
    assert torch.allclose(mixed[first], whole[first], atol=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_learns_the_same(simulated_records: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=6, validation_every=3, optimizer="sgd", augmentation="none")
    plain = weights_of(classify(config, tmp_path / "plain", records=simulated_records))
    compiled = weights_of(classify(replace(config, compile=True), tmp_path / "compiled", records=simulated_records))
    assert set(plain) == set(compiled), "no name of the compiled wrapper in the file"
    for name, tensor in plain.items():
        assert torch.allclose(tensor.float(), compiled[name].float(), atol=1e-4), name


def test_loss_of_each_source_is_reported(simulated_records: Path, tmp_path: Path) -> None:
    records = rewritten(simulated_records, tmp_path / "hybrid", lambda rows: synthetic_copies(rows, 18))
    folder = classify(replace(TINY, steps=10), tmp_path / "model", records=records)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        f"classify/{name}" for name in ("loss", "loss_real", "loss_synthetic", "learning_rate", "validation_auc")
    } <= tags


def test_refuses_another_configuration_and_overwrites_when_told(simulated_records: Path, tmp_path: Path) -> None:
    """R16 for classify."""
    config = replace(TINY, steps=2)
    classify(config, tmp_path / "model", records=simulated_records)
    other = replace(config, learning_rate=0.5)
    with pytest.raises(ForeignOutput, match="configuration learning_rate was 0.0003, now 0.5"):
        classify(other, tmp_path / "model", records=simulated_records)
    classify(other, tmp_path / "model", records=simulated_records, overwrite=True)
    assert store.read_stage(tmp_path / "model")["configuration"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: [row for row in rows if row["split"] != "val"], RecordsError, "no image of split val"),
        (
            lambda rows: [row for row in rows if not (row["split"] == "train" and row["label"] == 1)],
            RecordsError,
            "no training image of class 'malignant'",
        ),
        (
            lambda rows: [row | {"label": 7} for row in rows if row["label"] == 2] + rows[:40],
            RecordsError,
            "occurs twice",
        ),
    ],
)
def test_material_is_checked(
    simulated_records: Path, tmp_path: Path, change: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_material(rewritten(simulated_records, tmp_path / "changed", change))


def test_a_synthetic_image_outside_train_stops_the_run(simulated_records: Path, tmp_path: Path) -> None:
    """R10: the record is written past `write_records`, which would refuse it too."""
    records = rewritten(simulated_records, tmp_path / "changed", lambda rows: rows)
    lines = records.read_text().splitlines()
    forged = json.loads(lines[-1]) | {"source": "synthetic", "split": "val", "synthetic": {"seed": 0}}
    records.write_text("\n".join([*lines[:-1], json.dumps(forged)]) + "\n")
    with pytest.raises((LeakedRecords, RecordsError), match="synthetic image"):
        classify(TINY, tmp_path / "model", records=records)


def test_arms_of_a_seed_start_equal_and_see_the_real_images_in_one_order(simulated_records: Path) -> None:
    from meddap_monai.classifier.data import plan_batches

    first, second = initial_network(TINY, 3), initial_network(replace(TINY, augmentation="none"), 3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    real = read_records(simulated_records, split="train", full=True)
    mixed = synthetic_copies(real, 20)
    plain, hybrid = plan_batches(real, TINY).ravel(), plan_batches(mixed, TINY).ravel()
    kept = [index for index in hybrid if mixed[index]["source"] == "real"]
    assert kept == plain[: len(kept)].tolist()
    share = 1 - len(kept) / len(hybrid)
    assert abs(share - 20 / 56) < 0.12


def test_missing_extra_names_what_to_install(simulated_records: Path, tmp_path: Path) -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(MissingPackage, match="install it with `pip install 'timm>=1.0' 'torchvision>=0.25'`"):
            classify(
                replace(TINY, encoder="torchvision:squeezenet1_1", mode="scratch"),
                tmp_path / "m",
                records=simulated_records,
            )
    else:
        pytest.skip("torchvision is installed here")
