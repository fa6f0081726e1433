import json
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigWorkflow

from meddap_monai.bundle.generative import trainable_unet
from meddap_monai.core import resources
from meddap_monai.diffusion.adapting.methods.registry import METHODS

BUNDLE = resources.find("bundles/uslora_adapter")


def workflow(name: str, kind: str, **overrides) -> ConfigWorkflow:
    configs = BUNDLE / "configs"
    return ConfigWorkflow(
        config_file=str(configs / name),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        **overrides,
    )


@pytest.mark.parametrize("method", METHODS)
def test_its_network_carries_what_the_method_trains(tiny_base: Path, method: str) -> None:
    network = trainable_unet(tiny_base, {"method": method, "rank": 2})
    trained = sum(parameter.requires_grad for parameter in network.parameters())
    assert (trained == 0) == (method == "textual_inversion")  # which trains words and leaves the UNet alone


def test_it_trains_and_generates(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    shared = {"dataset_dir": str(records.parent), "base": str(tiny_base), "device": "cpu", "resolution": 32}
    settings = {"steps": 2, "batch": 2, "samples_per_class": 0, "validation_every": 0}
    train = workflow(
        "train.yaml", "train", output_dir=str(tmp_path / "adapter"), ckpt_dir=str(tmp_path / "models"), **shared,
        **{f"adapt#{name}": value for name, value in settings.items()},
    )  # fmt: skip
    train.initialize()
    assert train.check_properties() == []
    train.run()
    assert json.loads((tmp_path / "adapter/adapter.json").read_text())["trained_steps"] == 2
    assert train.train_dataset[0]["image"].shape == (3, 32, 32)
    assert any(parameter.requires_grad for parameter in train.network_def.parameters())
    made = workflow(
        "inference.yaml", "infer", adapter=str(tmp_path / "adapter"), output_dir=str(tmp_path / "made"), **shared,
        **{"generate#counts": 1, "generate#steps": 2},
    )  # fmt: skip
    made.initialize()
    assert made.check_properties() == []
    made.run()
    assert len((tmp_path / "made/generated.jsonl").read_text().splitlines()) == 3


def test_the_overlay_for_several_gpus_changes_device_and_set_up_only() -> None:
    overlay = yaml.safe_load((BUNDLE / "configs/multi_gpu_train.yaml").read_text())
    assert set(overlay) == {"backend", "device", "imports", "initialize", "run", "finalize"}
    assert overlay["run"] == yaml.safe_load((BUNDLE / "configs/train.yaml").read_text())["run"]
