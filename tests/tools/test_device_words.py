"""A classifier of devices recognises what it should, and only that."""

import numpy as np

from tools.device_words import device_agreement


def test_a_device_is_recognised_where_its_images_look_so() -> None:
    draw = np.random.default_rng(0)
    centres = {"A": 0.0, "B": 4.0, "C": -4.0}
    real = np.concatenate([draw.normal(centre, 1, (20, 6)) for centre in centres.values()])
    devices = np.repeat(list(centres), 20).tolist()
    patients = [f"{name}{number % 5 if name != 'C' else 0}" for number, name in enumerate(devices)]
    made = {
        "A": draw.normal(0, 1, (10, 6)),
        "B": np.concatenate([draw.normal(4, 1, (5, 6)), draw.normal(0, 1, (5, 6))]),
    }
    report = device_agreement(real, devices, patients, made)
    assert all(row["real"] > 0.9 for row in report.values())
    assert [row["patients"] for row in report.values()] == [5, 5, 1]
    assert report["A"]["synthetic"] == 1.0 and report["B"]["synthetic"] == 0.5
    assert "synthetic" not in report["C"]


def test_the_same_pictures_on_every_device_are_not_told_apart() -> None:
    draw = np.random.default_rng(1)
    real = draw.normal(0, 1, (60, 6))
    report = device_agreement(real, ["A", "B", "C"] * 20, [str(number) for number in range(60)], {})
    assert np.mean([row["real"] for row in report.values()]) < 0.55
