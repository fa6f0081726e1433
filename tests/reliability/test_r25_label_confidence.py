"""R25: wrong labels are removed, right ones are kept, and nothing but training images decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meddap_monai.core.records import read_records
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RuleConfig
from meddap_monai.selection.filtering.stage import select
from tests.selection.synthetic import some_wrong, write_generated

WRONG = 0.3


def removed_and_lost(tmp_path: Path, records: Path, config: SelectConfig, per_class: int) -> tuple[float, float]:
    """Return the share of wrong labels removed and of right ones lost."""
    pairs = some_wrong(per_class, WRONG)
    generated = write_generated(tmp_path / "generated", pairs)
    kept = {
        record["id"] for record in read_records(select(config, tmp_path / "o", records=records, generated=generated))
    }
    names = [record["id"] for record in read_records(generated)]
    wrong = [name not in kept for name, (shown, target) in zip(names, pairs, strict=True) if shown != target]
    right = [name not in kept for name, (shown, target) in zip(names, pairs, strict=True) if shown == target]
    assert len(wrong) == round(WRONG * len(pairs))
    return sum(wrong) / len(wrong), sum(right) / len(right)


SCRATCH = FilterConfig(
    encoder="resnet10_tiny",
    mode="scratch",
    resolution=64,
    steps=300,
    batch=24,
    learning_rate=3e-3,
    weight_decay=1e-2,
)
"""Trained on the simulated images themselves; photographs have taught the default encoder nothing about phantoms."""


def config_of(rules: RuleConfig, **changes: int) -> SelectConfig:
    return SelectConfig(
        rules=rules, filter=replace(SCRATCH, **changes), copies=CopyConfig(action="off"), pictures=False
    )


def test_90_percent_of_wrong_labels_removed_at_15_percent_loss(
    tmp_path: Path, make_records: Callable[..., Path], record_property: Callable[[str, object], None]
) -> None:
    records = make_records({"train": 60, "val": 2})
    config = config_of(RuleConfig())
    removed, lost = removed_and_lost(tmp_path, records, config, per_class=100)
    record_property("share of wrong labels removed", removed)
    record_property("of right ones lost", lost)
    assert removed >= 0.90 and lost <= 0.15, f"removed {removed:.3f}, lost {lost:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "rules",
    [
        RuleConfig(use=("conformal",), alpha=0.12),
        RuleConfig(use=("probability",), threshold=0.3, argmax=False),
        RuleConfig(use=("conformal", "agreement"), alpha=0.1, agreement=0.4),
    ],
    ids=lambda rules: "+".join(rules.use),
)
def test_every_recommended_rule_at_full_size(
    tmp_path: Path, make_records: Callable[..., Path], record_property: Callable[[str, object], None], rules: RuleConfig
) -> None:
    records = make_records({"train": 100, "val": 2})
    removed, lost = removed_and_lost(tmp_path, records, config_of(rules, steps=400), per_class=200)
    record_property("share of wrong labels removed", removed)
    record_property("of right ones lost", lost)
    assert removed >= 0.90 and lost <= 0.15, f"removed {removed:.3f}, lost {lost:.3f}"
