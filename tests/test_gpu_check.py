"""`make gpu-check` at toy size on the CPU, and the code paths of a GPU on one that is not there."""

import importlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_check import networks, run, wheels
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.table import TARGETS, render, targets
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.distributed import backend_for
from tests.stand_in_gpu import OnGpu, stand_in_gpu

QUICK = ("device", "adapt_fp32", "train_sdxl_512", "generate_sd1_224")
OF_A_GPU = ("adapt_fp16", "generate_bf16", "online", "classify_bf16", "judging")
OF_A_GPU_AT_LENGTH = ("adapt_words", "generate_fp32", "guidance", "pretrain", "train_sd1_224", "generate_sdxl_224")


def check(output: Path, *parts: str) -> int:
    return main(["run", "--toy", "--device", "cpu", "--seconds", "0", "--output", str(output), "--only", *parts])


def test_it_runs_goes_on_and_prints_its_tables(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    assert check(output, *QUICK) == 0, output.read_text()
    found = json.loads(output.read_text())
    assert (found["schema"], found["device"], found["toy"]) == (1, "cpu", True) and found["versions"]["torch"]
    assert list(found["parts"]) == sorted(QUICK) and not any(part["error"] for part in found["parts"].values())
    assert found["parts"]["adapt_fp32"]["loss"] == {"found": 0.0, "bound": 0.02}, "the CPU is the CPU"
    for part, ends in {"train_sdxl_512": 2, "generate_sd1_224": 2}.items():
        rows = found["parts"][part]["rows"]
        assert [row["loop"] for row in rows] == ["published", *["peer", "ours"] * ends]
        assert all(row["images_per_second"] > 0 and row["teraflop"] > 0 for row in rows)
        assert rows[0]["times_published"] == 1 and rows[1]["times_peer"] == 1 and rows[2]["share_of_peak"] > 0
    words = render(output)
    assert (
        "**Toy networks" in words and "| adapt_fp32 | loss 0 (bound 0.02) |" in words and "| peer, fp32 | 1 |" in words
    )
    before = output.read_bytes()
    assert check(output, *QUICK) == 0 and output.read_bytes() == before, "what is done is not done again"


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = tmp_path / "tried"

    def fails(_: Any) -> dict[str, Any]:
        tried.write_text(tried.read_text() + "x" if tried.exists() else "x")
        raise ValueError("no such kernel")

    parts = {"fails": fails, "dies": lambda _: os._exit(7), "works": lambda job: {"peak": job.peak}}
    monkeypatch.setattr(run, "PARTS", {name: (1.0, part) for name, part in parts.items()})
    output = tmp_path / "gpu.json"
    assert check(output) == 1 and check(output) == 1
    found = json.loads(output.read_text())["parts"]
    assert found["fails"]["error"] == "ValueError: no such kernel"
    assert any("in fails" in line for line in found["fails"]["traceback"])
    assert found["dies"]["error"] == "its process ended with 7"
    assert found["works"]["error"] is None and found["works"]["peak"] == 0
    assert tried.read_text() == "xx", "what failed is done again"


def test_what_the_time_does_not_allow_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"quick": (1.0, lambda _: {}), "long": (1000.0, lambda _: {})}
    monkeypatch.setattr(run, "PARTS", parts)
    output = tmp_path / "gpu.json"
    assert main(["run", "--device", "cpu", "--budget", "100", "--output", str(output)]) == 0
    assert list(json.loads(output.read_text())["parts"]) == ["quick"]


def test_nothing_is_measured_without_a_gpu() -> None:
    lines = targets({})
    assert len(lines) == 2 + len(TARGETS) and all(line.endswith("| not measured |") for line in lines[2:])
    row = {"loop": "ours", "batch": 1, "times_published": 7.25, "gigabytes": 5.5}
    measured = targets({"train_sd1_224": {"rows": [row, row | {"loop": "peer", "times_published": 9.0}]}})
    assert measured[2].endswith("| at least 6 | 7.25 |")


def test_the_full_networks_do_the_known_work() -> None:
    pipeline = networks.build("sd1", torch.bfloat16, "meta")
    assert sum(parameter.numel() for parameter in pipeline.unet.parameters()) == 859_520_964
    work = networks.counted_work(pipeline, 224)
    assert (round(work["unet"], 3), round(work["decode"], 3)) == (0.140, 0.476)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in run.PARTS if name not in QUICK])
def test_every_part_runs(name: str, tmp_path: Path) -> None:
    assert check(tmp_path / "gpu.json", name) == 0, (tmp_path / "gpu.json").read_text()


