"""Contact sheets show what is nearest, whatever the names."""

from pathlib import Path

import numpy as np
from PIL import Image

from meddap_monai.diffusion.generation import contact_sheets


def picture(folder: Path, name: str, level: int, side: int = 16) -> dict:
    pixels = np.zeros((side, side), np.uint8)
    pixels[:, : side // 2] = level
    if level < 100:
        pixels = pixels.T
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return {"image": str(folder / f"{name}.png"), "class_name": "a", "label": 0}


def test_nearest_real_stands_below_each_synthetic(tmp_path: Path) -> None:
    real = [picture(tmp_path, "upright", 200), picture(tmp_path, "flat", 50)]
    made = [picture(tmp_path, "flat2", 60, side=32), picture(tmp_path, "upright2", 150)]
    sheet = np.asarray(contact_sheets.class_sheet({"none": made}, real, columns=8))
    line = contact_sheets.TILE + 16 + 4
    below = sheet[2 * line + 16 : 2 * line + 16 + contact_sheets.TILE]
    first = below[:, 4 : 4 + contact_sheets.TILE].mean(-1)
    second = below[:, 8 + contact_sheets.TILE : 8 + 2 * contact_sheets.TILE].mean(-1)
    assert first[:20].mean() > 40 and first[-20:].mean() < 5
    assert second[:, :20].mean() > 150 and second[:, -20:].mean() < 5
    assert sheet.shape[1] == 2 * (contact_sheets.TILE + 4) + 4


def test_a_class_without_real_images_has_a_sheet(tmp_path: Path) -> None:
    sheet = contact_sheets.class_sheet(
        {"none": [picture(tmp_path, "a", 120)], "dark": [picture(tmp_path, "b", 40)]}, [], 4
    )
    assert sheet.size == (contact_sheets.TILE + 8, 2 * (contact_sheets.TILE + 20))


def test_fingerprints_do_not_see_brightness(tmp_path: Path) -> None:
    bright, dark = picture(tmp_path, "bright", 250), picture(tmp_path, "dark", 110)
    assert contact_sheets.fingerprint(bright, (16, 16)) @ contact_sheets.fingerprint(dark, (16, 16)) > 0.999


def test_the_nearest_of_a_crop_is_its_source(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    real = []
    for name in ("a", "b", "c"):
        pixels = np.repeat(np.repeat(draw.integers(0, 255, (16, 6), np.uint8), 8, 0), 8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(pixels[:48]).save(tmp_path / f"{name}_cut.png")
        real.append({"image": str(tmp_path / f"{name}.png")})
    prints = np.stack([contact_sheets.fingerprint(record, (48, 48)) for record in real])
    for number, name in enumerate("abc"):
        alike = prints @ contact_sheets.fingerprint({"image": str(tmp_path / f"{name}_cut.png")}, (48, 48))
        assert alike.argmax() == number and alike.max() > 0.99
