"""What to index and how: the configuration of the stage ``index``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from meddap_monai.core.constraints import Choice, Range, here, settings
from meddap_monai.core.contract import SPLITS
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.reading.frames import check_policy

KEPT = (
    *("frame", "frames", "frame_time_ms", "spacing_mm", "device", "centre", "modality", "region", "deidentified"),
    "cluster",
)
"""Keys of ``meta`` that no column may take."""


@dataclass(frozen=True)
@settings("index")
class IndexConfig:
    """What to index and how.

    Attributes:
        source: folder of DICOM (with or without suffix), PNG, JPEG, TIFF, BMP or NIfTI files.
        labels: "folder" (first folder below the source), "csv" (a table) or "attribute" (a DICOM keyword).
        table: CSV or TSV file, relative to the source or absolute; labels "csv".
        image_column: its column of file names relative to the source.
        label_column: its column of class names.
        group_column: its column of patients or groups; default: "group", else "patient", where the table has one.
        centre_column: its column of centres, hospitals or countries, kept as it stands for tables by subgroup; opt in
            only where these names may be shown.
        device_column: its column of devices, kept likewise.
        columns: its further columns to keep likewise, such as ("birads",); `adapt#columns` makes words of them.
        where: column -> value that rows must have, such as ``{role: unseen}``.
        attribute: DICOM keyword, such as "BodyPartExamined"; labels "attribute".
        classes: class names in the order of their labels; files of other classes are rejected. Default: all, sorted.
        modality: "US" or "any" (every 2-D image).
        frames: of clips: first, middle, last, all, every N, evenly K, different K.
        region: "b-mode" crops DICOM images to the region that they declare, "full" takes whole frames (not
            de-identified). Files that declare none, or the whole screen, are rejected unless one of the next is set.
        guess_region: crop these files to the scan that is found in their pixels; whether a name is left is not known.
        full_frame: take the whole frames of these files; with `guess_region`, where no scan is found.
        window: "file", "none" or "minmax"; see `read_ultrasound`.
        split: put everything into this split, such as "unseen"; empty: use `draw` or `fractions`.
        fractions: split -> share of the groups.
        draw: ``{train: 30, val: 10}`` images per class, the rest is test; wins over `fractions`.
        masks: "reject" leaves out masks beside their images (``x_mask.png`` beside ``x.png``), "keep" takes them.
        follow_links: follow links that lead out of the source.
        near_duplicates: "group" keeps almost equal pictures in one split, "off" does not look.
        correlation: of thumbnails, from which two pictures are almost equal.
        workers: reading processes; 0 reads in this process, where a crashing codec ends the run.
        timeout: seconds for one file.
        memory: MB that a reading process may take for one file.
        key_file: pseudonym key; default: the user's, made once.
        seed: of the split.
    """

    source: Path
    labels: Annotated[str, Choice(("folder", "csv", "attribute"))] = "folder"
    table: Path = Path("index.csv")
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    centre_column: str | None = None
    device_column: str | None = None
    columns: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    attribute: str = ""
    classes: tuple[str, ...] = ()
    modality: Annotated[str, Choice(("US", "any"))] = "US"
    frames: str = "middle"
    region: Annotated[str, Choice(("b-mode", "full"))] = "b-mode"
    guess_region: bool = False
    full_frame: bool = False
    window: Annotated[str, Choice(("file", "none", "minmax"))] = "file"
    split: Annotated[str, Choice(("", *SPLITS))] = ""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.6, "val": 0.2, "test": 0.2})
    draw: Mapping[str, int] | None = None
    masks: Annotated[str, Choice(("reject", "keep"))] = "reject"
    follow_links: bool = False
    near_duplicates: Annotated[str, Choice(("group", "off"))] = "group"
    correlation: Annotated[float, Range(0.5, 1)] = 0.98
    workers: Annotated[int, Range(0, 256)] = 1
    timeout: Annotated[float, Range(0.1, 3600)] = 60.0
    memory: Annotated[int, Range(64, 1_000_000)] = 3072
    key_file: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the key, what it holds and what was expected.
        """
        check_policy(self.frames, here("frames"))
        if self.labels == "attribute" and not _is_keyword(self.attribute):
            raise ConfigurationError(
                f"{here('attribute')} is {self.attribute!r}, expected a DICOM keyword such as BodyPartExamined"
            )
        for name in self.columns:
            if name in KEPT:
                raise ConfigurationError(
                    f"{here('columns')}: {name!r} is a fact that the index itself writes; rename the column, or give "
                    "centre_column or device_column"
                )
        shares = self.fractions.values()
        if not set(self.fractions) <= set(SPLITS) or not abs(sum(shares) - 1) <= 1e-6 or min(shares) < 0:
            raise ConfigurationError(
                f"{here('fractions')} is {dict(self.fractions)}, expected shares of splits that sum to 1, each 0 to 1"
            )
        if self.draw is not None and (set(self.draw) != {"train", "val"} or min(self.draw.values()) < 0):
            raise ConfigurationError(
                f"{here('draw')} is {dict(self.draw)}, expected images per class for train and val"
            )


def _is_keyword(text: str) -> bool:
    """Tell whether a text is a keyword of the DICOM dictionary (PS3.6), which is loaded only where one is given."""
    from pydicom.datadict import tag_for_keyword

    return bool(text) and tag_for_keyword(text) is not None
