"""R1: of 60 malformed files each ends in `UnreadableImage` with a reason, within 2 s and 512 MB."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from malformed import Case, every_case

CASES = every_case()
READ = """
import json, resource, sys, time
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.plain import read_plain
import pydicom.pixels.decoders, pylibjpeg, openjpeg, libjpeg, rle
base = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + 512 * 2**20,) * 2)
out = []
for path in sys.argv[1:]:
    begin = time.process_time()  # the load of other programs does not count; a hang meets the timeout
    try:
        pixels, _ = read_ultrasound(path, key=b"k" * 32)
        outcome = ["array", list(pixels.shape)]
    except UnreadableImage as error:
        outcome = ["refused", str(error)]
    except BaseException as error:
        outcome = ["other", repr(error)]
    out.append([*outcome, time.process_time() - begin])
print(json.dumps(out))
"""


def test_there_are_sixty_in_their_families() -> None:
    expected = {
        "not DICOM": 6,
        "truncated": 8,
        "header": 12,
        "type": 8,
        "pixels": 8,
        "codec": 8,
        "limits": 6,
        "objects": 4,
    }
    assert Counter(case.family for case in CASES) == expected
    assert len({case.name for case in CASES}) == 60


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What one process with 512 MB above its start makes of all of them."""
    folder = tmp_path_factory.mktemp("malformed")
    paths = []
    for number, case in enumerate(CASES):
        path = folder / f"{number:02d}.dcm"
        case.put(path)
        paths.append(str(path))
    result = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(zip([case.name for case in CASES], json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.name}")
def test_a_named_error_in_time(case: Case, outcomes: dict[str, list]) -> None:
    kind, detail, seconds = outcomes[case.name]
    assert kind == case.outcome, detail
    assert seconds < 2
    assert case.says in detail
    assert ".dcm: " in detail and "Traceback" not in detail


def test_the_material_is_only_bad_where_it_says_so(tmp_path: Path) -> None:
    """The same builder makes readable files: what is refused above is refused for its one fault."""
    import numpy as np
    import raw_dicom as raw

    from meddap_monai.images.reading.dicom import read_ultrasound

    good = {
        "explicit": raw.dicom(),
        "implicit": raw.dicom(syntax=raw.IMPLICIT),
        "big": raw.dicom(syntax=raw.BIG),
        "rle": raw.compressed(raw.RLE, raw.rle()),
        "jpeg2000": raw.compressed(raw.JPEG_2000, raw.jpeg2000()),
        "jpegls": raw.compressed(raw.JPEG_LS, raw.jpeg_ls()),
        "jpeg": raw.compressed(raw.JPEG, raw.jpeg()),
    }
    for name, data in good.items():
        path = tmp_path / name
        path.write_bytes(data)
        pixels, _ = read_ultrasound(path, key=b"k" * 32)
        largest = np.abs(pixels[0, 0].astype(int) - raw.GREY).max()
        assert largest <= (12 if name == "jpeg" else 0), name
