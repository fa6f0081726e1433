"""Which frames of a clip are chosen, and that only these are decoded."""

import numpy as np
import pytest

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.reading import decode
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.frames import check_policy, choose_frames, thumbnail
from meddap_monai.phantom.simulation import dicom_bytes


def never(_: int) -> np.ndarray:
    raise AssertionError("decoded without need")


@pytest.mark.parametrize(
    ("policy", "count", "expected"),
    [
        ("first", 9, [0]),
        ("middle", 9, [4]),
        ("middle", 1, [0]),
        ("last", 9, [8]),
        ("all", 3, [0, 1, 2]),
        ("every 4", 9, [0, 4, 8]),
        ("every 100", 9, [0]),
        ("evenly 3", 9, [1, 4, 7]),
        ("evenly 20", 3, [0, 1, 2]),
        ("different 5", 4, [0, 1, 2, 3]),
    ],
)
def test_policies(policy: str, count: int, expected: list[int]) -> None:
    assert choose_frames(policy, count, never) == expected


def test_the_most_different_frames() -> None:
    """Eight frames in three looks: one of each look is chosen."""
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 255, (3, 40, 50)).astype(np.uint8)
    order = [0, 0, 0, 1, 1, 2, 0, 0]
    frames = [np.clip(looks[look].astype(int) + rng.integers(-3, 4, (40, 50)), 0, 255) for look in order]
    chosen = choose_frames("different 3", 8, lambda number: frames[number])
    assert sorted(order[number] for number in chosen) == [0, 1, 2]


@pytest.mark.parametrize("policy", ["", "some", "every", "every 0", "every -1", "evenly x", "different", 3, None])
def test_other_words_are_refused(policy: object) -> None:
    with pytest.raises(ConfigurationError, match="expected one of: first, middle, last, all, every N"):
        check_policy(policy)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(32, 32), (100, 37), (9, 200), (64, 64, 3)])
def test_thumbnails_keep_the_mean(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    small = thumbnail(image, 16)
    assert small.shape == (16, 16) and small.mean() == pytest.approx(image.mean(), abs=6)


def test_only_the_wanted_frame_is_decoded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (8, 128, 128)).astype(np.uint8)
    (tmp_path / "x.dcm").write_bytes(dicom_bytes(clip, "someone", "1.1"))
    asked = []
    original = decode._native
    monkeypatch.setattr(
        decode, "_native", lambda header, layout, number: asked.append(number) or original(header, layout, number)
    )
    pixels, info = read_ultrasound(tmp_path / "x.dcm", frames="middle", outside="crop", key=b"k" * 32)
    assert asked == [4] and info.chosen_frames == (4,) and info.frames == 8
    assert np.array_equal(pixels[0, 0], clip[4])


@pytest.mark.parametrize("frames", [[8], [-1], []])
def test_frames_that_are_not_there(frames: list[int], tmp_path) -> None:
    (tmp_path / "x.dcm").write_bytes(dicom_bytes(np.zeros((8, 128, 128), np.uint8), "someone", "1.1"))
    with pytest.raises(UnreadableImage, match="expected numbers 0 to 7"):
        read_ultrasound(tmp_path / "x.dcm", frames=frames, key=b"k" * 32)
