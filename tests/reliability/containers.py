"""The same two pictures, grey and colour, in every container and encoding: what the table of R29 writes."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

Y, X = np.mgrid[0:48, 0:64]
GREY = np.rint(255 * (0.7 * X / 63 + 0.3 * (Y / 47) ** 2)).astype(np.uint8)
COLOUR = np.stack([X // 8 * 36, Y // 8 * 51, 255 - X // 8 * 20 - Y // 8 * 18], -1).astype(np.uint8)
"""Patches of one colour each, so that JPEG's own loss stays within 2 levels."""
COARSE = (GREY // 64) * 85
"""Four levels, for files of 2 bits."""
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: np.rot90,
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}
"""EXIF orientation -> how the upright picture lies in such a file (EXIF 2.32, 4.6.4)."""


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values))


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


# ------------------------------------------------------------------------------------------------------------- PNG
def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: np.ndarray, bits: int, colour: int, *early: bytes, late: bytes = b"") -> bytes:
    """A PNG of packed rows (H, bytes), with chunks before and after its pixels."""
    width = rows.shape[1] * 8 // (bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    head = chunk(b"IHDR", struct.pack(">2I5B", width, len(rows), bits, colour, 0, 0, 0))
    lines = np.concatenate([np.zeros((len(rows), 1), np.uint8), rows], 1).tobytes()
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(early)
        + chunk(b"IDAT", zlib.compress(lines))
        + late
        + chunk(b"IEND", b"")
    )


def words(values: np.ndarray) -> np.ndarray:
    """16-bit samples, each byte of the picture twice, as big-endian rows."""
    return np.ascontiguousarray(values.astype(np.uint16) * 257).astype(">u2").view(np.uint8).reshape(len(values), -1)


def packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Small levels packed into bytes, the first in the highest bits."""
    parts = levels.reshape(len(levels), -1, 8 // bits)
    return sum(parts[..., place].astype(np.uint8) << (8 - bits * (place + 1)) for place in range(8 // bits))


def opaque(values: np.ndarray) -> np.ndarray:
    return np.dstack([values, np.full(values.shape[:2], 255, np.uint8)])


def deep_opaque(values: np.ndarray) -> np.ndarray:
    return words(np.dstack([values, np.full(values.shape[:2], 255, np.uint8)]))


def xmp(orientation: int) -> bytes:
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode())


# ------------------------------------------------------------------------------------------------------------ TIFF
def tiff(path: Path, *pages: tuple[np.ndarray, dict[str, Any]], order: str = "<") -> None:
    with tifffile.TiffWriter(path, byteorder=order) as writer:
        for values, how in pages:
            writer.write(values, **({"contiguous": False, "metadata": None} | how))


def palette_tiff(path: Path, entries: np.ndarray) -> None:
    """Grey through a palette of (256, 3) 16-bit entries."""
    tiff(path, (GREY, {"photometric": "palette", "colormap": entries.T.astype(np.uint16)}))


# ----------------------------------------------------------------------------------------------------------- NIfTI
def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None, slope: float | None = None, **more: Any) -> None:
    """A NIfTI file as nibabel writes it; header fields by name."""
    image = nibabel.Nifti1Image(values, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, more.pop("inter", 0))
    for name, value in more.items():
        image.header[name] = value
    nibabel.save(image, path)


def triples(values: np.ndarray, names: str = "RGB") -> np.ndarray:
    """(W, H, C) uint8 to (W, H, 1) of RGB24 or RGBA32."""
    dtype = np.dtype([(name, "u1") for name in names])
    return np.ascontiguousarray(values).view(dtype)


def lying(image: np.ndarray, right: bool, up: bool) -> np.ndarray:
    """A picture as the axes of a NIfTI file hold it: x first, to the right or left, y upwards or downwards."""
    image = image[::-1] if up else image
    image = image[:, ::-1] if right else image
    return image.swapaxes(0, 1)


# ----------------------------------------------------------------------------------------------------------- DICOM
EXPLICIT, BIG, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
JPEG, JPEG_LS, J2K = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def dicom(
    path: Path,
    data: bytes,
    *,
    syntax: str = EXPLICIT,
    photometric: str = "MONOCHROME2",
    bits: int = 8,
    encapsulated: bool = False,
    vr: str = "",
    **more: Any,
) -> None:
    """An ultrasound image of 48 x 64 pixels; further attributes by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.6.1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID, dataset.StudyInstanceUID = "US", "P1", generate_uid()
    dataset.Rows, dataset.Columns, dataset.PhotometricInterpretation = 48, 64, photometric
    dataset.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PAL")) else 3
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = more.pop("PlanarConfiguration", 0)
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.PixelRepresentation = bits, 0
    dataset.HighBit = bits - 1
    for name, value in more.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate([data]) if encapsulated else data
    dataset["PixelData"].VR = vr or ("OB" if bits == 8 or encapsulated else "OW")
    dataset["PixelData"].is_undefined_length = encapsulated
    dataset.save_as(path, enforce_file_format=True)


