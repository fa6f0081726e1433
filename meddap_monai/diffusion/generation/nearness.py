"""How near a generated image comes to the patients' images that it was made from or learned from.

An image made from a patient's image is derived from it and says so, whatever became of it. One made from words says so
where it comes as near to a training image as that image's own edited copies do. Measured on real breast images with the
embedded base: see ``docs/generation.md``.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import crop_top
from meddap_monai.images.likeness import Known, fingerprint, from_text
from meddap_monai.images.provenance import ALIKE, Images, together
from meddap_monai.images.reading.recorded import open_recorded


class NearnessCheck:
    """Holds generated images against fingerprints of training images.

    Args:
        saw: what base and adapters were trained on, see `provenance.training_images`.
        records: full records of the real training images, which may be sources.
        size: height and width of generated images; training images are also held against them as `crop_top` cuts them.
    """

    def __init__(
        self, saw: Sequence[Images], records: Iterable[Record] = (), size: tuple[int, int] = (128, 128)
    ) -> None:
        names, looks = [], []
        for record in records:
            picture = open_recorded(record)
            names += [record["id"]] * 2
            looks += [fingerprint(np.asarray(one)) for one in (picture, crop_top(picture, *size))]
        others = {digest: look for digest, look in together(*saw).items() if look}
        self._names = [*names, *(digest[:12] for digest in others)]
        levels = np.stack([*looks, *from_text(list(others.values()))]) if self._names else None
        self._known = Known(levels) if levels is not None else None

    def __call__(self, images: Sequence[np.ndarray], modes: Sequence[str]) -> list[dict[str, Any]]:
        """Return per image what its record says: ``derived`` and ``nearest``, a record's id or how a hash begins.

        Args:
            images: (H, W) or (H, W, 3) uint8.
            modes: text, image or inpaint.
        """
        if self._known is None:
            return [facts(mode, None) for mode in modes]
        found = self._known.nearest(images)
        return [
            facts(mode, {"training": self._names[number], "correlation": round(value, 3)})
            for mode, (number, value) in zip(modes, found, strict=True)
        ]


def facts(mode: str, nearest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``derived`` (from a patient's image) and ``nearest`` of an image made in a mode."""
    return {"derived": mode != "text" or is_near(nearest), "nearest": nearest}


def is_near(nearest: Mapping[str, Any] | None) -> bool:
    """Tell whether an image is as near to a training image as few images of other patients are."""
    return nearest is not None and nearest["correlation"] >= ALIKE


def count_derived(made: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many images are ``derived`` from a patient's image, and how many of these are ``near_copies``."""
    near = Counter(is_near(one["nearest"]) for one in made if one["derived"])
    return {"derived": near.total(), "near_copies": near[True]}


def derived_text(counts: Mapping[str, int], of: int) -> str:
    """Return what a command says about `count_derived`; nothing where no image is derived."""
    if not counts.get("derived"):
        return ""
    return (
        f"{counts['derived']} of {of} images are derived from a patient's image, {counts['near_copies']} of them near "
        "copies; their marks say so, do not pass them on as images that show no patient"
    )


def refuse_near(made: Iterable[Mapping[str, Any]], where: str = "generate") -> None:
    """Stop where a strength leaves half of its images, or more, as they were.

    Inpainting keeps the rest of an image by its nature; its images are marked, not refused.

    Args:
        made: fields ``synthetic`` of images of one run.
        where: what the message names: generate or generator.

    Raises:
        ConfigurationError: names the strength, how near its images are, and what to do.
    """
    by_strength: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
    for one in made:
        if one["mode"] == "image":
            by_strength[float(one["strength"])].append(one)
    for strength, ones in sorted(by_strength.items()):
        near = [one for one in ones if is_near(one["nearest"])]
        if 2 * len(near) >= len(ones):
            raise ConfigurationError(too_near(where, strength, len(near), len(ones)))


def too_near(where: str, strength: float, near: int, of: int) -> str:
    """Return the sentence about a strength that leaves its images as they were."""
    return (
        f"{where}#strength: {strength:g} leaves {near} of {of} images near copies of a patient's image (correlation of "
        f"{ALIKE} and more); raise the strength, or ask for them by name with {where}#near_copies=true: files that are "
        "written say that they are derived from a patient's image"
    )


def image_like(made: np.ndarray, source: np.ndarray) -> dict[str, Any]:
    """Return ``nearest`` of an image made from the image at hand."""
    ((_, correlation),) = Known(fingerprint(source)[None]).nearest([made])
    return {"training": "at hand", "correlation": round(correlation, 3)}
