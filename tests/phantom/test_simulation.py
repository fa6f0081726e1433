"""The phantom: deterministic, different between classes and scanners, stored as DICOM that a plain reader opens."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from meddap_monai.errors import ConfigurationError
from meddap_monai.phantom.scanner import SCANNERS
from meddap_monai.phantom.simulation import AREA, simulate_image, write_phantom_study
from meddap_monai.phantom.tissue import CLASSES, simulate_tissue


@pytest.mark.parametrize("scanner", SCANNERS)
@pytest.mark.parametrize("class_name", CLASSES)
def test_an_image_depends_on_its_seed_only(class_name: str, scanner: str) -> None:
    first, again = (simulate_image(class_name, 7, scanner) for _ in range(2))
    other = simulate_image(class_name, 8, scanner)
    assert first.dtype == np.uint8 and first.shape == (128, 128)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert 40 < first.mean() < 190 and first.std() > 25


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cyst", 0, "own"), "class_name is 'cyst', expected one of benign, malignant, normal"),
        (("benign", 0, "mine"), "scanner is 'mine', expected one of own, unseen"),
    ],
)
def test_unknown_names_are_refused(arguments: tuple, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        simulate_image(*arguments)


def test_size_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected two sides of 16 to 4096"):
        simulate_image("benign", 0, size=(4, 128))


def test_classes_differ_by_what_a_reader_looks_for() -> None:
    """Lesions are darker than what surrounds them; what lies below is brighter if benign, darker if malignant."""

    def draw(name: str, seed: int) -> tuple[float, float]:
        tissue = simulate_tissue(name, (96, 96), np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2]))
        inside = tissue.lesion > 0.5
        contrast = tissue.echo_db[inside].mean() - tissue.echo_db[40:60][tissue.lesion[40:60] < 0.05].mean()
        return float(contrast), float(tissue.attenuation_db[inside].mean())

    benign = np.array([draw("benign", seed) for seed in range(20)])
    malignant = np.array([draw("malignant", seed) for seed in range(20)])
    assert (np.concatenate([benign, malignant])[:, 0] < 0).mean() > 0.9
    assert benign[:, 1].mean() + 20 < malignant[:, 1].mean()
    normal = simulate_tissue("normal", (96, 96), np.random.default_rng(0), np.random.default_rng(1))
    assert normal.lesion.max() == 0


def test_scanners_differ_in_geometry_and_speckle() -> None:
    own = np.stack([simulate_image("normal", seed, "own") for seed in range(4)]).astype(float)
    unseen = np.stack([simulate_image("normal", seed, "unseen") for seed in range(4)]).astype(float)
    assert (unseen[:, :, 0] == 0).mean() > 0.5 > (own[:, :, 0] == 0).mean()
    middle = np.s_[:, 40:80, 40:80]
    assert np.abs(np.diff(own[middle], axis=1)).mean() > 1.2 * np.abs(np.diff(unseen[middle], axis=1)).mean()


def test_a_study_is_real_dicom(tmp_path: Path) -> None:
    folder = write_phantom_study(tmp_path, patients_per_class=2, images_per_patient=2, seed=3, broken=4, clips=1)
    still = pydicom.dcmread(folder / "benign" / "patient000" / "IM0000.dcm")
    region = still.SequenceOfUltrasoundRegions[0]
    rows = slice(AREA[0], region.RegionLocationMaxY1 + 1)
    columns = slice(AREA[1], region.RegionLocationMaxX1 + 1)
    expected = simulate_image("benign", 3 * 1_000_003 * 101, patient_seed=3 * 1_000_003)
    assert np.array_equal(still.pixel_array[rows, columns], expected)
    assert still.pixel_array[: AREA[0]].max() > 100, "text is burned in outside of the region"
    assert "CANARY" in str(still.PatientID)
    clip = pydicom.dcmread(folder / "benign" / "patient000" / "CLIP.dcm")
    assert clip.pixel_array.shape[0] == 8
    assert len(list(folder.rglob("BROKEN*"))) == 4
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in folder.rglob("IM*")}
    assert len(uids) == 12


def test_the_unseen_scanner_stores_grey_as_colour(tmp_path: Path) -> None:
    write_phantom_study(tmp_path, 1, 1, seed=0, scanner="unseen")
    still = pydicom.dcmread(tmp_path / "normal" / "patient000" / "IM0000.dcm")
    assert still.PhotometricInterpretation == "RGB" and still.pixel_array.shape == (208, 256, 3)
