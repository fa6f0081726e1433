"""R29: one picture, one tensor: equal pixels in every container and encoding, or a refusal by name."""

import struct
from collections.abc import Callable
from pathlib import Path

import containers as c
import numpy as np
import pytest
import tifffile
from containers import (
    BIG,
    COARSE,
    COLOUR,
    GREY,
    J2K,
    JPEG_LS,
    RLE,
    TURNED,
    chunk,
    dicom,
    lying,
    nifti,
    picture,
    png,
    tiff,
)
from PIL import ImageOps

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.opening import image_size, open_image
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.images.writing.write import write_synthetic_dicom, write_synthetic_nifti, write_synthetic_png

Row = tuple[str, Callable[[Path], object], "np.ndarray | str", int]
THROUGH_PALETTE = np.stack([GREY, GREY // 2, 255 - GREY], -1)
ENTRIES = np.stack([np.arange(256), np.arange(256) // 2, 255 - np.arange(256)], -1)
DARK = np.where(GREY == 200, np.uint8(0), GREY)
"""The picture where one level is transparent, shown over black."""
MADE = {"prompt": "p", "seed": 1}


def row(name: str, write: Callable[[Path], object], right: np.ndarray | str = GREY, tolerance: int = 0) -> Row:
    """One line of the table: file name, its writer, the right pixels (or the words of its refusal), levels allowed."""
    return name, write, right, tolerance


def pngs() -> list[Row]:
    def save(values: np.ndarray, **how: object):
        return lambda path: picture(values).save(path, "PNG", **how)

    def raw(data: bytes):
        return lambda path: path.write_bytes(data)

    indexed = picture(GREY)
    indexed.putpalette(ENTRIES.astype(np.uint8).tobytes())
    seen = np.full(GREY.shape, 255, np.uint8)
    turned = [row(f"turned {way}.png", save(turn(COLOUR), exif=c.exif(way)), COLOUR) for way, turn in TURNED.items()]
    return [
        *turned,
        row("grey 8.png", save(GREY)),
        row("colour 8.png", save(COLOUR), COLOUR),
        row("grey in colour.png", save(np.stack([GREY] * 3, -1))),
        row("grey 16.png", save(GREY.astype(np.uint16) * 257)),
        row("colour 16.png", raw(png(c.words(COLOUR), 16, 2)), COLOUR),
        row("grey alpha 8.png", save(c.opaque(GREY))),
        row("colour alpha 8.png", save(c.opaque(COLOUR)), COLOUR),
        row("grey alpha 16.png", raw(png(c.deep_opaque(GREY), 16, 4))),
        row("colour alpha 16.png", raw(png(c.deep_opaque(COLOUR), 16, 6)), COLOUR),
        row("half clear.png", save(np.dstack([np.full_like(GREY, 200), seen // 2])), np.full_like(GREY, 100), 1),
        row("bits 1.png", save(GREY > 90), np.where(GREY > 90, 255, 0).astype(np.uint8)),
        row("bits 2.png", raw(png(c.packed(COARSE // 85, 2), 2, 0)), COARSE),
        row("bits 4.png", raw(png(c.packed(GREY // 16, 4), 4, 0)), GREY // 16 * 17),
        row("palette.png", indexed.save, THROUGH_PALETTE),
        row("palette, opaque.png", lambda path: indexed.save(path, transparency=bytes([255] * 256)), THROUGH_PALETTE),
        row(
            "palette, clear entry.png",
            lambda path: indexed.save(path, transparency=200),
            np.where((GREY == 200)[..., None], np.uint8(0), THROUGH_PALETTE),
        ),
        row("clear level 8.png", save(GREY, transparency=200), DARK),
        row(
            "clear level 2.png",
            raw(png(c.packed(COARSE // 85, 2), 2, 0, chunk(b"tRNS", b"\0\2"))),
            np.where(COARSE == 170, np.uint8(0), COARSE),
        ),
        row(
            "clear level 4.png",
            raw(png(c.packed(GREY // 16, 4), 4, 0, chunk(b"tRNS", b"\0\x0f"))),
            np.where(GREY // 16 == 15, np.uint8(0), GREY // 16 * 17),
        ),
        row("clear level 16.png", raw(png(c.words(GREY), 16, 0, chunk(b"tRNS", bytes([200, 200])))), DARK),
        row(
            "clear colour 8.png",
            save(COLOUR, transparency=tuple(int(v) for v in COLOUR[20, 30])),
            np.where((COLOUR[20, 30] == COLOUR).all(-1)[..., None], np.uint8(0), COLOUR),
        ),
        row(
            "clear colour 16.png", raw(png(c.words(COLOUR), 16, 2, chunk(b"tRNS", bytes(range(6))))), "is not supported"
        ),
        row(
            "turned after its pixels.png",
            raw(png(TURNED[6](GREY), 8, 0, late=chunk(b"eXIf", bytes(c.exif(6).tobytes()).removeprefix(b"Exif\0\0")))),
        ),
        row("turned by xmp.png", raw(png(TURNED[8](GREY), 8, 0, c.xmp(8)))),
        row(
            "one animation frame.png",
            lambda path: picture(GREY).save(path, save_all=True, append_images=[picture(GREY)]),
        ),
        row(
            "a picture beside its animation.png",
            lambda path: picture(GREY).save(
                path, save_all=True, default_image=True, append_images=[picture(GREY // 2), picture(GREY // 3)]
            ),
            "cannot be told",
        ),
        row("synthetic.png", lambda path: write_synthetic_png(path, COLOUR, MADE), COLOUR),
    ]


def jpegs() -> list[Row]:
    best = {"quality": 100, "subsampling": 0}

    def save(values: np.ndarray, **how: object):
        return lambda path: picture(values).save(path, "JPEG", **(best | how))

    extra = [picture(np.full((48, 64, 3), 40, np.uint8))]
    turned = [row(f"turned {way}.jpg", save(turn(COLOUR), exif=c.exif(way)), COLOUR, 2) for way, turn in TURNED.items()]
    return [
        *turned,
        row("grey.jpg", save(GREY), GREY, 2),
        row("progressive.jpg", save(COLOUR, progressive=True), COLOUR, 2),
        row(
            "of a camera.jpg",
            lambda path: picture(COLOUR).save(path, "MPO", save_all=True, append_images=extra, **best),
            COLOUR,
            2,
        ),
        row(
            "of a camera, turned.jpg",
            lambda path: picture(TURNED[6](COLOUR)).save(
                path, "MPO", save_all=True, append_images=extra, exif=c.exif(6), **best
            ),
            COLOUR,
            2,
        ),
        row("cmyk.jpg", lambda path: picture(COLOUR).convert("CMYK").save(path, "JPEG", quality=100), COLOUR, 3),
    ]


def tiffs() -> list[Row]:
    def write(values: np.ndarray, order: str = "<", **how: object):
        return lambda path: tiff(path, (values, how), order=order)

    def stacked(**how: object):
        return lambda path: tifffile.imwrite(
            path, np.stack([GREY, GREY // 2, GREY // 3]), photometric="minisblack", **how
        )

    def of_depth(path: Path) -> None:
        tiff(path, (GREY, {"extratags": [(65000, 4, 1, 3, True)]}))
        path.write_bytes(path.read_bytes().replace(struct.pack("<H", 65000), struct.pack("<H", 32997)))

    deep = GREY.astype(np.uint16) * 257
    whole = (COLOUR, {"photometric": "rgb"})
    small = (COLOUR[::4, ::4], {"photometric": "rgb"})
    thumbnail, mask = (small[0], small[1] | {"subfiletype": 1}), (GREY > 90, {"photometric": "mask", "subfiletype": 4})
    turned = [
        row(
            f"turned {way}.tif",
            lambda path, way=way, turn=turn: picture(turn(COLOUR)).save(path, tiffinfo={274: way}),
            COLOUR,
        )
        for way, turn in TURNED.items()
    ]
    return [
        *turned,
        row("black is zero.tif", write(GREY, photometric="minisblack")),
        row("white is zero.tif", write(255 - GREY, photometric="miniswhite")),
        row("black is zero 16.tif", write(deep, photometric="minisblack")),
        row("white is zero 16.tif", write(65535 - deep, photometric="miniswhite")),
        row("white is zero 16, packed.tif", write(65535 - deep, photometric="miniswhite", compression="zlib")),
        row("big endian 16.tif", write(deep, ">", photometric="minisblack")),
        row("white is zero 16, big endian.tif", write(65535 - deep, ">", photometric="miniswhite"), "not supported"),
        row(
            "white is zero 1.tif",
            lambda path: picture(GREY > 90).save(path, tiffinfo={262: 0}, compression="group4"),
            np.where(GREY > 90, 255, 0).astype(np.uint8),
        ),
        row("signed 8.tif", write((GREY.astype(int) - 128).astype(np.int8), photometric="minisblack")),
        row("signed 16.tif", write((deep.astype(int) - 32768).astype(np.int16), photometric="minisblack")),
        row("12 bits.tif", c.twelve_bit_tiff, GREY, 1),
        row("integers of 32 bits.tif", write(deep.astype(np.uint32), photometric="minisblack"), "32-bit integers"),
        row(
            "signed integers of 32 bits.tif", write(deep.astype(np.int32), photometric="minisblack"), "32-bit integers"
        ),
        row("floats.tif", write(GREY / np.float32(255), photometric="minisblack"), "floating-point"),
        row("colour.tif", write(COLOUR, photometric="rgb"), COLOUR),
        row(
            "colour in planes.tif",
            write(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"),
            COLOUR,
        ),
        row("colour 16.tif", write(COLOUR.astype(np.uint16) * 257, photometric="rgb"), COLOUR),
        row("lzw.tif", lambda path: picture(COLOUR).save(path, compression="tiff_lzw"), COLOUR),
        row("grey alpha.tif", lambda path: picture(c.opaque(GREY)).save(path)),
        row("colour alpha.tif", lambda path: picture(c.opaque(COLOUR)).save(path), COLOUR),
        row("palette 16.tif", lambda path: c.palette_tiff(path, ENTRIES * 257), THROUGH_PALETTE),
        row("palette of bytes.tif", lambda path: c.palette_tiff(path, ENTRIES), THROUGH_PALETTE),
        row("with thumbnail.tif", lambda path: tiff(path, whole, thumbnail), COLOUR),
        row("thumbnail first.tif", lambda path: tiff(path, thumbnail, whole), COLOUR),
        row("with mask.tif", lambda path: tiff(path, whole, mask), COLOUR),
        row("pages that differ.tif", lambda path: tiff(path, whole, small), "pages differ in size"),
        row("grey and colour pages.tif", lambda path: tiff(path, whole, (GREY, {})), "pages differ"),
        row("stack in a page, ImageJ.tif", stacked(imagej=True, truncate=True), "3 pictures lie in one page"),
        row("stack in a page, tifffile.tif", stacked(truncate=True), "3 pictures lie in one page"),
        row("stack in a page, depth.tif", of_depth, "3 pictures lie in one page"),
        row("one picture of ImageJ.tif", write(GREY, description="ImageJ=1.54f\nunit=mm\n")),
    ]


def bmps() -> list[Row]:
    return [
        row("grey.bmp", lambda path: picture(GREY).save(path)),
        row("colour.bmp", lambda path: picture(COLOUR).save(path), COLOUR),
        row("palette.bmp", lambda path: picture(np.stack([COARSE] * 3, -1)).quantize(4).save(path), COARSE),
        row("alpha.bmp", lambda path: picture(c.opaque(COLOUR)).save(path), COLOUR),
        row("bits 1.bmp", lambda path: picture(GREY > 90).save(path), np.where(GREY > 90, 255, 0).astype(np.uint8)),
    ]


def niftis() -> list[Row]:
    down, up = np.diag([-0.3, -0.2, 1, 1]), np.diag([-0.3, 0.2, 1, 1])
    moved = np.array([[0.3, 0, 0, -18.9], [0, 0.2, 0, -9.4], [0, 0, 1, 0], [0, 0, 0, 1]])
    coronal = np.array([[-0.3, 0, 0, 0], [0, 0, -1, 0], [0, 0.2, 0, -9.4], [0, 0, 0, 1]])
    sagittal = np.array([[0, 0, 1, 0], [-0.3, 0, 0, 0], [0, 0.2, 0, -9.4], [0, 0, 0, 1]])
    rows_first = np.array([[0, -0.3, 0, 0], [-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    oblique = np.array([[-0.29, 0.02, 0, 1], [0.03, 0.19, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    stored, flipped = lying(GREY, False, False), lying(GREY, False, True)
    colour = lying(COLOUR, False, True)
    # what dcm2niix 1.0.20250505 writes for an ultrasound DICOM, which has no orientation: both codes 0
    nothing = {"qform_code": 0, "sform_code": 0}
    dcm2niix = nothing | {"srow_x": [1, 0, 0, 0], "srow_y": [0, 1, 0, -47], "srow_z": [0, 0, 1, 0]}
    unflipped = dcm2niix | {"srow_y": [0, -1, 0, 0]}
    return [
        row("rows down.nii", lambda path: nifti(path, stored, down)),
        row("rows up.nii", lambda path: nifti(path, flipped, up)),
        row("columns to the right.nii", lambda path: nifti(path, lying(GREY, True, False), np.diag([0.3, -0.2, 1, 1]))),
        row("both, with an offset.nii", lambda path: nifti(path, lying(GREY, True, True), moved)),
        row("rows first.nii", lambda path: nifti(path, GREY, rows_first)),
        row("rows first, colour.nii", lambda path: nifti(path, c.triples(COLOUR), rows_first), COLOUR),
        row("coronal.nii", lambda path: nifti(path, flipped, coronal)),
        row("sagittal.nii", lambda path: nifti(path, flipped, sagittal)),
        row("oblique.nii", lambda path: nifti(path, flipped, oblique)),
        row("a scaling alone.nii", lambda path: nifti(path, stored, np.eye(4))),
        row("no affine.nii", lambda path: nifti(path, stored, None)),
        row(
            "a flat affine.nii",
            lambda path: nifti(path, stored, None, sform_code=1, srow_x=[-1, 0, 0, 0]),
            "no direction",
        ),
        row("dcm2niix.nii", lambda path: nifti(path, flipped[..., None], None, **dcm2niix)),
        row("dcm2niix.nii.gz", lambda path: nifti(path, flipped[..., None], None, **dcm2niix)),
        row("dcm2niix, colour.nii", lambda path: nifti(path, c.triples(colour), None, **dcm2niix), COLOUR),
        row("dcm2niix -y n.nii", lambda path: nifti(path, stored[..., None], None, **unflipped)),
        row("rgb24.nii", lambda path: nifti(path, c.triples(colour), up), COLOUR),
        row("rgba32.nii", lambda path: nifti(path, c.triples(c.opaque(colour), "RGBA"), up), COLOUR),
        row("colour as fifth axis.nii", lambda path: nifti(path, colour[:, :, None, None], up), COLOUR),
        row("16 bits.nii", lambda path: nifti(path, flipped.astype(np.int16), up)),
        row("floats.nii", lambda path: nifti(path, flipped.astype(np.float32), up)),
        row("shares.nii", lambda path: nifti(path, flipped / 255.0, up)),
        row("slope.nii", lambda path: nifti(path, flipped, up, 0.25)),
        row("slope and intercept.nii", lambda path: nifti(path, flipped, up, 2.5, inter=-7)),
        row("negative slope.nii", lambda path: nifti(path, 255 - flipped, up, -1, inter=255)),
        row("large values.nii", lambda path: nifti(path, (flipped / 127.5 - 1) * 1e308, up)),
        row("big endian.nii", lambda path: c.big_endian_nifti(path, flipped, up)),
        row("synthetic.nii", lambda path: write_synthetic_nifti(path, GREY, MADE)),
        row("synthetic, colour.nii.gz", lambda path: write_synthetic_nifti(path, COLOUR, MADE), COLOUR),
        row("pair.nii", lambda path: c.nifti_pair(path, stored, down), "another file"),
    ]


def dicoms() -> list[Row]:
    deep = GREY.astype(np.uint16)
    flat = COLOUR.tobytes()
    planes = np.moveaxis(COLOUR, -1, 0).tobytes()
    swapped = GREY.reshape(-1, 2)[:, ::-1].tobytes()
    window = {"bits": 16, "WindowCenter": 128.0, "WindowWidth": 256.0}
    ybr = c.ybr_full(COLOUR).tobytes()
    return [
        row("native.dcm", lambda path: dicom(path, GREY.tobytes())),
        row("implicit.dcm", lambda path: dicom(path, GREY.tobytes(), syntax="1.2.840.10008.1.2")),
        row("deflated.dcm", lambda path: dicom(path, GREY.tobytes(), syntax="1.2.840.10008.1.2.1.99")),
        row("big endian.dcm", lambda path: dicom(path, GREY.tobytes(), syntax=BIG)),
        row("big endian words.dcm", lambda path: dicom(path, swapped, syntax=BIG, vr="OW")),
        row("inverted.dcm", lambda path: dicom(path, (255 - GREY).tobytes(), photometric="MONOCHROME1")),
        row("16 bits.dcm", lambda path: dicom(path, (deep * 257).tobytes(), bits=16)),
        row(
            "16 bits, big endian.dcm", lambda path: dicom(path, (deep * 257).byteswap().tobytes(), bits=16, syntax=BIG)
        ),
        row("12 bits.dcm", lambda path: dicom(path, np.rint(GREY * (4095 / 255)).astype(np.uint16).tobytes(), bits=12)),
        row("signed.dcm", lambda path: dicom(path, (GREY ^ 128).tobytes(), PixelRepresentation=1)),
        row("window.dcm", lambda path: dicom(path, deep.tobytes(), **window)),
        row(
            "enhanced, shared.dcm",
            lambda path: dicom(path, deep.tobytes(), bits=16, **c.enhanced((128.0, 256.0), True)),
        ),
        row(
            "enhanced, per frame.dcm",
            lambda path: dicom(path, deep.tobytes(), bits=16, **c.enhanced((128.0, 256.0), False)),
        ),
        row("colour.dcm", lambda path: dicom(path, flat, photometric="RGB"), COLOUR),
        row("planes.dcm", lambda path: dicom(path, planes, photometric="RGB", PlanarConfiguration=1), COLOUR),
        row("ybr.dcm", lambda path: dicom(path, ybr, photometric="YBR_FULL"), COLOUR, 2),
        row("rle.dcm", lambda path: c.compressed(path, RLE, GREY)),
        row("rle, colour.dcm", lambda path: c.compressed(path, RLE, COLOUR), COLOUR),
        row("jpeg.dcm", lambda path: c.dicom_jpeg(path, GREY), GREY, 2),
        row("jpeg, colour.dcm", lambda path: c.dicom_jpeg(path, COLOUR), COLOUR, 2),
        row("jpeg-ls.dcm", lambda path: c.compressed(path, JPEG_LS, GREY)),
        row("jpeg-ls, colour.dcm", lambda path: c.compressed(path, JPEG_LS, COLOUR), COLOUR),
        row("jpeg 2000.dcm", lambda path: c.compressed(path, J2K, GREY)),
        row("jpeg 2000, colour.dcm", lambda path: c.compressed(path, J2K, COLOUR), COLOUR),
        row("palette 8.dcm", lambda path: dicom(path, GREY.tobytes(), **c.palette(8)), THROUGH_PALETTE),
        row("palette 16.dcm", lambda path: dicom(path, GREY.tobytes(), **c.palette(16)), THROUGH_PALETTE),
        row(
            "palette 16, big endian.dcm",
            lambda path: dicom(path, GREY.tobytes(), syntax=BIG, **c.palette(16, ">")),
            THROUGH_PALETTE,
        ),
        row("synthetic.dcm", lambda path: write_synthetic_dicom(path, COLOUR, MADE, run="r", item="1"), COLOUR),
        row(
            "synthetic, jpeg 2000.dcm",
            lambda path: write_synthetic_dicom(path, COLOUR, MADE, run="r", item="1", compression="jpeg2000"),
            COLOUR,
        ),
    ]


TABLE = [*pngs(), *jpegs(), *tiffs(), *bmps(), *niftis(), *dicoms()]


@pytest.fixture
def reader(key: Path) -> UltrasoundReader:
    return UltrasoundReader(full_frame=True, key_file=key)


def as_right(pixels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(C, H, W) to the form of the right pixels; grey stored as colour counts as grey."""
    if right.ndim == 2 and len(pixels) == 3:
        assert np.ptp(pixels, axis=0).max() == 0, "colour where grey is right"
    return pixels[0] if right.ndim == 2 else np.moveaxis(pixels, 0, -1)


@pytest.mark.parametrize(("name", "write", "right", "tolerance"), TABLE, ids=[line[0] for line in TABLE])
def test_one_picture_one_tensor(
    name: str, write: Callable, right: np.ndarray | str, tolerance: int, tmp_path: Path, reader: UltrasoundReader
) -> None:
    path = tmp_path / name
    write(path)
    if isinstance(right, str):
        with pytest.raises(UnreadableImage, match=right):
            reader.read(path)
        return
    pixels, _ = reader.get_data(reader.read(path))
    shown = as_right(pixels, right)
    assert shown.shape == right.shape and shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - right).max() <= tolerance
    if path.suffix in (".png", ".jpg", ".tif", ".bmp") and "animation" not in name:
        opened = np.asarray(open_image(path))
        assert np.array_equal(as_right(opened[None] if opened.ndim == 2 else np.moveaxis(opened, -1, 0), right), shown)
        assert image_size(path) == shown.shape[:2], "the size that is told without decoding"


CLIPS: dict[str, Callable[[Path, list[np.ndarray]], object]] = {
    "pages.tif": lambda path, frames: tiff(
        path, *[(65535 - 257 * frame.astype(np.uint16), {"photometric": "miniswhite"}) for frame in frames]
    ),
    "pages with thumbnails.tif": lambda path, frames: tiff(
        path, *[page for frame in frames for page in ((frame, {}), (frame[::4, ::4], {"subfiletype": 1}))]
    ),
    "animation.png": lambda path, frames: picture(frames[0]).save(
        path, save_all=True, append_images=[picture(frame) for frame in frames[1:]], blend=0
    ),
    "turned animation.png": lambda path, frames: picture(TURNED[8](frames[0])).save(
        path, save_all=True, append_images=[picture(TURNED[8](frame)) for frame in frames[1:]], exif=c.exif(8)
    ),
    "rows up.nii": lambda path, frames: nifti(
        path, np.stack([lying(frame, False, True) for frame in frames], -1), np.diag([-0.3, 0.2, 1, 1])
    ),
    "times.nii.gz": lambda path, frames: nifti(
        path, np.stack([lying(frame, False, True) for frame in frames], -1)[:, :, None], np.diag([-0.3, 0.2, 1, 1])
    ),
    "sloping.nii.gz": lambda path, frames: nifti(
        path, np.stack([frame.T for frame in frames], -1), np.diag([-0.3, -0.2, 1, 1]), 0.5
    ),
    "clip.dcm": lambda path, frames: dicom(path, np.stack(frames).tobytes(), NumberOfFrames=len(frames)),
}


@pytest.mark.parametrize("policy", ["all", "middle", "last", "every 2", "different 2"])
@pytest.mark.parametrize("name", CLIPS)
def test_one_clip_one_tensor(name: str, policy: str, tmp_path: Path, reader: UltrasoundReader) -> None:
    frames = [GREY, np.roll(GREY, 9, 0), 255 - GREY]
    CLIPS[name](tmp_path / name, frames)
    chosen = {"all": [0, 1, 2], "middle": [1], "last": [2], "every 2": [0, 2], "different 2": [1, 2]}[policy]
    pixels, facts = reader.read(tmp_path / name, frames=policy)
    assert facts["frames"].tolist() == chosen
    assert np.array_equal(pixels[:, 0], np.stack(frames)[chosen])


def test_the_turns_are_those_of_exif() -> None:
    """The table's own truth, compared with Pillow's."""
    for way, turn in TURNED.items():
        image = picture(turn(COLOUR))
        image.getexif()[0x0112] = way
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), COLOUR)
