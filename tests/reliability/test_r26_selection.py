"""R26: the same configuration twice gives byte-equal outputs of selection, whatever ran before."""

from pathlib import Path

import numpy as np
import torch

from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RULES, RuleConfig
from meddap_monai.selection.filtering.stage import select
from tests.selection.synthetic import CLASSES, write_generated

RULE = RuleConfig(use=tuple(RULES), threshold=0.0, argmax=False, alpha=0.0, agreement=0.0, guard=0.0, quota=4)
FILTER = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=2, steps=12, batch=12, views=4)


def test_select_twice_is_byte_equal(tmp_path: Path, simulated_records: Path) -> None:
    pairs = [(name, name) for name in CLASSES for _ in range(12)]
    generated = write_generated(tmp_path / "generated", pairs)
    found = []
    for number, threads in enumerate((1, 3)):
        torch.manual_seed(number)
        np.random.seed(number)
        folder = tmp_path / str(number)
        config = SelectConfig(rules=RULE, filter=FILTER, threads=threads, seed=5)
        try:
            select(config, folder, records=simulated_records, generated=generated)
        except Exception as error:
            assert "0 of 12 synthetic images kept" in str(error)
        files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.csv"), folder / "selection.json"])
        files += sorted([*(folder / "filter").glob("*.safetensors"), *(folder / "features").glob("*.npy")])
        files += sorted((folder / "figures").glob("*.png"))
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert len(found[0]) > 15 and found[0].keys() == found[1].keys()
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []


def test_selection_leaves_global_randomness_alone(tmp_path: Path, simulated_records: Path) -> None:
    generated = write_generated(tmp_path / "generated", [(name, name) for name in CLASSES for _ in range(4)])
    rules = RuleConfig(use=("conformal",), alpha=0.0)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    config = SelectConfig(rules=rules, filter=FILTER, pictures=False)
    select(config, tmp_path / "out", records=simulated_records, generated=generated)
    assert torch.equal(before, torch.random.get_rng_state())
