"""The stage `select` end to end on small simulated sets."""

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.cli.main import main
from meddap_monai.core.records import read_records, write_records
from meddap_monai.errors import EmptyClass, ForeignOutput, LeakedRecords, RecordsError
from meddap_monai.images.provenance import train_hashes
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RULES, RuleConfig
from meddap_monai.selection.filtering.stage import select
from tests.record_material import write_like
from tests.selection.synthetic import CLASSES, picture, synthetic_record, write_generated

SMALL = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=2, steps=12, batch=12)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [(name, name) for name in CLASSES for _ in range(6)]
    return write_generated(tmp_path_factory.mktemp("generated") / "out", pairs)


def config(**changes: object) -> SelectConfig:
    values = {
        "filter": SMALL,
        "rules": RuleConfig(use=("conformal",), alpha=0.0, fallback=None),
        "pictures": False,
    } | changes
    return SelectConfig(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, simulated_records: Path, generated: Path) -> Path:
    output = tmp_path_factory.mktemp("select") / "out"
    rules = RuleConfig(
        use=tuple(RULES), threshold=0.0, argmax=False, alpha=0.0, agreement=0.0, guard=0.0, fallback=None
    )
    rules_without_centroid = RuleConfig(**(vars(rules) | {"use": tuple(n for n in RULES if n != "centroid")}))
    select(config(rules=rules_without_centroid, pictures=True), output, records=simulated_records, generated=generated)
    return output


def test_every_image_is_on_record_with_its_scores(finished: Path, generated: Path) -> None:
    scored = read_records(finished / "scored.jsonl", full=True)
    assert [record["id"] for record in scored] == [record["id"] for record in read_records(generated)]
    for record in scored:
        assert set(record["selection"]) == {"kept", "rule", "scores", "nearest"}
        assert {"probability", "conformal", "agreement", "mahalanobis", "knn"} <= set(record["selection"]["scores"])
        assert set(record["selection"]["nearest"]["distances"]) == {"correlation", "tiles", "features"}
        assert Path(record["image"]).is_file()


def test_kept_and_dropped_are_complementary(finished: Path) -> None:
    scored = {record["id"]: record["selection"] for record in read_records(finished / "scored.jsonl", full=True)}
    kept = {record["id"] for record in read_records(finished / "kept.jsonl")}
    with (finished / "dropped.csv").open() as stream:
        dropped = {row["id"]: row for row in csv.DictReader(stream)}
    assert kept | set(dropped) == set(scored) and not kept & set(dropped)
    assert all(scored[item]["rule"].split("+")[0] == row["rule"] for item, row in dropped.items())


def test_stage_counts_and_summary(finished: Path) -> None:
    stage = json.loads((finished / "stage.json").read_text())
    summary = json.loads((finished / "selection.json").read_text())
    assert stage["state"] == "done" and stage["classes"] == CLASSES
    assert stage["counts"]["in"] == 18 == stage["counts"]["out"] + stage["counts"]["rejected"]
    assert sum(part["in"] for part in summary["adjectives"].values()) == 18
    assert sum(part["kept"] for part in summary["classes"].values()) == stage["counts"]["out"]
    low, high = summary["copies"]["interval"]
    assert low <= summary["copies"]["rate"] <= high and len(summary["copies"]["closest"]) == 12
    assert len(summary["acceptance"]["conformal"]["threshold"]) == len(summary["acceptance"]["conformal"]["benign"])


def test_pictures_and_tensorboard(finished: Path) -> None:
    names = {path.name for path in (finished / "figures").iterdir()}
    assert {"acceptance.png", "histogram_conformal.png", "borderline_conformal.png", "closest_pairs.png"} <= names
    assert list((finished / "tensorboard").glob("events*"))
    assert "features" in (finished / "tensorboard" / "projector_config.pbtxt").read_text()


def test_finished_folder_is_skipped_and_foreign_refused(
    finished: Path, simulated_records: Path, generated: Path
) -> None:
    with pytest.raises(ForeignOutput, match="another run of select"):
        select(config(seed=7), finished, records=simulated_records, generated=generated)


