"""R3: what reading a file costs, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import meddap_monai

READ = """
import json, resource, sys, time
from functools import partial
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.plain import read_plain
import nibabel.orientations, openjpeg
from PIL import TiffImagePlugin
read = read_plain if sys.argv[2] == "plain" else partial(read_ultrasound, key=b"k" * 32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()  # the load of other programs does not count; a hang meets the timeout
try:
    read(sys.argv[1], frames=sys.argv[3])
    outcome = "read"
except UnreadableImage as error:
    outcome = str(error)
seconds = time.process_time() - begin
print(json.dumps([outcome, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def read_cheaply(path: Path, kind: str = "plain", frames: str = "all") -> str:
    """Return "read" or the refusal of a file, "plain" or "dicom", which must come within a second and 100 MB."""
    environment = os.environ | {"PYTHONPATH": str(Path(meddap_monai.__file__).parents[1])}
    words = [sys.executable, "-c", READ, str(path), kind, frames]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr[-1500:]
    outcome, seconds, megabytes = json.loads(result.stdout)
    assert seconds < 1 and megabytes < 100
    return outcome
