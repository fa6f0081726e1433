"""Grouped folds: whole patients are left out, so that nothing is judged by what has seen its patient."""

from collections.abc import Sequence

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import RecordsError


def assign_folds(records: Sequence[Record], folds: int, seed: int) -> np.ndarray:
    """Deal whole patients into folds, each class evenly.

    Args:
        records: real training records.
        folds: how many; fewer when a class has fewer patients.
        seed: of the order in which patients are dealt.

    Returns:
        (N,) int fold numbers; no patient is in two.

    Raises:
        RecordsError: a class has images of a single patient only, so nothing can be left out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([record["label"] for record in records])
    groups = np.array([record["patient"] for record in records])
    for label in np.unique(labels):
        count = len(np.unique(groups[labels == label]))
        if count < 2:
            name = records[int(np.flatnonzero(labels == label)[0])]["class_name"]
            raise RecordsError(
                f"class {name!r}: real training images of {count} patient or group, expected at least 2 to leave one "
                "out and judge it; add patients, or leave the class out"
            )
        folds = min(folds, count)
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=derive_seed(seed, "select/folds") % 2**32)
    numbers = np.empty(len(records), int)
    for number, (_, held_out) in enumerate(dealer.split(labels, labels, groups)):
        numbers[held_out] = number
    for number in np.unique(numbers):
        missing = set(labels) - set(labels[numbers != number])
        if missing:
            name = next(record["class_name"] for record in records if record["label"] in missing)
            raise RecordsError(
                f"class {name!r}: all its patients fall into one part of the training images, expected them spread; "
                "add patients of this class, or choose another seed"
            )
    return numbers
