"""How files are read and answered: the configuration of `meddap infer`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from meddap_monai.core.constraints import Choice, Range, Share, here, settings
from meddap_monai.engines.config import EngineConfig
from meddap_monai.images.reading.frames import check_policy


@dataclass(frozen=True)
@settings("infer")
class InferConfig:
    """How files are read and probabilities are made, and when there is no answer.

    Attributes:
        frames: which frames of a clip count: first, middle, last, all, "every N", "evenly K".
        modality: ``US`` rejects a DICOM of another modality, as the index does, ``any`` takes every 2-D image.
        synthetic: ``reject`` leaves out files that are marked as synthetic, as the index does, ``keep`` takes them.
        region: ``b-mode`` cuts a DICOM to its ultrasound region, as the index does; ``full`` takes the whole screen.
        full_frame: take the whole screen of a DICOM that has no region, instead of rejecting it.
        masks: ``reject`` leaves out masks beside their images, as the index does, ``keep`` takes them.
        follow_links: follow links that lead out of the source.
        rows: what a row of the table is about: ``frame``, ``file`` (mean of its frames) or ``patient`` (mean of the
            files; by the pseudonym that the index gives, a file that names no patient by itself).
        key_file: pseudonym key, for rows of patients; default: the user's, made once.
        answer: ``set`` gives a class only where the prediction set holds one class and nothing is flagged, ``always``
            the most probable class.
        coverage: share of new patients' images whose prediction set is to hold the right class.
        outliers: share of new patients' images, of the kind trained on, that may be flagged as out of distribution.
        calibrated: report probabilities at the temperature that was fitted on the validation images.
        device: torch device.
        engine: where files are read and judged; see `EngineConfig`.
    """

    frames: str = "all"
    modality: Annotated[str, Choice(("US", "any"))] = "US"
    synthetic: Annotated[str, Choice(("reject", "keep"))] = "reject"
    region: Annotated[str, Choice(("b-mode", "full"))] = "b-mode"
    full_frame: bool = False
    masks: Annotated[str, Choice(("reject", "keep"))] = "reject"
    follow_links: bool = False
    rows: Annotated[str, Choice(("frame", "file", "patient"))] = "file"
    key_file: Path | None = None
    answer: Annotated[str, Choice(("set", "always"))] = "set"
    coverage: Annotated[float, Range(0.5, 0.999)] = 0.9
    outliers: Share = 0.05
    calibrated: bool = True
    device: str = "cpu"
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        check_policy(self.frames, here("frames"))
