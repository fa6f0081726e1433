"""The benchmarks for the full-size network: their counted work, and that they run from end to end."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from meddap_monai import ClassifyConfig
from meddap_monai.augmentation.parts import PARTS


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


def test_growth_is_measured_with_its_exponent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    growth = importlib.import_module("growth")
    growth.main(["--only", "split", "--output", str(tmp_path / "growth.json")])
    row = json.loads((tmp_path / "growth.json").read_text())["stages"]["split"]
    assert row["seconds"][0] < row["seconds"][1] < row["seconds"][2]
    assert row["exponents"][1] == pytest.approx(np.log(row["seconds"][2] / row["seconds"][1]) / np.log(4))
    assert "| split | 5,000 patients |" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="stands above"):
        growth.seconds(lambda: 1 / 0)