def compressed(path: Path, syntax: str, values: np.ndarray) -> None:
    """Through pydicom's own encoders."""
    from pydicom import dcmread

    stream = io.BytesIO()
    dicom(stream, values.tobytes(), photometric="RGB" if values.ndim == 3 else "MONOCHROME2")  # type: ignore[arg-type]
    stream.seek(0)
    dataset = dcmread(stream)
    dataset.compress(UID(syntax), generate_instance_uid=False)
    dataset.save_as(path)


def ybr_full(values: np.ndarray) -> np.ndarray:
    """RGB to YBR_FULL, rounded (PS3.3 C.7.6.3.1.2)."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.clip(np.rint(values @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def dicom_jpeg(path: Path, values: np.ndarray) -> None:
    stream = io.BytesIO()
    picture(values).save(stream, "JPEG", quality=100, subsampling=0)
    dicom(
        path,
        stream.getvalue(),
        syntax=JPEG,
        photometric="YBR_FULL" if values.ndim == 3 else "MONOCHROME2",
        encapsulated=True,
    )


def palette(bits: int, order: str = "<") -> dict[str, Any]:
    """The attributes of a palette that makes of index i the colour (i, i // 2, 255 - i)."""
    entries = np.arange(256)
    tables = {"Red": entries, "Green": entries // 2, "Blue": 255 - entries}
    found: dict[str, Any] = {"photometric": "PALETTE COLOR"}
    for name, table in tables.items():
        found[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        values = table.astype(np.uint8) if bits == 8 else (table * 257).astype(order + "u2")
        found[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    return found


def enhanced(window: tuple[float, float], shared: bool) -> dict[str, Any]:
    """A window inside of the functional groups of an enhanced multi-frame image (PS3.3 C.7.6.16.2.10)."""
    voi, group = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = window
    group.FrameVOILUTSequence = Sequence([voi])
    name = "SharedFunctionalGroupsSequence" if shared else "PerFrameFunctionalGroupsSequence"
    return {name: Sequence([group]), "NumberOfFrames": 1, "SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.6.2")}


def twelve_bit_tiff(path: Path) -> None:
    """Grey in 12 bits, two pixels in three bytes."""
    levels = np.rint(GREY * (4095 / 255)).astype(np.uint16).reshape(48, 32, 2)
    first, second = levels[..., 0], levels[..., 1]
    data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    tags = [(256, 64), (257, 48), (258, 12), (259, 1), (262, 1), (273, 134), (277, 1), (278, 48), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(134 - 10 - len(entries)) + data)


def big_endian_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(values.astype(">i2"), affine, header), path)


def nifti_pair(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """The header of a pair of files, under the name of a single one."""
    nibabel.save(nibabel.Nifti1Pair(values, affine), path.with_suffix(".hdr"))
    path.with_suffix(".hdr").rename(path)
