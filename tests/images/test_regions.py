"""Regions: declared ones told apart and checked, and the tight box found in pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.regions import Region, choose_region, declared_regions, find_region, pixel_spacing
from meddap_monai.phantom import simulate_image


def item(
    shape: int = 1, content: int = 1, box: tuple[int, ...] = (10, 20, 109, 219), units: int = 3, **changes
) -> Dataset:
    """`box` is MinY0, MinX0, MaxY1, MaxX1."""
    found = Dataset()
    found.RegionSpatialFormat, found.RegionDataType = shape, content
    found.RegionLocationMinY0, found.RegionLocationMinX0, found.RegionLocationMaxY1, found.RegionLocationMaxX1 = box
    found.PhysicalUnitsXDirection = found.PhysicalUnitsYDirection = units
    found.PhysicalDeltaX, found.PhysicalDeltaY = 0.02, 0.03
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def read(*items: Dataset) -> tuple[Region, ...]:
    dataset = Dataset()
    dataset.SequenceOfUltrasoundRegions = list(items)
    return declared_regions(dataset, 200, 300)


def test_a_b_mode_region_with_its_spacing() -> None:
    assert read(item()) == (Region("b-mode", 10, 20, 110, 220, (0.3, 0.2)),)


@pytest.mark.parametrize(
    ("shape", "content", "kind"),
    [(1, 1, "b-mode"), (1, 2, "colour"), (2, 1, "m-mode"), (3, 3, "spectral"), (4, 10, "waveform"), (5, 0, "graphics")],
)
def test_kinds_are_told_apart(shape: int, content: int, kind: str) -> None:
    (region,) = read(item(shape, content))
    assert region.kind == kind
    assert (choose_region((region,)) is not None) == (kind in ("b-mode", "colour"))


@pytest.mark.parametrize(
    "box", [(-5, 0, 50, 50), (50, 50, 10, 90), (0, 0, 5, 5), (300, 0, 400, 100), (0, 400, 90, 500)]
)
def test_rectangles_that_are_none_are_left_out(box: tuple[int, ...]) -> None:
    signed = Dataset()
    names = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")
    for name, value in zip(names, box, strict=True):
        signed.add_new(name, "SL", value)
    signed.RegionSpatialFormat = signed.RegionDataType = 1
    assert read(signed) == ()


def test_a_region_beyond_the_screen_is_cut_to_it() -> None:
    (region,) = read(item(box=(100, 200, 900, 900)))
    assert (region.bottom, region.right) == (200, 300)


@pytest.mark.parametrize("change", [{"units": 0}, {"units": 4}, {"PhysicalDeltaX": 0.0}, {"PhysicalDeltaY": -0.03}])
def test_lengths_only(change: dict) -> None:
    assert read(item(**change))[0].spacing_mm is None


def test_the_largest_b_mode_region_wins_over_colour() -> None:
    small, large = item(box=(0, 0, 49, 49)), item(box=(0, 100, 99, 249))
    colour = item(content=2, box=(0, 0, 199, 299))
    chosen = choose_region(read(small, colour, large))
    assert chosen is not None and (chosen.kind, chosen.left) == ("b-mode", 100)


@pytest.mark.parametrize(
    ("value", "expected"), [([0.1, 0.2], (0.1, 0.2)), (None, None), ([0.1], None), ("0.1", None), ([0, 1], None)]
)
def test_pixel_spacing(value: object, expected: tuple | None) -> None:
    assert pixel_spacing(value) == expected


def screen(scanner: str, text: bool = True) -> np.ndarray:
    picture = Image.new("L", (400, 300))
    picture.paste(Image.fromarray(simulate_image("benign", 2, scanner, size=(200, 220))), (90, 50))
    if text:
        draw = ImageDraw.Draw(picture)
        draw.text((5, 5), "SOMEONE, Somebody 1970-01-01", fill=255)
        draw.text((5, 285), "HOSPITAL  MI 0.7 TIs 0.2", fill=220)
        draw.text((330, 100), "Gain 50\nDR 60", fill=220)
        draw.rectangle((340, 200, 352, 280), fill=128)
    return np.asarray(picture)


@pytest.mark.parametrize("scanner", ["own", "unseen"])
def test_the_scan_is_found_and_the_text_is_not(scanner: str) -> None:
    found = find_region(screen(scanner))
    assert found is not None
    region, mask = found
    assert abs(region.top - 50) <= 8 and abs(region.bottom - 250) <= 8
    assert abs(region.left - 90) <= 12 and abs(region.right - 310) <= 12
    bare = find_region(screen(scanner, text=False))
    assert bare is not None and np.array_equal(mask, bare[1]), "the text changes nothing"
    assert not mask[:20].any() and not mask[280:].any() and not mask[:, 325:].any()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((300, 400), np.uint8),
        simulate_image("normal", 1, size=(300, 400)),
        np.random.default_rng(0).integers(0, 255, (300, 400)).astype(np.uint8),
        np.hstack([screen("own"), screen("own")]),
        np.full((40, 40), 200, np.uint8),
    ],
    ids=["black", "fills the screen", "noise", "two scans", "tiny"],
)
def test_where_nothing_stands_apart_nothing_is_returned(image: np.ndarray) -> None:
    assert find_region(image) is None


@pytest.mark.parametrize(
    ("name", "box"), [("examples_rgb_color.dcm", (54, 3, 169, 316)), ("examples_jpeg2k.dcm", (108, 9, 337, 631))]
)
def test_dense_lines_of_text_on_real_screens(name: str, box: tuple[int, ...]) -> None:
    """Five lines of bold text stand right above these scans."""
    pixels, info = read_ultrasound(get_testdata_file(name), outside="crop", key=b"k" * 32)
    assert info.region is not None and info.region.kind == "found"
    assert np.abs(np.subtract(info.box, box)).max() <= 4
    assert pixels[0, :, :8].max() < 200, "no white letters at the upper edge"
