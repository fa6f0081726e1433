"""Regions: declared ones told apart and checked, and the tight box found in pixels."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.regions import Region, choose_region, declared_regions, find_region, pixel_spacing
from meddap_monai.phantom.simulation import simulate_image
from tests.images.screens import SCREENS, background


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
    assert (choose_region((region,), 200, 300) is not None) == (kind in ("b-mode", "colour"))


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
    chosen = choose_region(read(small, colour, large), 200, 300)
    assert chosen is not None and (chosen.kind, chosen.left) == ("b-mode", 100)


WHOLE, OUTER, TINY = (0, 0, 199, 299), (10, 0, 189, 289), (40, 50, 60, 80)
INNER, OTHER = (30, 40, 150, 200), (30, 205, 150, 285)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([WHOLE], None),
        ([(0, 0, 198, 299)], None),
        ([(0, 0, 900, 900)], None),
        ([(2, 3, 197, 296)], None),
        ([(20, 0, 199, 299)], (20, 0)),
        ([WHOLE, INNER], (30, 40)),
        ([INNER, WHOLE], (30, 40)),
        ([OUTER, INNER], (30, 40)),
        ([WHOLE, OUTER, INNER], (30, 40)),
        ([OUTER, INNER, OTHER], (30, 40)),
        ([OUTER, TINY], (10, 0)),
        ([INNER, OTHER], (30, 40)),
    ],
)
@pytest.mark.parametrize("content", [1, 2])
def test_the_tightest_plausible_region_wins_and_the_whole_screen_is_none(
    content: int, boxes: list[tuple[int, ...]], expected: tuple[int, int] | None
) -> None:
    chosen = choose_region(read(*(item(content=content, box=box) for box in boxes)), 200, 300)
    assert (chosen and (chosen.top, chosen.left)) == expected


def test_a_whole_b_mode_region_gives_way_to_a_colour_region() -> None:
    chosen = choose_region(read(item(box=WHOLE), item(content=2, box=INNER)), 200, 300)
    assert chosen is not None and (chosen.kind, chosen.top) == ("colour", 30)


def test_no_scanner_declares_three_hundred_regions() -> None:
    with pytest.raises(UnreadableImage, match=r"x.dcm: declares 300 ultrasound regions \(0018,6011\)"):
        dataset = Dataset()
        dataset.SequenceOfUltrasoundRegions = [item() for _ in range(300)]
        declared_regions(dataset, 200, 300, path="x.dcm")


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
    found = find_region(screen(scanner)[None])
    assert found is not None
    region, mask = found
    assert abs(region.top - 50) <= 8 and abs(region.bottom - 250) <= 8
    assert abs(region.left - 90) <= 12 and abs(region.right - 310) <= 12
    bare = find_region(screen(scanner, text=False)[None])
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
    assert find_region(image[None]) is None


@pytest.mark.parametrize(
    ("name", "box"), [("examples_rgb_color.dcm", (54, 3, 169, 316)), ("examples_jpeg2k.dcm", (108, 9, 337, 631))]
)
def test_dense_lines_of_text_on_real_screens(name: str, box: tuple[int, ...]) -> None:
    """Five lines of bold text stand right above these scans."""
    pixels, info = read_ultrasound(get_testdata_file(name), outside="crop", guess_region=True, key=b"k" * 32)
    assert info.region is not None and info.region.kind == "found"
    assert np.abs(np.subtract(info.box, box)).max() <= 4
    assert pixels[0, :, :8].max() < 200, "no white letters at the upper edge"


@pytest.mark.parametrize("name", SCREENS)
def test_no_letter_is_in_a_guessed_region(name: str) -> None:
    """Screens with a bar, a panel or text across the scan's edge; 31 of 40 leaked while only density counted."""
    picture, letters = SCREENS[name]()
    found = find_region(picture.max(-1)[None])
    assert found is None or not (found[1] & letters)[found[0].slices].any()


@pytest.mark.parametrize("scanner", ["own", "unseen"])
@pytest.mark.parametrize("level", [1.0, 0.35])
def test_scans_without_text_are_still_found(level: float, scanner: str) -> None:
    found = [find_region(background(seed, level, scanner)[None]) for seed in range(2)]
    assert [one is not None and abs(one[0].top - 120) <= 8 for one in found] == [True] * 2


def test_text_in_one_frame_of_a_clip_counts() -> None:
    clip = np.stack([background(seed, 1.0) for seed in (0, 0, 0)])
    assert find_region(clip) is not None
    drawn = Image.fromarray(clip[1])
    ImageDraw.Draw(drawn).text((200, 250), "DOE^JANE 1970", fill=255, font=ImageFont.load_default(18))
    assert find_region(np.stack([clip[0], np.asarray(drawn), clip[2]])) is None
