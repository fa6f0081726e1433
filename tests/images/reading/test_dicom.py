"""`read_ultrasound`: its arguments, and what it says about a file."""

from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import GREY, dicom, short, text

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.reading.codestream import read_codestream
from meddap_monai.images.reading.colour import reduce_colour
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.regions import Region
from meddap_monai.phantom.simulation import AREA, SCREEN, dicom_bytes, simulate_image

KEY = b"k" * 32
IMAGE = simulate_image("benign", 0)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "x.dcm").write_bytes(dicom_bytes(np.stack([IMAGE] * 3), "someone", "1.1", "unseen"))
    return tmp_path / "x.dcm"


def test_what_is_said_about_a_file(clip: Path) -> None:
    pixels, info = read_ultrasound(clip, key=KEY)
    region = Region("b-mode", AREA[0], AREA[1], AREA[0] + 128, AREA[1] + 128, (0.3125, 0.3125))
    assert pixels.shape == (3, 3, *SCREEN)
    assert (info.rows, info.columns, info.frames, info.chosen_frames) == (*SCREEN, 3, (0, 1, 2))
    assert (info.photometric, info.bits_stored, info.modality) == ("RGB", 8, "US")
    assert info.regions == (region,) and info.region == region and info.spacing_mm == (0.3125, 0.3125)
    assert info.box == (0, 0, *SCREEN) and info.grey_in_colour and info.frame_time_ms == pytest.approx(33.3)
    assert info.device.startswith("simulated-") and info.centre and not info.synthetic


def test_one_patient_one_pseudonym(tmp_path: Path) -> None:
    names = []
    for number, patient in enumerate(("one", "one", "two")):
        (tmp_path / "x").write_bytes(dicom_bytes(IMAGE[None], patient, f"1.{number}"))
        names.append(read_ultrasound(tmp_path / "x", key=KEY)[1].patient)
    assert names[0] == names[1] != names[2] and "one" not in names[0]


@pytest.mark.parametrize(("colour", "channels"), [("keep", 3), ("auto", 1), ("grey", 1)])
def test_grey_in_colour(colour: str, channels: int, clip: Path) -> None:
    pixels, info = read_ultrasound(clip, outside="crop", colour=colour, key=KEY)
    assert pixels.shape[1] == channels and info.grey_in_colour
    assert np.array_equal(pixels[0, 0], IMAGE)


def test_colour_stays_colour() -> None:
    flow = np.stack([IMAGE] * 3, -1)
    flow[40:60, 40:60] = (200, 0, 0)
    assert not reduce_colour(flow, "keep")[1] and reduce_colour(np.stack([IMAGE] * 3, -1), "keep")[1]
    noisy = np.clip(
        np.stack([IMAGE] * 3, -1).astype(int) + np.random.default_rng(0).integers(-3, 4, flow.shape), 0, 255
    )
    one, grey = reduce_colour(noisy.astype(np.uint8), "auto")
    assert grey, "lossy compression leaves small differences"
    assert one.shape == (*IMAGE.shape, 1) and np.abs(one[..., 0].astype(int) - IMAGE).max() <= 4


@pytest.mark.parametrize(
    ("window", "expected"),
    [("file", (0, 255)), ("none", (0, int(round(250 * 16 * 255 / 4095)))), ("minmax", (0, 255))],
)
def test_windows(window: str, expected: tuple[int, int], tmp_path: Path) -> None:
    twelve = {0x00280100: short(16), 0x00280101: short(12), 0x00280102: short(11)}
    twelve |= {0x7FE00010: ("OW", (GREY.astype("<u2") * 16).tobytes())}
    voi = {0x00281050: text("DS", "1000\\5"), 0x00281051: text("DS", "500\\9")}
    (tmp_path / "x").write_bytes(dicom(twelve | voi))
    pixels, _ = read_ultrasound(tmp_path / "x", window=window, key=KEY)
    assert (pixels.min(), pixels.max()) == expected
    share = (pixels == 255).mean()
    assert (share > 0.5) == (window == "file"), "the first of several windows counts"


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(function: str, tmp_path: Path) -> None:
    changes = {0x00281050: text("DS", "100"), 0x00281051: text("DS", "80"), 0x00281056: text("CS", function)}
    (tmp_path / "x").write_bytes(dicom(changes))
    pixels = read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0]
    values = GREY.astype(float)
    exact = np.clip((values - 60) / 80, 0, 1) * 255
    expected = exact if function == "LINEAR_EXACT" else 255 / (1 + np.exp(-4 * (values - 100) / 80))
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"outside": "cut"}, "outside is 'cut', expected one of keep, zero, crop"),
        ({"colour": "red"}, "colour is 'red'"),
        ({"window": "narrow"}, "window is 'narrow'"),
        ({"modality": "MR"}, "modality is 'MR'"),
        ({"frames": "none"}, "frames is 'none'"),
    ],
)
def test_arguments_that_are_not_listed(arguments: dict, text: str, clip: Path) -> None:
    with pytest.raises(ConfigurationError, match=text):
        read_ultrasound(clip, key=KEY, **arguments)


@pytest.mark.parametrize(("modality", "fine"), [("US", True), ("IVUS", True), ("MR", False), ("DX", False)])
def test_only_ultrasound_where_asked_for(modality: str, fine: bool, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(dicom({0x00080060: text("CS", modality)}))
    assert read_ultrasound(tmp_path / "x", key=KEY)[0].size
    if fine:
        read_ultrasound(tmp_path / "x", modality="US", key=KEY)
    else:
        with pytest.raises(UnreadableImage, match=r"Modality \(0008,0060\) is not US; set modality to any"):
            read_ultrasound(tmp_path / "x", modality="US", key=KEY)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    whole = dicom()
    (tmp_path / "bare").write_bytes(whole[len(raw.meta(raw.EXPLICIT)) :])
    assert np.array_equal(read_ultrasound(tmp_path / "bare", key=KEY)[0][0, 0], GREY)


@pytest.mark.parametrize("frame", [raw.jpeg(), raw.jpeg_ls(), raw.jpeg2000()], ids=["jpeg", "jpeg-ls", "jpeg 2000"])
def test_codestreams_announce_their_size(frame: bytes) -> None:
    found = read_codestream(frame)
    assert found and (found.rows, found.columns, found.components, found.precision) == (*GREY.shape, 1, 8)
    assert read_codestream(frame[:6]) is None and read_codestream(b"") is None


def test_the_default_key_is_used(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(KEY)
    monkeypatch.setenv("MEDDAP_KEY_FILE", str(tmp_path / "key"))
    assert read_ultrasound(clip)[1].patient == read_ultrasound(clip, key=KEY)[1].patient
