"""How copies are found and what happens to them: the settings `select#copies`."""

from dataclasses import dataclass
from typing import Annotated

from meddap_monai.core.constraints import Choice, Count, Range, Share, settings

DISTANCES = ("correlation", "tiles", "features")


@dataclass(frozen=True)
@settings("select#copies")
class CopyConfig:
    """How copies are found and what happens to them.

    Attributes:
        action: "drop" them, "report" them only, or "off".
        distances: of `DISTANCES`; an image is a copy when any of them falls below its threshold. All are measured and
            recorded.
        features: extractor of the distance "features", see `meddap_monai.encoders.extractors`. One that was trained to
            tell these classes, as the filter is, would call any two typical images of a class copies.
        percentile: share in percent of real images of other patients that would be called copies.
        candidates: training images per synthetic image that are compared closely.
        same_picture: correlation from which two real images of "different patients" count as one picture; such pairs
            are listed and do not lower the thresholds.
        own_source: image-to-image starts from a training image: "check" against it too, or "skip" that one pair.
        views: compare with the training images also flipped and cropped to 90 %.
    """

    action: Annotated[str, Choice(("drop", "report", "off"))] = "drop"
    distances: Annotated[tuple[Annotated[str, Choice(DISTANCES)], ...], Count()] = DISTANCES
    features: str = "efficientnet_lite0"
    percentile: Annotated[float, Range(0.01, 50)] = 1.0
    candidates: Annotated[int, Range(1, 64)] = 4
    same_picture: Share = 0.95
    own_source: Annotated[str, Choice(("check", "skip"))] = "check"
    views: bool = True
