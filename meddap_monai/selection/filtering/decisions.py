"""From evidence to a decision per image: all rules, then copies, then quotas; every reason is kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.errors import EmptyClass
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Nearest, Thresholds, flag
from meddap_monai.selection.filtering.rules import RULES, Evidence, RuleConfig, Verdict, within_quota

COPY, QUOTA = "copy", "quota"


@dataclass(frozen=True)
class CopyCheck:
    """What the copy check found.

    Attributes:
        nearest: of the N synthetic images.
        thresholds: from the real images.
        copied: (N,) bool, nearer than any threshold.
        training: M full real records that `nearest` points into.
    """

    nearest: Nearest
    thresholds: Thresholds
    copied: np.ndarray
    training: Sequence[Record]


@dataclass(frozen=True)
class Decision:
    """What happens to each of N synthetic images.

    Attributes:
        kept: (N,) bool.
        reasons: per image, the names of the rules that removed it, in their order; empty when kept.
        scores: name -> (N,) float64.
        verdicts: rule -> verdict.
        copies: of the copy check, or None when it is off.
    """

    kept: np.ndarray
    reasons: list[list[str]]
    scores: dict[str, np.ndarray]
    verdicts: dict[str, Verdict]
    copies: CopyCheck | None


def decide(
    evidence: Evidence, rules: RuleConfig, copies: CopyCheck | None, action: str = "drop", trusted: bool = True
) -> Decision:
    """Apply every rule, drop copies, keep the best within the quota.

    A filter that cannot tell the classes apart has no threshold that means anything: then only the order is used.

    Args:
        evidence: what is known about the images.
        rules: which rules and thresholds.
        copies: of the copy check, or None.
        action: of `CopyConfig`.
        trusted: whether the filter tells the classes apart; else `RuleConfig.fallback` takes the rules' place.
    """
    verdicts = {name: RULES[name].judge(evidence, rules) for name in rules.use}
    count = len(evidence.labels)
    by_thresholds = trusted or rules.fallback is None
    failed = {name: ~verdict.keep for name, verdict in verdicts.items()} if by_thresholds else {}
    if copies is not None and action == "drop":
        failed[COPY] = copies.copied
    kept = ~np.logical_or.reduce([*failed.values(), np.zeros(count, bool)])
    share = 1.0 if by_thresholds or rules.fallback is None or rules.quota is not None else rules.fallback
    if rules.quota is not None or share < 1:
        order = next(iter(verdicts.values())).order if verdicts else np.zeros(count)
        chosen = within_quota(order, kept, evidence.labels, rules.quota, share)
        failed[QUOTA] = kept & ~chosen
        kept = chosen
    reasons = [[name for name, rows in failed.items() if rows[row]] for row in range(count)]
    scores = {name: value for verdict in verdicts.values() for name, value in verdict.scores.items()}
    return Decision(kept, reasons, scores, verdicts, copies)


def check_copies(nearest: Nearest, thresholds: Thresholds, training: Sequence[Record]) -> CopyCheck:
    """Mark as copies what comes nearer than the thresholds."""
    return CopyCheck(nearest, thresholds, flag(nearest.distances, thresholds.values), training)


def selection_field(decision: Decision, row: int, rules: RuleConfig, copies: CopyConfig) -> dict[str, Any]:
    """Return the record's ``selection`` field (``docs/contracts.md``)."""
    passed = [*rules.use, *([COPY] if copies.action == "drop" else [])] or ["none"]
    found: dict[str, Any] = {
        "kept": bool(decision.kept[row]),
        "rule": "+".join(decision.reasons[row] or passed),
        "scores": {name: round(float(value[row]), 6) for name, value in decision.scores.items()},
    }
    if decision.copies is not None:
        check = decision.copies
        found["nearest"] = {
            "id": check.training[int(check.nearest.index[row])]["id"],
            "distances": {name: round(float(value[row]), 6) for name, value in check.nearest.distances.items()},
        }
    return found


def require_every_class(decision: Decision, synthetic: Sequence[Record], where: str) -> None:
    """Stop when nothing is left of a class that was generated.

    Raises:
        EmptyClass: names the class, what removed its images and what to change.
    """
    asked = Counter(record["class_name"] for record in synthetic)
    left = Counter(record["class_name"] for record, kept in zip(synthetic, decision.kept, strict=True) if kept)
    for name in sorted(asked):
        if left[name]:
            continue
        rows = [row for row, record in enumerate(synthetic) if record["class_name"] == name]
        reasons = Counter(decision.reasons[row][0] for row in rows)
        told = ", ".join(f"{count} by {reason}" for reason, count in reasons.most_common())
        raise EmptyClass(
            f"{where}: class {name!r}: 0 of {asked[name]} synthetic images kept ({told}), expected at least 1. "
            f"{_advice(decision, rows, reasons)}; dropped.csv and figures/ show every image and its scores"
        )


def _advice(decision: Decision, rows: list[int], reasons: Counter[str]) -> str:
    worst = reasons.most_common(1)[0][0]
    if worst == COPY:
        return (
            "The generator repeats its training images: train it for fewer steps; for image-to-image raise the "
            "strength, or set select#copies#own_source to skip"
        )
    best = max(float(decision.scores[worst][row]) for row in rows) if worst in decision.scores else 0.0
    if worst in RULES and (key := RULES[worst].threshold):
        return (
            f"Its best {worst} is {best:.3f}: lower select#rules#{key}, choose other rules, "
            "or train the adapter longer on this class"
        )
    return "Choose other rules, or train the adapter longer on this class"
