"""The embedded base again by one command, without a network: stopped, resumed, and opened by diffusers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddap_monai import store
from meddap_monai.cli.main import main
from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from tests.pretrain_material import weights
from tests.test_bundles import SMALL_LDM
from tests.tools.test_corpus import write_folder

ROOT = Path(__file__).parents[2]
SMALLEST: dict[str, Any] = {
    f"{section}#{key}": value
    for section in ("views", "autoencoder", "text_encoder", "unet")
    for key, value in SMALL_LDM[f"pretrain#{section}"].items()
}
SMALLEST |= {"resolution": 32, "unet#steps": 30, "refinement#steps": 2, "refinement#drawn": 4}
SMALLEST |= {"checkpoint_every": 2, "pictures_every": 100}
"""What shrinks ``configs/base.yaml`` to seconds."""


def open_in_diffusers(base: Path, prompt: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(prompt, num_inference_steps=2).images[0].size == (32, 32)


def test_meddap_pretrain_with_the_configuration_of_the_embedded_base(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    overrides = [f"{key}={value}" for key, value in (SMALLEST | {"prompts": ["breast"]}).items()]
    common = ["--config", "configs/base.yaml", "--records", str(records), "--output", str(tmp_path / "out")]
    assert main(["pretrain", *common, *overrides]) == 0
    base = Path(capsys.readouterr().out.split()[-1])
    assert base == tmp_path / "out" / "base"
    open_in_diffusers(base, "an ultrasound photo of benign tumor in breast")


@pytest.mark.slow
def test_the_documented_command_is_stopped_goes_on_and_ends_in_a_base(tmp_path: Path) -> None:
    busbra = write_folder(tmp_path / "busbra", ("benign", "malignant"), 0)
    fetal = write_folder(tmp_path / "fetal", ("brain", "femur"), 1)
    settings = smallest()
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"pretrain": settings}))
    command = ["--busbra", busbra, "--fetal", fetal, "--output", tmp_path / "out", "--config", tmp_path / "base.yaml"]
    checkpoint = tmp_path / "out" / "pretrain" / "phases" / "unet.pt"

    first = run(command, tmp_path)
    while not checkpoint.exists():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    told = first.communicate()[1]
    assert time.monotonic() - begun < 10
    assert first.returncode != 0
    assert "Interrupted: interrupted: phase 'unet' stopped at step" in told

    for _ in range(2):  # goes on, then finds that all is done
        again = run(command, tmp_path)
        printed, told = again.communicate()
        assert again.returncode == 0, told
        assert printed.split()[-1] == str(tmp_path / "out" / "pretrain" / "base")
    base = tmp_path / "out" / "pretrain" / "base"
    open_in_diffusers(base, "an ultrasound photo of fetal brain")
    assert store.read_stage(base.parent)["state"] == "done"

    config = build(PretrainConfig, settings, "pretrain")
    whole = pretrain(config, tmp_path / "whole", records=tmp_path / "out" / "corpus" / "records.jsonl")
    assert weights(whole) == weights(base)


@pytest.mark.slow
def test_two_processes_of_torchrun_gather_once_and_end_in_one_base(tmp_path: Path) -> None:
    busbra = write_folder(tmp_path / "busbra", ("benign", "malignant"), 0)
    fetal = write_folder(tmp_path / "fetal", ("brain", "femur"), 1)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"pretrain": smallest()}))
    command = ["--busbra", busbra, "--fetal", fetal, "--output", tmp_path / "out", "--config", tmp_path / "base.yaml"]
    base = tmp_path / "out" / "pretrain" / "base"
    for more in ([], ["--sharpen", base]):
        both = run([*command, *more], tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        told = both.communicate()[1]
        assert both.returncode == 0, told
    for made in (base, tmp_path / "out" / "sharpen" / "base"):
        open_in_diffusers(made, "an ultrasound photo of fetal brain")


def smallest() -> dict[str, Any]:
    """Return the section of ``configs/base.yaml`` with `SMALLEST` over it."""
    settings: dict[str, Any] = yaml.safe_load(resources.find("configs/base.yaml").read_text())["pretrain"]
    for key, value in SMALLEST.items():
        *parts, name = key.split("#")
        section = settings
        for part in parts:
            section = section.setdefault(part, {})
        section[name] = value
    return settings


def run(arguments: list[str | Path], folder: Path, *launcher: str) -> subprocess.Popen[str]:
    """Start the command, or a launcher of it, with sockets that reach this machine only and no offline hub."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text("from tests.offline import block_network\n\nblock_network()\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tools.corpus", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
