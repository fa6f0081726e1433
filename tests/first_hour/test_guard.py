"""The first hour of a new user, as commands on small real components; every message is quoted.

Each part stands in functions of its own.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from meddap_monai.cli.main import main
from meddap_monai.phantom.simulation import simulate_image


# ------------------------------------------------------------------------------------------- images seen in training
def _write_classes(folder: Path, first: int, count: int, edit: Callable[[Image.Image], Image.Image]) -> None:
    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            edit(Image.fromarray(simulate_image(name, number))).save(folder / name / f"{number}.png")


def _two_pixels_smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width - 2, image.height - 2), Image.Resampling.BICUBIC)


def test_the_leak_guard_speaks_first_and_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The unseen folder holds training images of the embedded base, resized by two pixels."""
    _write_classes(tmp_path / "own", 300, 6, lambda image: image)
    _write_classes(tmp_path / "unseen", 7_000_000, 2, _two_pixels_smaller)
    _write_classes(tmp_path / "unseen", 900, 3, lambda image: image)
    study = tmp_path / "study"
    words = [
        "study",
        "--config",
        str(Path(__file__).parents[1] / "small.yaml"),
        "--output",
        str(study),
        f"index#source={tmp_path / 'own'}",
        f"unseen#source={tmp_path / 'unseen'}",
        "unseen#workers=0",
        "seeds=[0]",
        "arms=[real]",
        "draw={train: 2, val: 1}",
    ]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "LeakedRecords" in said
    assert (
        "4 validation, test or unseen image(s) are among the training images of the base 'embedded', 4 of them "
        "resized, cropped or changed otherwise, such as " in said
    )
    assert "To leave them out, counted and listed, type unseen#exclude_seen=true" in said
    assert sorted(path.name for path in study.iterdir() if path.is_dir()) == ["index", "unseen"], "nothing was trained"

    assert main([*words, "unseen#exclude_seen=true"]) == 0
    counts = json.loads((study / "unseen_apart" / "stage.json").read_text())["counts"]
    assert (counts["in"], counts["out"], counts["seen_left_out"]) == (10, 6, 4)
    listed = (study / "unseen_apart" / "rejects.csv").read_text()
    assert listed.count("seen, among the training images of the base 'embedded': 0.99") == 4
    page = (study / "evaluate" / "report.html").read_text()
    assert "10 read, 6 accepted, 4 rejected" in page
    report = json.loads((study / "evaluate" / "report.json").read_text())
    assert report["sets"]["unseen"]["images"] == [6]
