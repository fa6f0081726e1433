"""The arms of an experiment: their names, what they mean, what each is compared with."""

from collections.abc import Collection

HOG = "hog"
CONTROLS = ("duplicated", "shuffled")

TRAINED_ARMS = {
    "real": ("real", "none"),
    "real_classical": ("real", "classical"),
    "real_ultrasound": ("real", "ultrasound"),
    "real_synthetic": ("mixed", "none"),
    "real_synthetic_classical": ("mixed", "classical"),
    "real_synthetic_ultrasound": ("mixed", "ultrasound"),
    "duplicated": ("duplicated", ""),
    "shuffled": ("shuffled", ""),
}
"""Arms that a study or a grid trains -> (`mix#arm`, `classify#augmentation`); `evaluate` adds `hog`.

Controls have the strongest augmentation of the arms beside them (`augmentation_of`).
"""
AUGMENTATIONS = ("ultrasound", "classical", "none")
"""The strongest first."""
REAL_ONLY = ("real_ultrasound", "real_classical", "real")
"""Arms without synthetic images. The best of them on a test set is the floor that synthetic images have to beat."""
USUAL = ("real", "real_ultrasound", "real_synthetic", "real_synthetic_ultrasound", *CONTROLS)
"""What a study trains unless it is told otherwise."""

MEANING = {
    "real": "real images only",
    "real_classical": "real images, classical augmentation",
    "real_ultrasound": "real images, ultrasound augmentation",
    "real_synthetic": "real and synthetic images",
    "real_synthetic_classical": "real and synthetic images, classical augmentation",
    "real_synthetic_ultrasound": "real and synthetic images, ultrasound augmentation",
    "synthetic": "synthetic images only",
    "duplicated": "control: real images repeated to the same count",
    "shuffled": "control: synthetic images with shuffled labels",
    "hog": "sanity: HOG features and logistic regression on the real images",
}


def base_arm(arm: str) -> str:
    """Return the arm without its variant: ``real_synthetic@ratio2`` -> ``real_synthetic``."""
    return arm.partition("@")[0]


def variant(arm: str) -> str:
    """Return the variant of an arm, empty when it has none."""
    return arm.partition("@")[2]


def meaning(arm: str) -> str:
    """Return what an arm is, in words."""
    words = MEANING.get(base_arm(arm), base_arm(arm).replace("_", " "))
    return f"{words} ({variant(arm)})" if variant(arm) else words


def is_candidate(arm: str) -> bool:
    """Tell whether the arm trains on synthetic images and asks for a verdict; controls do not."""
    return "synthetic" in base_arm(arm) and base_arm(arm) not in CONTROLS


def counterpart(wanted: str, arm: str, arms: Collection[str]) -> str | None:
    """Return the arm called `wanted` that belongs to `arm`: with most parts of its variant and no other part.

    A variant's parts are joined by ``-``; an arm without synthetic images has only the parts that concern it, such as
    the network. When none fits, any arm of that name serves.
    """
    own = set(variant(arm).split("-"))
    others = [name for name in arms if base_arm(name) == wanted and name != arm]
    fitting = [name for name in others if not variant(name) or set(variant(name).split("-")) <= own]
    if fitting:
        return max(fitting, key=lambda name: len(variant(name).split("-")) if variant(name) else 0)
    return others[0] if others else None


def augmentation_of(arm: str, arms: Collection[str]) -> str:
    """Return `classify#augmentation` of an arm; of a control, the strongest of the arms beside it."""
    own = TRAINED_ARMS.get(base_arm(arm), ("", "none"))[1]
    beside = {TRAINED_ARMS[base_arm(name)][1] for name in arms if base_arm(name) in TRAINED_ARMS}
    return own or next((name for name in AUGMENTATIONS if name in beside), "none")


def like(arm: str, arms: Collection[str]) -> str | None:
    """Return the arm of real images alone with the augmentation of `arm`, where there is one."""
    augmentation = augmentation_of(arm, arms)
    return counterpart("real" if augmentation == "none" else f"real_{augmentation}", arm, arms)


def strongest(arms: Collection[str]) -> str | None:
    """Return the arm of real images alone with the strongest augmentation, which pictures are drawn for."""
    found = (counterpart(name, "", arms) for name in REAL_ONLY)
    return next((arm for arm in found if arm), None)


def in_order(arms: Collection[str]) -> list[str]:
    """Return arms as they are shown: known ones first, in the order of `MEANING`."""
    known = list(MEANING)
    return sorted(arms, key=lambda arm: (known.index(base_arm(arm)) if base_arm(arm) in known else len(known), arm))
