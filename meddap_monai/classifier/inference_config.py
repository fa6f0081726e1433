"""How files are read and answered: the configuration of `meddap infer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meddap_monai.core.constraints import Choice, here, settings
from meddap_monai.images.reading.frames import check_policy


@dataclass(frozen=True)
@settings("infer")
class InferConfig:
    """How files are read and probabilities are made.

    Attributes:
        frames: which frames of a clip count: first, middle, last, all, "every N", "evenly K"; their mean is reported.
        region: ``b-mode`` cuts a DICOM to its ultrasound region, as the index does; ``full`` takes the whole screen.
        full_frame: take the whole screen of a DICOM that has no region, instead of rejecting it.
        masks: ``reject`` leaves out masks beside their images, as the index does, ``keep`` takes them.
        follow_links: follow links that lead out of the source.
        calibrated: divide the logits by the temperature that was fitted on the validation images.
        device: torch device.
    """

    frames: str = "all"
    region: Annotated[str, Choice(("b-mode", "full"))] = "b-mode"
    full_frame: bool = False
    masks: Annotated[str, Choice(("reject", "keep"))] = "reject"
    follow_links: bool = False
    calibrated: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_policy(self.frames, here("frames"))
