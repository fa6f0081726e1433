"""R3 for files that are not DICOM: what a small file may cost, and that no count it claims is believed."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from containers import chunk
from costs import read_cheaply
from PIL import Image

from meddap_monai.classifier.inference import read_frames
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.core.records import read_records
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 x 8 black pixels with these chunks before and after them."""
    head = (b"IHDR", struct.pack(">2I5B", 8, 8, 8, 0, 0, 0, 0))
    every = [head, *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in every)


BLACK = (b"IDAT", zlib.compress(bytes(72)))


def animated(claimed: int, held: int = 0) -> bytes:
    frame = struct.pack(">5I2H2B", 0, 8, 8, 0, 0, 1, 1, 0, 0)
    return png((b"acTL", struct.pack(">2I", claimed, 0)), *[(b"fcTL", frame)] * held, BLACK)


def long_animation(frames: int, side: int) -> bytes:
    """Frames of `side` x `side` black pixels, each a few kB; the last cannot be had without all before it."""
    packed = zlib.compress(bytes((side + 1) * side))
    chunks = [(b"IHDR", struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)), (b"acTL", struct.pack(">2I", frames, 0))]
    for number in range(frames):
        chunks.append((b"fcTL", struct.pack(">5I2H2B", max(0, 2 * number - 1), side, side, 0, 0, 1, 1, 0, 0)))
        chunks.append((b"fdAT", struct.pack(">I", 2 * number) + packed) if number else (b"IDAT", packed))
    return png()[:8] + png(*chunks)[33:]


def tiff(pages: int, *tags: tuple[int, int, int, int], tail: int = 64) -> bytes:
    """Pages of 8 x 8 pixels with further tags (number, type, count, value)."""
    own = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    own += [(277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), *tags]
    page = struct.pack("<H", len(own)) + b"".join(struct.pack("<HHII", *entry) for entry in own)
    ends = [8 + (number + 1) * (len(page) + 4) for number in range(pages - 1)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", end) for end in (*ends, 0)) + bytes(tail)


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def sloping_nifti(slices: int) -> bytes:
    """Slices of 1 MiB that pack well, with a slope that would make 8 bytes of each."""
    import gzip

    import nibabel

    head = nibabel.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head.set_data_shape((1024, 1024, slices))
    head.set_slope_inter(2.0, 1.0)
    head["magic"], head["vox_offset"], head["sform_code"] = b"n+1", 352, 1
    head["srow_x"][0], head["srow_y"][1], head["srow_z"][2] = -1, -1, 1
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, 2**17).astype(np.uint8), 8)
    return gzip.compress(head.binaryblock + bytes(4) + noise.tobytes() * slices, 1)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of 2^31 - 1 frames": (lambda: animated(2**31 - 1), "claims 2,147,483,647"),
    "png of frames it lacks": (lambda: animated(4000, 3), "claims 4,000 animation frames and holds 3"),
    "png of large frames": (lambda: long_animation(300, 2000), "at most 1,073,741,824 bytes"),
    "png of a million chunks": (lambda: png(BLACK, *[(b"abCd", b"")] * 1_000_000), "more than 100,000 chunks"),
    "tiff of 60,000 pages": (lambda: tiff(60_000), "more than 4,096 pages"),
    "tiff of 60,000 tags over one block": (
        lambda: tiff(1, *[(1000 + tag, 7, 10 * 2**20, 8) for tag in range(60_000)], tail=10 * 2**20),
        "its directories claim",
    ),
    "jpeg of 300 scans": (lambda: many_scans(4000, 300), "scans over 16,000,000 pixels"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refused_within_a_second_and_100_mb(name: str, tmp_path: Path) -> None:
    make, says = BOMBS[name]
    (tmp_path / "bomb").write_bytes(make())
    assert says in read_cheaply(tmp_path / "bomb")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.tif", lambda: tiff(4096)),
        ("a.png", lambda: long_animation(1000, 8)),
        ("a.jpg", lambda: many_scans(700, 300)),
        ("a.nii.gz", lambda: sloping_nifti(64)),
    ],
)
def test_one_frame_of_what_is_allowed_costs_little(name: str, make, tmp_path: Path) -> None:
    """The middle one, in a process of its own: within R3's second and 100 MB."""
    (tmp_path / name).write_bytes(make())
    assert read_cheaply(tmp_path / name, frames="middle") == "read"


def test_the_protected_worker_and_infer_refuse_it_too(key: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "benign").mkdir(parents=True)
    bomb = tmp_path / "in" / "benign" / "x.png"
    bomb.write_bytes(animated(2**31 - 1))
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(24, 32)).save(tmp_path / "in" / "benign" / "y.png")
    config = IndexConfig(source=tmp_path / "in", key_file=key, frames="all", workers=1, split="train")
    assert len(read_records(index(config, tmp_path / "out"))) == 1
    assert "claims 2,147,483,647 animation frames" in (tmp_path / "out" / "rejects.csv").read_text()
    with pytest.raises(UnreadableImage, match="claims 2,147,483,647 animation frames"):
        read_frames(bomb, InferConfig())
