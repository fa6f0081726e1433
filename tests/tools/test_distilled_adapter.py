"""The distilled adapter of a base is made by one command, for all organs that it knows, and found beside it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from adapter_material import QUICK

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from tools.distilled_adapter import TRAINING, distil


def test_it_is_made_for_two_organs_and_taken_from_beside_the_base(
    tiny_base: Path, make_records: Any, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    store.write_json(base / "base.json", {"resolution": 32, "prompts": ["breast", "fetal"]})
    rows = read_records(make_records({"train": 1, "val": 1}, size=32), full=True)
    for row in rows:
        row |= {"class_name": "femur"} if row["class_name"] == "normal" else {}
    write_records(tmp_path / "records.jsonl", rows)
    quick = dataclasses.replace(
        TRAINING, **QUICK | {"steps": 2, "rank": 2, "precision": "fp32"}, warmup=0,
        method_settings={"drawn": 1, "drawing_steps": 2},
    )  # fmt: skip
    folder = distil(base, tmp_path / "records.jsonl", tmp_path / "out", quick)
    card = json.loads((folder / "adapter.json").read_text())
    assert card["class_prompts"] == {
        "benign": "an ultrasound photo of benign tumor in breast",
        "femur": "a photo of fetal femur",
        "malignant": "an ultrasound photo of malignant tumor in breast",
    }
    shutil.copytree(folder, base / "distilled")
    assert open_base(base).distilled == base / "distilled"
    records = make_records({"train": 1}, size=32)
    generate(GenerateConfig(counts=1, device="cpu"), tmp_path / "made", records=records, base=base)
    told = store.read_stage(tmp_path / "made")
    assert (told["configuration"]["scheduler"], told["configuration"]["steps"]) == ("lcm", 4)
    assert told["inputs"]["adapter_0"] == card["weights_sha256"]
