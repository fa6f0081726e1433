"""Window, rescale and spacing of enhanced multi-frame images: in the header, for all frames, or for each of them."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from raw_dicom import GREY

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import UltrasoundInfo, read_ultrasound

KEY = b"k" * 32
CLIP = np.stack([np.roll(GREY, shift, 1) for shift in range(4)]).astype(np.uint16) * 16
WINDOW = {"WindowCenter": 2000.5, "WindowWidth": 4001}
RESCALE = {"RescaleSlope": 0.5, "RescaleIntercept": 100, "RescaleType": "US"}
MACROS = {
    "WindowCenter": "FrameVOILUTSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}


def dataset(**attributes) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def groups(*parts: dict) -> Dataset:
    """One item of functional groups, each part in its macro."""
    return dataset(**{MACROS[next(iter(part))]: Sequence([dataset(**part)]) for part in parts})


def enhanced(
    path: Path, syntax: str = raw.EXPLICIT, undefined: bool = False, clip: np.ndarray = CLIP, **attributes
) -> Path:
    made = dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.6.2",
        SOPInstanceUID="1.2.3.4",
        Modality="US",
        Rows=clip.shape[1],
        Columns=clip.shape[2],
        NumberOfFrames=len(clip),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        **attributes,
    )
    made.PixelData = clip.astype(">u2" if syntax == raw.BIG else "<u2").tobytes()
    made["PixelData"].VR = "OW"
    for element in made:
        if element.VR == "SQ" and undefined:
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path, enforce_file_format=True)
    return path


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2, LINEAR."""
    return np.clip(np.rint((values - (centre - 0.5 - (width - 1) / 2)) * 255 / (width - 1)), 0, 255)


def read(path: Path, **how) -> tuple[np.ndarray, UltrasoundInfo]:
    pixels, info = read_ultrasound(path, key=KEY, **how)
    return pixels[:, 0].astype(int), info


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT, raw.BIG])
@pytest.mark.parametrize("where", ["header", "shared", "frames"])
def test_one_window_for_all_wherever_it_stands(where: str, syntax: str, undefined: bool, tmp_path: Path) -> None:
    parts = WINDOW, RESCALE, {"PixelSpacing": [0.2, 0.3]}
    attributes = {
        "header": lambda: {name: value for part in parts for name, value in part.items()},
        "shared": lambda: {"SharedFunctionalGroupsSequence": Sequence([groups(*parts)])},
        "frames": lambda: {"PerFrameFunctionalGroupsSequence": Sequence([groups(*parts) for _ in CLIP])},
    }[where]()
    pixels, info = read(enhanced(tmp_path / "x", syntax, undefined, **attributes))
    assert np.abs(pixels - windowed(CLIP * 0.5 + 100, 2000.5, 4001)).max() <= 1
    assert info.spacing_mm == (0.2, 0.3)


@pytest.mark.parametrize("window", ["file", "none"])
def test_each_frame_has_its_own(window: str, tmp_path: Path) -> None:
    """What a frame says comes before what all say, and that before the header."""
    own = [
        groups({"WindowCenter": 500.0 * (n + 1), "WindowWidth": 1000}, {"PixelSpacing": [0.1, 0.1]}) for n in range(4)
    ]
    shared = groups({"WindowCenter": 9.0, "WindowWidth": 9}, RESCALE, {"PixelSpacing": [0.9, 0.9]})
    path = enhanced(
        tmp_path / "x",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(own),
        WindowCenter=7.0,
        WindowWidth=7,
        PixelSpacing=[0.5, 0.5],
    )
    for number in range(4):
        pixels, info = read(path, frames=[number], window=window)
        want = windowed(CLIP[number] * 0.5 + 100, 500 * (number + 1), 1000)
        want = want if window == "file" else np.rint(CLIP[number] * (255 / 65535))
        assert np.abs(pixels[0] - want).max() <= 1 and info.spacing_mm == (0.1, 0.1)


def test_a_voi_table_of_a_group(tmp_path: Path) -> None:
    table = dataset(LUTDescriptor=[4096, 0, 8])
    table.add_new(0x00283006, "OW", (255 - np.arange(4096) // 16).astype("<u2").tobytes())
    group = dataset(FrameVOILUTSequence=Sequence([dataset(VOILUTSequence=Sequence([table]))]))
    path = enhanced(tmp_path / "x", SharedFunctionalGroupsSequence=Sequence([group]), **WINDOW)
    assert np.array_equal(read(path)[0], 255 - CLIP.astype(int) // 16)


def test_spacings_that_differ_are_not_one(tmp_path: Path) -> None:
    own = [groups({"PixelSpacing": [0.1 * (number + 1)] * 2}) for number in range(4)]
    path = enhanced(tmp_path / "x", PerFrameFunctionalGroupsSequence=Sequence(own))
    assert read(path)[1].spacing_mm is None
    assert read(path, frames="last")[1].spacing_mm == (0.4, 0.4)


def test_fewer_groups_than_frames_are_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "x", PerFrameFunctionalGroupsSequence=Sequence([groups(WINDOW)] * 2))
    with pytest.raises(UnreadableImage, match=r"functional groups \(5200,9230\) of 2 frames, expected one for each"):
        read(path)


@pytest.mark.parametrize(
    ("part", "says"),
    [({"RescaleSlope": 0}, r"RescaleSlope \(0028,1053\) is not a usable number"), ({"WindowCenter": 5}, None)],
)
def test_nonsense_in_groups_is_nonsense(part: dict, says: str | None, tmp_path: Path) -> None:
    path = enhanced(tmp_path / "x", SharedFunctionalGroupsSequence=Sequence([groups(part)]), **WINDOW)
    if says:
        with pytest.raises(UnreadableImage, match=says):
            read(path)
    else:  # a window without width counts as missing
        assert np.array_equal(read(path)[0], np.rint(CLIP * (255 / 65535)))


def test_the_material_is_what_pydicom_reads(tmp_path: Path) -> None:
    import pydicom

    path = enhanced(tmp_path / "x", SharedFunctionalGroupsSequence=Sequence([groups(WINDOW)]))
    made = pydicom.dcmread(io.BytesIO(path.read_bytes()))
    assert made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowWidth == 4001
    assert np.array_equal(made.pixel_array, CLIP)


@pytest.mark.parametrize("undefined", [False, True])
def test_groups_of_a_long_clip_cost_little(undefined: bool, tmp_path: Path) -> None:
    """5,000 frames of 8 x 8 pixels; the groups of one of them are parsed."""
    part = groups(WINDOW, RESCALE, {"PixelSpacing": [0.2, 0.3]})
    attributes = {"PerFrameFunctionalGroupsSequence": Sequence([part] * 5000)}
    path = enhanced(tmp_path / "x", undefined=undefined, clip=np.zeros((5000, 8, 8), np.uint16), **attributes)
    begin = time.process_time()
    assert read(path, frames="last")[1].spacing_mm == (0.2, 0.3)
    assert time.process_time() - begin < 1
