"""Seeded mutants of good DICOM files, and the process that reads them (R2)."""

import json
import signal
import sys
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import raw_dicom as raw
from raw_dicom import GREY, compressed, dicom, short, text

SECONDS = 10


@lru_cache(maxsize=1)
def seeds() -> list[bytes]:
    """Good files of every kind that the reader knows; each one reads before it is mutated."""
    from meddap_monai.phantom.simulation import dicom_bytes

    rgb = {0x00280002: short(3), 0x00280004: text("CS", "RGB"), 0x00280006: short(0)}
    colour = np.stack([GREY, GREY // 2, 255 - GREY], -1)
    wide = {0x00280100: short(16), 0x00280101: short(12), 0x00280102: short(11)}
    window = {0x00281050: text("DS", "1000"), 0x00281051: text("DS", "800")}
    ramp = np.arange(256, dtype="<u2") * 257
    palette = {0x00280004: text("CS", "PALETTE COLOR")}
    for tag in (0x00281101, 0x00281102, 0x00281103):
        palette |= {tag: short(256, 0, 16), tag + 0x100: ("OW", ramp.tobytes())}
    shades = GREY.astype("<u2") * 16
    ybr = {0x00280002: short(3), 0x00280004: text("CS", "YBR_FULL_422"), 0x00280006: short(0)}
    two = {0x00280008: text("IS", "2")}
    return [
        dicom(),
        dicom(syntax=raw.IMPLICIT),
        dicom(syntax=raw.BIG),
        dicom({**rgb, 0x7FE00010: ("OB", colour.tobytes())}),
        dicom({**wide, **window, 0x7FE00010: ("OW", shades.tobytes())}),
        dicom({**palette}),
        dicom({**two, 0x7FE00010: ("OB", GREY.tobytes() * 2)}),
        compressed(raw.RLE, raw.rle()),
        compressed(raw.JPEG, raw.jpeg()),
        compressed(raw.JPEG, raw.jpeg(colour, subsampling=1), changes=ybr),
        compressed(raw.JPEG, raw.jpeg(), raw.jpeg(255 - GREY), changes=two),
        compressed(raw.JPEG_2000, raw.jpeg2000()),
        compressed(raw.JPEG_LS, raw.jpeg_ls()),
        dicom_bytes(simulated()[None], "someone", "1.1"),
        dicom({**segmented(), 0x7FE00010: ("OB", GREY.tobytes())}),
        dicom({**palette, 0x00280004: text("CS", "MONOCHROME2"), 0x00089205: text("CS", "COLOR")}),
        dicom({**wide, **two, **groups(), 0x7FE00010: ("OW", shades.tobytes() * 2)}),
        dicom({**two, **groups(), 0x7FE00010: ("OB", GREY.tobytes() * 2)}, raw.IMPLICIT),
        compressed(raw.JPEG_LS, raw.jpeg_ls()[:99], raw.jpeg_ls()[99:], raw.jpeg_ls(), table=bytes(8), changes=two),
    ]


def segmented() -> dict:
    """Palettes of 256 entries: a discrete, a linear and an indirect segment."""
    data = np.array([0, 2, 0, 9, 1, 126, 60000, 2, 1, 8, 0, 1, 2, 0], "<u2").tobytes()
    changes = {0x00280004: text("CS", "PALETTE COLOR")}
    for tag in (0x00281101, 0x00281102, 0x00281103):
        changes |= {tag: short(256, 0, 16), tag + 0x120: ("OW", data)}
    return changes


def groups() -> dict:
    """Functional groups: a window for all frames, a spacing for each of two."""

    def item(data: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data

    window = raw.element(0x00281050, "DS", b"1000") + raw.element(0x00281051, "DS", b"800 ")
    shared = raw.element(0x00289132, "SQ", item(window))
    spacing = raw.element(0x00289110, "SQ", item(raw.element(0x00280030, "DS", b"0.1\\0.1 ")))
    return {0x52009229: ("SQ", item(shared)), 0x52009230: ("SQ", item(spacing) * 2)}


def simulated() -> np.ndarray:
    """A small phantom."""
    from meddap_monai.phantom.simulation import simulate_image

    return simulate_image("benign", 0, size=(32, 32))


def mutant(seed: int) -> bytes:
    """One mutant: a good file with a few bytes flipped, numbers set to extremes, parts cut, doubled or moved."""
    rng = np.random.default_rng([seed, 77])
    files = seeds()
    data = bytearray(files[seed % len(files)])
    for _ in range(int(rng.integers(1, 5))):
        # most of the structure lies in the header; the pixels and codestreams get their share
        place = int(rng.integers(132, min(len(data), 900)) if rng.random() < 0.6 else rng.integers(0, len(data)))
        size = int(rng.integers(1, 9))
        kind = rng.integers(6)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + size] = rng.bytes(size)
        elif kind == 2:
            data[place : place + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"][
                rng.integers(4)
            ]
        elif kind == 3:
            del data[place : place + size]
        elif kind == 4:
            data[place:place] = data[place : place + size * 8]
        else:
            del data[max(place, 133) :]
        if len(data) < 140:
            break
    return bytes(data)


def read_mutants(first: int, last: int) -> None:
    """Read mutants first to last-1; print a line before each, so that a crash names its mutant, and a summary."""
    from meddap_monai.errors import UnreadableImage
    from meddap_monai.images.reading.dicom import read_ultrasound

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang ends the process, even inside a codec
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.dcm")
        for seed in range(first, last):
            print(seed, flush=True)
            path.write_bytes(mutant(seed))
            signal.alarm(SECONDS)
            try:
                pixels, _ = read_ultrasound(path, key=b"k" * 32)
                assert pixels.dtype == np.uint8 and pixels.ndim == 4, pixels.shape
                outcomes["array"] += 1
            except UnreadableImage:
                outcomes["refused"] += 1
            signal.alarm(0)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    read_mutants(int(sys.argv[1]), int(sys.argv[2]))
