"""Loading, cropping and masking by MONAI's conventions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import Compose, LoadImage

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.phantom.simulation import AREA, SCREEN, simulate_image, write_phantom_study
from meddap_monai.transforms import (
    CropToUltrasoundRegion,
    CropToUltrasoundRegiond,
    LoadUltrasound,
    LoadUltrasoundd,
    MaskBurnedIn,
    MaskBurnedInd,
)

PIXELS = simulate_image("benign", 101 * 0, patient_seed=0)
BOX = np.s_[AREA[0] : AREA[0] + 128, AREA[1] : AREA[1] + 128]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_study(tmp_path_factory.mktemp("study"), 1, 2, seed=0, clips=1)


@pytest.fixture(scope="module")
def still(study: Path) -> Path:
    return study / "benign" / "patient000" / "IM0000.dcm"


@pytest.fixture
def whole(still: Path, key: Path) -> MetaTensor:
    return LoadUltrasound(key_file=key)(still)


def test_a_still_is_row_first_with_matching_meta(whole: MetaTensor) -> None:
    assert whole.shape == (1, *SCREEN) and whole.dtype == torch.float32
    assert np.array_equal(whole[0].numpy()[BOX], PIXELS)
    assert whole.meta["original_channel_dim"] == 0
    assert list(whole.meta["spatial_shape"]) == list(SCREEN)
    assert whole.pixdim[:2].tolist() == pytest.approx([0.3125, 0.3125])
    step_down = whole.affine @ torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    assert step_down[1] == pytest.approx(-0.3125) and step_down[0] == 0, "rows run along y"


def test_a_clip_is_frames_first(study: Path, key: Path) -> None:
    clip = study / "benign" / "patient000" / "CLIP.dcm"
    tensor = LoadUltrasound(frames="evenly 3", key_file=key)(clip)
    assert tensor.shape == (3, 1, *SCREEN) and tensor.meta["frames"].tolist() == [1, 4, 6]
    first = LoadImage(UltrasoundReader(frames="all", key_file=key), ensure_channel_first=True)(clip)
    assert first.shape == (1, 8, *SCREEN), "MONAI's channel-first form of a clip"


@pytest.mark.parametrize("outside", ["crop", "zero"])
def test_the_reader_can_cut_itself(outside: str, still: Path, key: Path) -> None:
    tensor = LoadUltrasound(outside=outside, key_file=key)(still)
    inside = tensor[0].numpy() if outside == "crop" else tensor[0].numpy()[BOX]
    assert np.array_equal(inside, PIXELS)
    assert float(tensor.sum()) == PIXELS.sum()


def test_crop(whole: MetaTensor) -> None:
    before = whole.clone()
    cropped = CropToUltrasoundRegion()(whole)
    assert np.array_equal(cropped[0].numpy(), PIXELS) and torch.equal(whole, before)
    assert torch.equal(CropToUltrasoundRegion()(cropped), cropped), "twice is once"
    origin = cropped.affine[:2, 3].tolist()
    assert origin == pytest.approx([-AREA[1] * 0.3125, -AREA[0] * 0.3125]), "the affine follows the crop"


def test_mask(whole: MetaTensor) -> None:
    before = whole.clone()
    masked = MaskBurnedIn()(whole)
    assert masked.shape == whole.shape and torch.equal(whole, before) and isinstance(masked, MetaTensor)
    assert np.array_equal(masked[0].numpy()[BOX], PIXELS) and masked.sum() == PIXELS.sum()


@pytest.mark.parametrize("transform", [CropToUltrasoundRegion, MaskBurnedIn])
def test_clips_keep_their_frames(transform: type, study: Path, key: Path) -> None:
    clip = LoadUltrasound(frames="all", key_file=key)(study / "benign" / "patient000" / "CLIP.dcm")
    changed = transform()(clip)
    assert changed.shape[:2] == (8, 1) and changed.sum() < clip.sum()


@pytest.mark.parametrize("transform", [CropToUltrasoundRegion, MaskBurnedIn])
def test_without_meta_data_the_scan_is_found(transform: type, whole: MetaTensor) -> None:
    screen = whole.as_tensor().numpy()
    changed = np.asarray(transform()(screen))
    assert changed.sum() == pytest.approx(PIXELS.sum(), rel=0.06)
    if transform is MaskBurnedIn:
        assert changed[0, :28].sum() == 0 and changed[0, 168:].sum() == 0, "text is gone"


@pytest.mark.parametrize("transform", [CropToUltrasoundRegion, MaskBurnedIn])
def test_nothing_to_find(transform: type) -> None:
    full = torch.from_numpy(PIXELS)[None]
    with pytest.raises(UnreadableImage, match="no B-mode region"):
        transform()(full)
    assert torch.equal(transform(missing="keep")(full), full)
    with pytest.raises(ConfigurationError, match="missing"):
        transform(missing="guess")


def test_dictionary_versions_in_a_cached_pipeline(study: Path, key: Path) -> None:
    paths = sorted(study.rglob("IM*"))
    items = [{"image": str(path), "label": number} for number, path in enumerate(paths)]
    chain = Compose(
        [
            LoadUltrasoundd(keys="image", key_file=key),
            MaskBurnedInd(keys=["image", "absent"], allow_missing_keys=True),
            CropToUltrasoundRegiond(keys="image"),
        ]
    )
    data = CacheDataset(items, chain, progress=False)
    batch = next(iter(DataLoader(data, batch_size=len(items), num_workers=0)))
    assert batch["image"].shape == (6, 1, 128, 128) and batch["label"].tolist() == list(range(6))
    assert items[0]["image"] == str(paths[0]), "the input is not mutated"
    with pytest.raises(KeyError):
        LoadUltrasoundd(keys="absent")({"image": str(paths[0])})


def test_several_files_are_never_merged(study: Path, key: Path) -> None:
    paths = [str(path) for path in sorted(study.rglob("IM*"))[:2]]
    with pytest.raises(UnreadableImage, match="never merged"):
        UltrasoundReader(key_file=key).read(paths)


def test_errors_keep_their_name(tmp_path: Path, key: Path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"x" * 300)
    with pytest.raises(UnreadableImage, match="bad.dcm: is none of"):
        LoadUltrasound(key_file=key)(tmp_path / "bad.dcm")