# --------------------------------------------------------------------------------------------------- a GPU's code paths
@pytest.mark.parametrize(
    "name", [*OF_A_GPU, *(pytest.param(name, marks=pytest.mark.slow) for name in OF_A_GPU_AT_LENGTH)]
)
def test_no_path_mixes_devices(name: str, tmp_path: Path) -> None:
    """Each path runs on the stand-in and agrees with the CPU; a tensor in the wrong place raises."""
    with stand_in_gpu():
        found = run.PARTS[name][1](run.Job("cuda", True, 0.0, tmp_path))
    assert found.get("rows") or any(isinstance(value, dict) and "bound" in value for value in found.values())


@pytest.mark.slow
def test_later_stages_mix_no_devices(tmp_path: Path) -> None:
    """What selects, judges and answers on the device, pictures included."""
    growth = importlib.import_module("growth")
    cut = replace(growth.CUT, device="cuda")
    with stand_in_gpu():
        material = growth.Material(tmp_path / "in")
        records = material.records("real", 24, 9)
        generated = material.synthetic("made", records, 24)
        trained = replace(growth.TINY, steps=4, validation_every=2, device="cuda", pictures=True)
        growth.classify(trained, tmp_path / "network", records=records)
        growth.classify(ClassifyConfig(mode="probe", resolution=32, device="cuda"), tmp_path / "probe", records=records)
        select = growth.SelectConfig(filter=cut, copies=growth.CopyConfig(features="hog"))
        assert growth.select(select, tmp_path / "select", records=records, generated=generated).stat().st_size
        models = [tmp_path / "probe", tmp_path / "network"]
        source = next((tmp_path / "in").rglob("*.png"))
        answers = growth.infer(growth.InferConfig(device="cuda"), models, source, tmp_path / "answers.csv")
        assert len(answers.read_text().splitlines()) == 2
        runs = [growth.ClassifierRun(path.name, 0, path, records) for path in models]
        config = growth.EvaluateConfig(samples=50, pictures=2, device="cuda", hog=False)
        assert growth.evaluate(config, tmp_path / "evaluate", runs=runs).stat().st_size


def test_the_stand_in_breaks_where_a_gpu_does() -> None:
    with stand_in_gpu():
        there, here = torch.ones(3, 2, device="cuda"), torch.ones(3, 2)
        assert isinstance(there, OnGpu) and there.device == torch.device("cuda:0") and there.sum().item() == 6
        for wrong in (lambda: there + here, lambda: here @ there.T, lambda: torch.cat([there, here])):
            with pytest.raises(RuntimeError, match="found cuda:0 and cpu"):
                wrong()
        for wrong in (there.numpy, lambda: np.asarray(there)):
            with pytest.raises(TypeError, match=r"use Tensor\.cpu"):
                wrong()
        assert there[torch.tensor([0])].device.type == "cuda" and type(there.cpu()) is torch.Tensor
        assert (there * torch.tensor(2.0)).device.type == "cuda", "a number may lie on the CPU"


@pytest.mark.parametrize(
    ("gpu", "gpus", "local", "backend"),
    [
        (False, 0, "2", "gloo"),
        (True, 2, "2", "cpu:gloo,cuda:nccl"),
        (True, 1, "2", "gloo"),
        (True, 8, None, "cpu:gloo,cuda:nccl"),
    ],
)
def test_processes_that_share_a_gpu_do_without_nccl(
    gpu: bool, gpus: int, local: str | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("WORLD_SIZE", "4")
    if local is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert backend_for(gpu) == backend


# ------------------------------------------------------------------------------------------------------------ wheels
def test_wheels_are_followed_to_what_they_need(tmp_path: Path) -> None:
    lines = ["Requires-Dist: numpy>=1", "Requires-Dist: Torch_Vision; extra == 'x'", "Requires-Dist: typing_extensions"]
    lines += ["Requires-Dist: torch>=2", "Requires-Dist: old; python_version < '3.9'"]
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as made:
        made.writestr("a-1.dist-info/METADATA", "\n".join(["Metadata-Version: 2.1", "Name: a", *lines, "", "body"]))
    found = list(wheels._needed_by(tmp_path.glob("*.whl"), {"numpy"}, "3.12"))
    assert found == ["typing-extensions"]


def test_the_known_packages_are_not_gathered() -> None:
    assert {"monai", "diffusers", "pydicom"} <= set(wheels._wanted(set()))
    assert not {"torch", "monai"} & set(wheels._wanted({"monai"}))