def test_class_left_empty_is_an_error_with_advice(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    strict = config(
        rules=RuleConfig(use=("probability",), threshold=1.0, fallback=None), copies=CopyConfig(action="off")
    )
    with pytest.raises(EmptyClass, match=r"class 'benign': 0 of 6 .* lower select#rules#threshold"):
        select(strict, tmp_path / "out", records=simulated_records, generated=generated)
    assert "benign" in (tmp_path / "out" / "dropped.csv").read_text()


def test_quota_takes_the_best_of_each_class(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    rules = RuleConfig(use=("probability",), threshold=0.0, argmax=False, quota=2, fallback=None)
    kept = select(
        config(rules=rules, copies=CopyConfig(action="off")),
        tmp_path / "o",
        records=simulated_records,
        generated=generated,
    )
    scored = read_records(kept.parent / "scored.jsonl", full=True)
    for name in CLASSES:
        fields = [r["selection"] for r in scored if r["class_name"] == name]
        ranked = sorted((field["scores"]["probability"], field["kept"]) for field in fields)
        assert [flag for _, flag in ranked] == [False] * 4 + [True] * 2
        assert all(r["selection"]["rule"] == "quota" for r in scored if not r["selection"]["kept"])


def test_a_filter_that_cannot_tell_the_classes_keeps_the_best_of_each_and_says_so(
    tmp_path: Path, make_records: Callable[..., Path], generated: Path
) -> None:
    records = make_records({"train": 8, "val": 2})
    everything = read_records(records, full=True)
    same = {name: everything[0][name] for name in ("image", "sha256")}
    train = [record | same for record in everything if record["split"] == "train"]  # labels that tell nothing
    write_records(records, train)
    weak = config(rules=RuleConfig(use=("probability",)), copies=CopyConfig(action="off"))
    with pytest.warns(UserWarning, match=r"cannot tell the classes apart.*the best 50 % of each class were kept"):
        kept = select(weak, tmp_path / "o", records=records, generated=generated)
    scored = read_records(kept.parent / "scored.jsonl", full=True)
    for name in CLASSES:
        fields = [r["selection"] for r in scored if r["class_name"] == name]
        ranked = sorted((field["scores"]["probability"], field["kept"]) for field in fields)
        assert [flag for _, flag in ranked] == [False] * 3 + [True] * 3
        assert {field["rule"] for field in fields if not field["kept"]} == {"quota"}


def test_the_default_filter_says_how_good_it_is(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    """The encoder judges; the last line of the command and the stage name accuracy and AUC beside guessing."""
    words = ["select", "--records", str(simulated_records), "--generated", str(generated), "--output", str(tmp_path)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words, "filter#resolution=64", "filter#views=1", "pictures=false", "rules#alpha=0"]) == 0
    stage, found = (json.loads((tmp_path / name).read_text()) for name in ("stage.json", "selection.json"))
    measured = found["filter"]
    assert measured["tells_classes_apart"] and measured["images"] == sum(map(sum, measured["confusion"]))
    assert measured["chance"] == pytest.approx(1 / 3, abs=1e-6)
    for name in ("accuracy", "balanced_accuracy", "auc"):
        low, high = measured[f"{name}_interval"]
        assert low <= measured[name] <= high and low < high
    hits = sum(measured["confusion"][place][place] for place in range(3))
    assert measured["accuracy"] == pytest.approx(hits / measured["images"], abs=1e-6)
    assert stage["filter"] == {name: value for name, value in measured.items() if name != "confusion"}
    path, said = out.getvalue().splitlines()[-2:]
    assert path == str(tmp_path / "kept.jsonl") and said == stage["said"]
    assert f"AUC {measured['auc']:.2f} [" in said and "(guessing: 0.50)" in said
    assert np.load(tmp_path / "features" / "filter_real.npy").shape[:2] == (1, measured["images"])


def test_a_planted_copy_is_removed_and_named(tmp_path: Path, simulated_records: Path) -> None:
    train = read_records(simulated_records, split="train", full=True)
    records = [synthetic_record(tmp_path, n, name, picture(name, 700_000 + n)) for n, name in enumerate(CLASSES * 2)]
    original = train[5]
    flipped = np.ascontiguousarray(np.asarray(Image.open(original["image"]))[:, ::-1])
    records.append(synthetic_record(tmp_path, 99, original["class_name"], flipped))
    write_records(tmp_path / "generated.jsonl", records)
    kept = select(config(), tmp_path / "out", records=simulated_records, generated=tmp_path / "generated.jsonl")
    found = next(r for r in read_records(kept.parent / "scored.jsonl", full=True) if r["id"] == "syn-00099")
    assert found["selection"]["rule"] == "copy" and not found["selection"]["kept"]
    assert found["selection"]["nearest"]["id"] == original["id"]
    assert found["selection"]["nearest"]["distances"]["correlation"] < 0.01


def test_class_without_real_images_is_refused(tmp_path: Path, simulated_records: Path) -> None:
    record = synthetic_record(tmp_path, 0, "benign", picture("benign", 1)) | {"class_name": "cyst"}
    write_records(tmp_path / "generated.jsonl", [record])
    with pytest.raises(RecordsError, match=r"class 'cyst', of which .* has no real training image"):
        select(config(), tmp_path / "out", records=simulated_records, generated=tmp_path / "generated.jsonl")


def test_a_training_image_that_is_also_tested_on_stops_the_run(
    tmp_path: Path, simulated_records: Path, generated: Path
) -> None:
    records = read_records(simulated_records, full=True)
    twin = next(r for r in records if r["split"] == "train")
    leaked = [r | {"sha256": twin["sha256"]} if r["id"] == "test-benign-000" else r for r in records]
    records = write_like(simulated_records, tmp_path / "index", leaked)
    with pytest.raises(LeakedRecords, match="validation, test or unseen"):
        select(config(), tmp_path / "out", records=records, generated=generated)


def test_a_patient_in_two_splits_stops_the_run(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    records = read_records(simulated_records, full=True)
    patient = next(r for r in records if r["split"] == "train")["patient"]
    leaked = [r | {"patient": patient} if r["id"] == "val-normal-001" else r for r in records]
    (tmp_path / "stage.json").write_text((simulated_records.parent / "stage.json").read_text())
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in leaked))
    with pytest.raises(RecordsError, match=r"jsonl, line \d+: patient or group .* in the splits train and val"):
        select(config(), tmp_path / "out", records=tmp_path / "records.jsonl", generated=generated)


def test_image_to_image_may_skip_its_own_source(tmp_path: Path, simulated_records: Path) -> None:
    train = read_records(simulated_records, split="train", full=True)
    records = []
    for number, source in enumerate(train[::6]):
        pixels = np.asarray(Image.open(source["image"]))
        record = synthetic_record(tmp_path, number, source["class_name"], pixels)
        record["synthetic"] |= {"mode": "image", "source_id": source["id"], "strength": 0.05}
        records.append(record)
    write_records(tmp_path / "generated.jsonl", records)
    arguments = {"records": simulated_records, "generated": tmp_path / "generated.jsonl"}
    with pytest.raises(EmptyClass, match="raise the strength, or set select#copies#own_source to skip"):
        select(config(), tmp_path / "checked", **arguments)
    kept = select(config(copies=CopyConfig(own_source="skip")), tmp_path / "skipped", **arguments)
    assert len(read_records(kept)) == len(records)


def test_nothing_but_training_images_is_read(tmp_path: Path, make_records, generated: Path) -> None:
    records = make_records({"train": 8, "val": 4, "test": 4, "unseen": 2})
    for record in read_records(records):
        if record["split"] != "train":
            Path(record["image"]).unlink()
    kept = select(config(), tmp_path / "out", records=records, generated=generated)
    hashes = train_hashes(kept.parent / "filter")
    train = read_records(records, split="train", full=True)
    assert hashes == {record["sha256"] for record in train}
    folds = json.loads((kept.parent / "filter" / "filter.json").read_text())["folds"]
    assert set(folds) == {record["id"] for record in train}
    patients = {}
    for record in train:
        assert patients.setdefault(record["patient"], folds[record["id"]]) == folds[record["id"]]
