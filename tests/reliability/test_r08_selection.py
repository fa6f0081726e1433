"""R8: hostile class names and reader names write nothing outside the output folder."""

import json
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.clustering.stage import cluster
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RuleConfig
from meddap_monai.selection.filtering.stage import select
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import mix
from tests.selection.synthetic import CLASSES, picture, synthetic_record

SMALL = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=2, steps=4, batch=8)


@pytest.mark.parametrize("hostile", ["../../evil", "/evil", "x" * 300 + "/..", "a\\nb\u202e$(touch evil)"])
def test_class_names_stay_out_of_paths(tmp_path: Path, simulated_records: Path, hostile: str) -> None:
    inside = tmp_path / "a" / "b"
    (inside / "index").mkdir(parents=True)
    names = {"benign": hostile}
    stage = json.loads((simulated_records.parent / "stage.json").read_text())
    stage["classes"] = [names.get(name, name) for name in stage["classes"]]
    store.write_json(inside / "index" / "stage.json", stage)
    records = [
        r | {"class_name": names.get(r["class_name"], r["class_name"])}
        for r in read_records(simulated_records, full=True)
    ]
    write_records(inside / "index" / "records.jsonl", records)
    own = [synthetic_record(inside / "gen", n, CLASSES[n % 3], picture(CLASSES[n % 3], n)) for n in range(6)]
    own = [r | {"class_name": names.get(r["class_name"], r["class_name"])} for r in own]
    write_records(inside / "gen" / "generated.jsonl", own)
    real, generated = inside / "index" / "records.jsonl", inside / "gen" / "generated.jsonl"
    rules, copies = RuleConfig(use=("probability",), threshold=0.0, argmax=False), CopyConfig(action="report")
    before = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    kept = select(
        SelectConfig(rules=rules, copies=copies, filter=SMALL), inside / "select", records=real, generated=generated
    )
    cluster(ClusterConfig(k=1, nearest=2, filter=SMALL), inside / "cluster", records=real)
    hybrid = mix(MixConfig(ratio=0.1), inside / "mix", records=real, kept=kept)
    assert {path for path in tmp_path.rglob("*") if inside not in path.parents} == before
    assert hostile in {record["class_name"] for record in read_records(hybrid)}
    assert not list(tmp_path.rglob("*evil*"))
