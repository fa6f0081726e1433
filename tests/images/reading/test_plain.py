"""PNG, JPEG, TIFF, BMP and NIfTI: row first, 8 bits, by content."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.plain import read_plain, sniff
from meddap_monai.phantom.simulation import dicom_bytes
from meddap_monai.transforms import LoadUltrasound

GREY = np.add.outer(np.arange(20) * 5, np.arange(30) * 4).astype(np.uint8)
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], -1)


def test_grey_in_colour_is_one_channel_as_in_dicom(tmp_path: Path) -> None:
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "grey.png")
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    shapes = {
        how: [read_plain(tmp_path / f"{name}.png", colour=how)[0].shape[1] for name in ("grey", "colour")]
        for how in ("keep", "auto", "grey")
    }
    assert shapes == {"keep": [3, 3], "auto": [1, 3], "grey": [1, 1]}
    assert read_plain(tmp_path / "grey.png")[1:] == (None, (0,), 1), "no spacing, one frame"
    for name in ("grey.png", "colour.png"):
        image = LoadUltrasound(colour="auto")(tmp_path / name)
        assert image.shape == ((1, 20, 30) if name == "grey.png" else (3, 20, 30))


def test_pages_are_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.roll(GREY, number)) for number in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pixels, _, numbers, count = read_plain(tmp_path / "a.tif", frames="evenly 2")
    assert count == 5 and numbers == (1, 3) and np.array_equal(pixels[1, 0], np.roll(GREY, 3))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_axis_0_is_x(name: str, tmp_path: Path) -> None:
    volume = np.stack([GREY.T, 255 - GREY.T], -1)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.2, 0.1, 1, 1])), tmp_path / name)
    pixels, spacing, numbers, _ = read_plain(tmp_path / name)
    assert pixels.shape == (2, 1, 20, 30) and numbers == (0, 1)
    assert np.array_equal(pixels[0, 0], GREY) and np.array_equal(pixels[1, 0], 255 - GREY)
    assert spacing == pytest.approx((0.1, 0.2)), "row spacing first"


def test_nifti_of_floats_is_stretched(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.linspace(-1, 3, 600).reshape(30, 20), np.eye(4)), tmp_path / "a.nii")
    pixels = read_plain(tmp_path / "a.nii")[0]
    assert (pixels.min(), pixels.max()) == (0, 255)
    values = np.ones((30, 20))
    values[3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(UnreadableImage, match="not finite"):
        read_plain(tmp_path / "b.nii")


def test_content_decides(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a", "PNG")
    (tmp_path / "b.png").write_bytes(dicom_bytes(GREY[None], "someone", "1.1"))
    (tmp_path / "c.png").write_bytes(b"not an image at all")
    assert [sniff(tmp_path / name) for name in ("a", "b.png", "c.png")] == ["raster", "dicom", ""]
    with pytest.raises(UnreadableImage, match="c.png: is none of PNG, JPEG, TIFF, BMP, NIfTI"):
        read_plain(tmp_path / "c.png")


@pytest.mark.parametrize("cut", [20, 60, 200])
def test_damaged_files(cut: int, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    with pytest.raises(UnreadableImage, match="a.png: damaged"):
        read_plain(tmp_path / "a.png")
