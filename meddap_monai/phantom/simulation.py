"""Simulated breast ultrasound: images from a class name and a seed, for demos and tests.

The formation model is the usual one for B-mode images: fully developed speckle (the envelope of filtered complex
Gaussian scatterers, Rayleigh distributed) whose lateral size grows away from the focus, loss along each scan line,
log compression into a limited dynamic range. Two scanners exist, "own" and "unseen"; they differ in frequency, probe
geometry, gain, depth fall-off, contrast and burned-in marks, as two hospitals do. No real image is involved.

`write_phantom_study` stores such images the way a scanner does: a whole screen with burned-in text around the image,
one B-mode region with its spacing, patient folders, a clip, and some files that no reader can read.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from meddap_monai import store
from meddap_monai.errors import ConfigurationError
from meddap_monai.phantom.scanner import SCANNERS, compress, draw_depth_scale, scan_convert
from meddap_monai.phantom.tissue import CLASSES, simulate_tissue


def simulate_image(
    class_name: str,
    seed: int,
    scanner: str = "own",
    *,
    size: tuple[int, int] = (128, 128),
    patient_seed: int | None = None,
) -> np.ndarray:
    """Simulate one B-mode image.

    Args:
        class_name: "benign", "malignant" or "normal".
        seed: equal seeds give equal images.
        scanner: "own" or "unseen".
        size: rows and columns of the image, 16 to 4096 each.
        patient_seed: images with one patient seed share anatomy (layer depths, echo levels); default: the image's seed.

    Returns:
        (H, W) uint8 image, 0 outside the probe's field of view.

    Raises:
        ConfigurationError: an unknown class or scanner, or a size out of range.
    """
    _check(class_name, scanner, size)
    device = SCANNERS[scanner]
    code = (CLASSES.index(class_name), sorted(SCANNERS).index(scanner))
    view = np.random.default_rng([abs(int(seed)), 1, *code])
    patient = np.random.default_rng([abs(int(seed if patient_seed is None else patient_seed)), 2])
    tissue = simulate_tissue(class_name, size, patient, view)
    loss = np.cumsum(tissue.attenuation_db, axis=0) / size[0]
    loss = loss - loss.mean(axis=1, keepdims=True) * 0.85 + device.falloff_db * np.linspace(0, 1, size[0])[:, None]
    image = compress(tissue.echo_db - gaussian_filter(loss, (0, size[1] / 120)), device, view)
    if device.fan:
        image = scan_convert(image, device.fan)
    if device.ticks and view.random() < 0.7:
        draw_depth_scale(image)
    return np.rint(image).astype(np.uint8)


def _check(class_name: str, scanner: str, size: tuple[int, int]) -> None:
    if class_name not in CLASSES:
        raise ConfigurationError(f"simulate_image: class_name is {class_name!r}, expected one of {', '.join(CLASSES)}")
    if scanner not in SCANNERS:
        raise ConfigurationError(f"simulate_image: scanner is {scanner!r}, expected one of {', '.join(SCANNERS)}")
    if len(size) != 2 or not all(16 <= int(side) <= 4096 for side in size):
        raise ConfigurationError(f"simulate_image: size is {size}, expected two sides of 16 to 4096 pixels")


SCREEN = (208, 256)
"""Rows and columns of the simulated scanner screen."""
AREA = (32, 40)
"""First row and column of the image area on the screen."""
CM_PER_PIXEL = 0.03125
"""Physical size of a pixel of the 128 px image area (4 cm depth)."""
UID_ROOT = "1.2.826.0.1.3680043.8.498.77."
"""Root of the simulated UIDs (below pydicom's own root for examples)."""


def write_phantom_study(
    folder: Path | str,
    patients_per_class: int,
    images_per_patient: int,
    seed: int,
    scanner: str = "own",
    broken: int = 0,
    clips: int = 0,
) -> Path:
    """Write a simulated study as ultrasound DICOM files, ``<folder>/<class>/<patient>/IM<n>[.dcm]``.

    Patient names and ids are canaries (they hold the word CANARY) and are also burned in outside the image region.
    The own scanner stores MONOCHROME2, the unseen one grey as RGB; every fourth file has no suffix.

    Args:
        folder: made when missing.
        patients_per_class: patients of each of the three classes.
        images_per_patient: stills per patient.
        seed: equal seeds give equal pixels and equal identifiers.
        scanner: "own" or "unseen".
        broken: how many files to add that must be rejected (truncated, not DICOM, header zero, wrong modality, again).
        clips: how many of the first patients get a clip of 8 frames in addition.

    Returns:
        The folder.
    """
    folder = Path(folder)
    number = 0
    for class_name in CLASSES:
        for patient in range(patients_per_class):
            name = f"CANARY-{scanner}-{class_name}-{seed * 10_000 + patient:03d}"  # another seed, another patient
            anatomy = seed * 1_000_003 + CLASSES.index(class_name) * 10_007 + patient
            for still in range(images_per_patient):
                pixels = simulate_image(class_name, anatomy * 101 + still, scanner, patient_seed=anatomy)
                suffix = "" if number % 4 == 3 else ".dcm"
                path = folder / class_name / f"patient{patient:03d}" / f"IM{still:04d}{suffix}"
                store.write_atomic(path, dicom_bytes(pixels[None], name, f"{seed}.{number}", scanner))
                number += 1
            if patient * len(CLASSES) + CLASSES.index(class_name) < clips:
                frames = _clip(class_name, anatomy, scanner)
                path = folder / class_name / f"patient{patient:03d}" / "CLIP.dcm"
                store.write_atomic(path, dicom_bytes(frames, name, f"{seed}.{number}", scanner))
                number += 1
    for extra in range(broken):
        _write_broken(folder / CLASSES[extra % len(CLASSES)] / "patient000", extra, seed, scanner)
    return folder


def write_phantom_pictures(
    folder: Path | str, patients_per_class: int, images_per_patient: int, seed: int, scanner: str = "own"
) -> Path:
    """Write the same simulated stills as colour PNG files, ``<folder>/<class>/<patient>/IM<n>.png``, (H, W, 3) uint8.

    A fixed palette from dark red over orange to white stands for a colour modality such as fundus photography; no
    anatomy of such a modality is simulated. Arguments as in `write_phantom_study`.
    """
    folder = Path(folder)
    level = np.linspace(0.0, 1.0, 256)[:, None]
    palette = np.rint(255 * np.clip(level * [1.6, 1.1, 0.9] - [0.0, 0.1, 0.25], 0, 1)).astype(np.uint8)
    for class_name in CLASSES:
        for patient in range(patients_per_class):
            anatomy = seed * 1_000_003 + CLASSES.index(class_name) * 10_007 + patient
            for still in range(images_per_patient):
                pixels = simulate_image(class_name, anatomy * 101 + still, scanner, patient_seed=anatomy)
                path = folder / class_name / f"patient{patient:03d}" / f"IM{still:04d}.png"
                with store.atomic_path(path) as temporary:
                    Image.fromarray(palette[pixels]).save(temporary, format="PNG")
    return folder


def _clip(class_name: str, anatomy: int, scanner: str) -> np.ndarray:
    """A probe held almost still: (8, H, W) uint8 frames that drift by a pixel and differ in noise."""
    still = simulate_image(class_name, anatomy * 101 + 97, scanner, patient_seed=anatomy).astype(float)
    noise = np.random.default_rng([anatomy, 3])
    frames = [np.roll(still, frame // 3, axis=1) + noise.normal(0, 4, still.shape) for frame in range(8)]
    return np.clip(frames, 0, 255).astype(np.uint8) * (still > 0)


def dicom_bytes(frames: np.ndarray, patient: str, number: str, scanner: str = "own", modality: str = "US") -> bytes:
    """Return a whole ultrasound DICOM file.

    Args:
        frames: (F, H, W) uint8 image area; F above 1 makes a multi-frame file.
        patient: patient id and name, also burned in outside of the region.
        number: digits and dots that make the instance's UID.
        scanner: "own" or "unseen".
        modality: Modality (0008,0060).
    """
    import io

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    screen = np.stack([_screen(frame, patient) for frame in frames])
    dataset = Dataset()
    kind = "1.2.840.10008.5.1.4.1.1.3.1" if len(frames) > 1 else "1.2.840.10008.5.1.4.1.1.6.1"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(kind)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(UID_ROOT + number)
    dataset.StudyInstanceUID = f"{UID_ROOT}{number.split('.')[0]}.{sum(patient.encode())}"
    dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.1"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, f"{patient}^CANARY", "19700101"
    dataset.InstitutionName, dataset.Modality = "CANARY HOSPITAL", modality
    dataset.Manufacturer, dataset.ManufacturerModelName = "Simulated", SCANNERS[scanner].model
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    dataset.BodyPartExamined = "BREAST"
    dataset.Rows, dataset.Columns = SCREEN
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if len(frames) > 1:
        dataset.NumberOfFrames, dataset.FrameTime = len(frames), "33.3"
        dataset.FrameIncrementPointer = 0x00181063
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if scanner == "unseen":
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        screen = np.repeat(screen[..., None], 3, axis=-1)
    dataset.SequenceOfUltrasoundRegions = [_region(frames.shape[1:])]
    dataset.PixelData = screen.tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _screen(image: np.ndarray, text: str) -> np.ndarray:
    """The whole screen (rows, columns) uint8: burned-in text around the image."""
    screen = Image.new("L", SCREEN[::-1], 0)
    draw = ImageDraw.Draw(screen)
    draw.text((4, 2), text, fill=230)
    draw.text((4, 16), "CANARY HOSPITAL  MI 0.9", fill=180)
    draw.text((176, 60), "B  G 52%", fill=200)
    draw.text((176, 76), "DR 60", fill=200)
    draw.text((4, 180), "BREAST  01 Jan 1970", fill=200)
    screen.paste(Image.fromarray(image), AREA[::-1])
    return np.asarray(screen)


def _region(shape: tuple[int, ...]) -> Any:
    """The one B-mode region of the screen (PS3.3 C.8.5.5)."""
    from pydicom.dataset import Dataset

    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinY0, region.RegionLocationMinX0 = AREA
    region.RegionLocationMaxY1 = AREA[0] + shape[0] - 1
    region.RegionLocationMaxX1 = AREA[1] + shape[1] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = CM_PER_PIXEL
    return region


def _write_broken(folder: Path, number: int, seed: int, scanner: str) -> None:
    """Write one file that no reader can accept."""
    pixels = np.zeros((1, 128, 128), np.uint8)
    whole = dicom_bytes(pixels, "CANARY-broken", f"{seed}.999{number}", scanner)
    kinds = {
        "truncated.dcm": lambda: whole[: len(whole) // 2],
        "notdicom.dcm": lambda: b"this is a text file with a DICOM name\n" * 20,
        "header_zero.dcm": lambda: b"\0" * 132 + whole[132:],
        "xray.dcm": lambda: dicom_bytes(pixels, "CANARY-broken", f"{seed}.998{number}", scanner, modality="DX"),
    }
    name = list(kinds)[number % len(kinds)]
    store.write_atomic(folder / f"BROKEN{number}_{name}", kinds[name]())
