"""The benchmarks for the full-size network: their counted work, and that they run from end to end."""

import argparse
import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_material import write_adapter

from meddap_monai import ClassifyConfig
from meddap_monai.augmentation.parts import PARTS
from meddap_monai.core.records import read_records, write_records
from meddap_monai.store import write_json


@pytest.mark.parametrize(
    ("base", "unet", "adapter"),
    [
        ("tiny", 272_804, 11_648),
        pytest.param("sd1", 859_520_964, 797_184, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_training_is_compared_with_the_published_loop(
    capsys: pytest.CaptureFixture, base: str, unet: int, adapter: int
) -> None:
    once = ["--rounds", "1", "--seconds", "0", "--batch", "2", "--pixels", "64", "--side", "64"]
    importlib.import_module("adapter_training").main(["--base", base, *once])
    found = json.loads(capsys.readouterr().out)
    assert (found["work"]["unet_parameters"], found["work"]["adapter_parameters"]) == (unet, adapter)
    published, ours = found["speeds"].values()
    assert ours["images_per_second"] > 0 and ours["ratio"] > 0
    assert ours["tflop_per_image"] < published["tflop_per_image"]


def test_peers_are_compared_and_the_page_gets_the_table(tmp_path: Path) -> None:
    peers = importlib.import_module("peers")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peers.MARKS[0]}\nold\n{peers.MARKS[1]}\nafter\n")
    peers.main(["--only", "training1", "dicom", "--rounds", "1", "--no-memory", "--page", str(page)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith(("| adapter training", "| DICOM"))]
    assert [row.split("|")[2].strip() for row in rows] == [
        "peer", "adapt, fp32", "adapt, bf16", "published loop, batch 1", "peer", "read_ultrasound",
    ]  # fmt: skip
    assert all(float(row.split("|")[4].split()[0]) > 0 for row in rows)
    assert rows[0].split("|")[4].strip() == "1.00 (1.00 to 1.00)"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="holds no <!-- peers.py: begin -->"):
        peers.write_page(page, "table")


def test_the_peer_draws_what_we_draw_at_equal_settings() -> None:
    generation = importlib.import_module("peer_generation")
    loops = generation.makers(argparse.Namespace(base="embedded", batch=2))
    peer, ours = (np.stack(loops[name]()(2, 0, None)).astype(int) for name in (generation.PEER, generation.EQUAL))
    assert np.abs(peer - ours).mean() < 1 and peer.std() > 10


def test_the_kernel_distance_favours_images_like_the_real_ones() -> None:
    compare = importlib.import_module("kernel_distance").compare
    draw = np.random.default_rng(0)
    real, near, far = draw.standard_normal((80, 4)), draw.standard_normal((80, 4)), 2 + draw.standard_normal((80, 4))
    found = compare({"far": far, "near": near}, real, "far", samples=50)
    assert found["near"]["kid"] < found["far"]["kid"] and found["near"]["no_worse"]
    assert found["near"]["kid_difference_high"] < 0
    assert not compare({"near": near, "far": far}, real, "near", samples=50)["far"]["no_worse"]


def test_agreement_follows_the_labels_and_never_asks_a_classifier_about_its_own_patients() -> None:
    judging = importlib.import_module("judging")
    draw = np.random.default_rng(0)
    names = np.array(["flat", "steep"] * 20)
    bars = np.tile(np.arange(64) // 8 % 2 * 200, (64, 1)).astype(np.uint8)
    pictures = np.stack([bars.T if name == "flat" else bars for name in names]) + draw.integers(
        0, 50, (40, 64, 64), dtype=np.uint8
    )
    real = {"pixels": pictures, "class": names, "group": np.arange(40)}
    for asked, share in ((names, 1.0), (names[::-1], 0.0)):
        found = judging.agreement(real, {"pixels": pictures, "class": asked}, ["flat", "steep"])
        assert found["balanced"] == {"real": 1.0, "synthetic": share}
        assert found["per_class"]["flat"]["real count"] == 20

    noise = draw.integers(0, 255, (40, 64, 64), dtype=np.uint8).repeat(2, axis=0)  # each patient has one picture twice
    known = {"pixels": noise, "class": names.repeat(2), "group": np.arange(40).repeat(2)}
    found = judging.agreement(known, known, ["flat", "steep"])
    assert found["balanced"]["real"] < 0.75 < found["balanced"]["synthetic"]


def test_burned_in_words_do_not_count_as_sharpness_of_tissue() -> None:
    """Words raise a real picture's high frequencies; half the speckle is seen as such in both."""
    judging = importlib.import_module("judging")
    draw = np.random.default_rng(0)
    tissue = draw.normal(100, 20, (8, 128, 128))
    words = np.where(draw.random((12, 50)) < 0.4, 255, 0)
    written = tissue.copy()
    written[:, -14:-2, 20:70] = words

    def ratios(pictures: np.ndarray, references: np.ndarray) -> dict[str, float]:
        ours, real = (
            {"pixels": found.clip(0, 255).astype(np.uint8), "class": np.array(["x"] * 8)}
            for found in (pictures, references)
        )
        return judging.energy(real, {key: value[:0] for key, value in real.items()}, ours, ["x"])["x"]

    found = ratios(tissue, written)
    assert found["high frequency"] < 0.7
    assert found["high frequency of tissue"] == pytest.approx(1, abs=0.05)
    smoother = ratios(100 + (tissue - 100) / 2, tissue)
    assert smoother["high frequency"] == pytest.approx(0.25, abs=0.02)
    assert smoother["high frequency of tissue"] == pytest.approx(0.25, abs=0.02)


def test_an_ablation_leaves_one_part_out_at_a_time(
    simulated_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ablation = importlib.import_module("augmentation_ablation")
    chosen = ablation.arms(ClassifyConfig(augmentation_strength=0.5), list(PARTS))
    assert [config.augmentation for config in chosen.values()][:3] == ["none", "classical", "ultrasound"]
    assert [config.augmentation_without for config in chosen.values()] == [(), (), ()] + [(part,) for part in PARTS]
    assert {config.augmentation_strength for config in chosen.values()} == {0.5}

    size = ["--seeds", "2", "--train", "6", "--val", "2", "--parts", "zoom"]
    quick = ["encoder=resnet10_tiny", "mode=scratch", "resolution=32", "steps=4", "validation_every=4"]
    paths = ["--records", str(simulated_records), "--output", str(tmp_path / "runs")]
    found = ablation.main([*paths, *size, *quick])
    assert list(found) == ["none", "classical", "ultrasound", "without zoom"]
    assert all(0 <= value <= 1 for sets in found.values() for value in sets["own"])
    assert json.loads((tmp_path / "runs/ablation.json").read_text())["auc"] == found
    difference = np.mean(found["none"]["own"]) - np.mean(found["ultrasound"]["own"])
    assert f"{difference:+.3f}" in capsys.readouterr().out
    assert ablation.main([*paths, *size, *quick]) == found, "what is done is not done again"


@pytest.fixture(scope="module")
def two_bases(tiny_base: Path, pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny base with a card, and beside it the same one whose card knows words for two devices."""
    folder = tmp_path_factory.mktemp("bases")
    for name, words in (("old", {}), ("new", {"device": {"A": "devicea", "B": "deviceb"}})):
        shutil.copytree(tiny_base, folder / name)
        write_json(folder / name / "base.json", {"resolution": 32, "prompts": ["breast"], "words": words})
    write_adapter(folder / "few", pipeline, seed=3)
    return folder / "old", folder / "new"


@pytest.fixture(scope="module")
def judged(simulated_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that name one of two devices each, most of them held out."""
    folder = tmp_path_factory.mktemp("judged")
    rows = read_records(simulated_records, full=True)
    for number, row in enumerate(rows):
        row |= {"meta": {"device": "AB"[number % 2]}, "split": row["split"].replace("test", "val")}
    write_records(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


def test_two_bases_are_judged_on_the_same_patients(
    judged: Path, two_bases: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    quality = importlib.import_module("base_quality")
    old, new = map(str, two_bases)
    small = ["--output", str(tmp_path), "--per-class", "8", "--steps", "1", "--simulated-device", ""]
    found = quality.main(["--records", str(judged), "--base", old, "--base", new, *small])
    assert found["classes"] == ["benign", "malignant", "normal"]
    assert list(found["bases"]) == [old, new]
    ours, theirs = found["bases"][new], found["bases"][old]
    assert ours["distance by encoder"] == theirs["distance by encoder"], "the same network draws the same pictures"
    assert set(ours["distance by encoder"]) == {"breast", "all"}
    assert ours["distance by encoder"]["breast"]["synthetic"]["kid"] > 10 * abs(
        ours["distance by encoder"]["breast"]["real train"]["kid"]
    )
    assert np.mean(list(ours["real_or_synthetic_auc by encoder"].values())) > 0.9
    assert theirs["device agreement"] == {} and set(ours["device agreement"]["benign"]) == {"A", "B"}
    verdicts = {one["what"]: one["passed"] for one in found["acceptance"]}
    assert (verdicts["KID, breast"], verdicts["real or synthetic by HOG: AUC, mean over classes"]) == (False, False)
    assert "| KID, breast |" in capsys.readouterr().out
    sheets = sorted(path.name for path in tmp_path.glob("*new*/blinded/*.png"))
    assert sheets == ["benign.png", "malignant.png", "normal.png"]
    (listed,) = tmp_path.glob("*new*/blinded_answers.csv")
    rows = list(csv.DictReader(listed.open()))
    assert [sum(row["is"] == kind for row in rows) for kind in ("real", "synthetic")] == [24, 24]


def test_few_steps_are_compared_with_the_usual_path(judged: Path, two_bases: tuple[Path, Path], tmp_path: Path) -> None:
    """The same adapter at weight 0 would tie; this random one is seen to be other pictures from as many images."""
    few = importlib.import_module("few_steps")
    adapter = two_bases[0].parent / "few"
    given = ["--records", str(judged), "--base", str(two_bases[0]), "--adapter", str(adapter), "--images", "24"]
    found = few.main([*given, "--output", str(tmp_path), "--precision", "fp32"])
    assert found["usual"] | {"drawn": 24} == found["usual"]
    assert found["kid"]["usual"]["kid_difference_low"] == found["kid"]["usual"]["kid_difference_high"] == 0
    assert found["kid"]["distilled"]["kid"] != found["kid"]["usual"]["kid"]
    assert found["diversity"]["low"] < found["diversity"]["ratio"] < found["diversity"]["high"]
    assert json.loads((tmp_path / "few_steps.json").read_text()) == found


def test_acceptance_passes_what_is_better_and_misses_what_is_not() -> None:
    acceptance = importlib.import_module("acceptance")

    def figures(probe: float, kid: float, auc: float, energy: float, hits: float, device: float) -> dict[str, Any]:
        shares = {"synthetic": hits, "real held out": 0.04}
        return {
            "usefulness by encoder": {"all": {"real": 0.63, "synthetic": probe}},
            "distance by encoder": {"breast": {"synthetic": {"kid": kid}}, "all": {"synthetic": {"kid": kid}}},
            "real_or_synthetic_auc": {"benign": auc, "malignant": auc},
            "energy": {"benign": {"high frequency of tissue": energy}},
            "copies": {name: {"share": share, "interval": [0.0, 1.0]} for name, share in shares.items()},
            "device agreement": {"benign": {"A": {"real": 0.9, "synthetic": device}}},
        }

    old = figures(0.5, 0.1, 0.9, 0.9, 0.0, 0.0)
    good = acceptance.check(figures(0.55, 0.069, 0.75, 1.2, 0.04, 0.6), old)
    assert [one["passed"] for one in good] == [True] * 6
    bad = acceptance.check(figures(0.54, 0.071, 0.76, 0.79, 0.05, 0.59), old)
    assert [one["passed"] for one in bad] == [False] * 6
    alone = acceptance.check(figures(0.54, 0.071, 0.7, 1.0, 0.0, 0.7), None)
    assert [one["passed"] for one in alone] == [None, None, True, True, True, True]
    assert acceptance.check(figures(0.63, 0.2, 0.7, 1.0, 0.0, 0.7), old)[0]["passed"], "as good as real is enough"
    assert acceptance.table(bad).count("MISS") == 6


def test_growth_is_measured_with_its_exponent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    growth = importlib.import_module("growth")
    growth.main(["--only", "split", "--output", str(tmp_path / "growth.json")])
    row = json.loads((tmp_path / "growth.json").read_text())["stages"]["split"]
    assert row["seconds"][0] < row["seconds"][1] < row["seconds"][2]
    assert row["exponents"][1] == pytest.approx(np.log(row["seconds"][2] / row["seconds"][1]) / np.log(4))
    assert "| split | 5,000 patients |" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="stands above"):
        growth.seconds(lambda: 1 / 0)
