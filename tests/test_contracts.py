"""docs/contracts.md, held: every stage is run once, and every document it writes is checked against its schema."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from meddap_monai.classifier.inference import infer
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.core import resources
from meddap_monai.core.records import class_names, read_records
from meddap_monai.images import provenance
from meddap_monai.store import STAGES, read_csv, read_stage
from tests.test_bundles import SMALL_LDM

KEYS: dict[str, dict] = {
    "cluster": {"k": 2},
    "pretrain": {"prompts": ["breast"]} | {key.removeprefix("pretrain#"): value for key, value in SMALL_LDM.items()},
    "adapt": {"steps": 2},
    "generate": {"steps": 2},
    "select": {},
    "mix": {"arm": "mixed"},
    "classify": {"steps": 4, "resolution": 32},
    "evaluate": {},
}


def schema(name: str) -> dict:
    return json.loads(resources.find(f"schemas/{name}.json").read_text())


@pytest.fixture(scope="module")
def stages(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, make_records: Callable[..., Path]
) -> dict[str, Path]:
    """Stage -> its output folder, each run alone through the same door as the commands."""
    from meddap_monai.study import run_stage
    from meddap_monai.study.sections import load_sections

    root = tmp_path_factory.mktemp("contracts")
    source = make_records({"train": 9, "val": 3, "test": 6}, size=32).parent
    small = load_sections([Path(__file__).with_name("small.yaml")])
    made: dict[str, Path] = {}

    def run(stage: str, keys: dict | None = None, **inputs: object) -> Path:
        made[stage] = root / stage
        return run_stage(stage, (small.get(stage) or {}) | (keys or KEYS[stage]), made[stage], inputs)

    labels = root / "labels.csv"
    rows = [f"{Path(r['image']).name},{r['class_name']},{r['patient']}" for r in read_records(source / "records.jsonl")]
    labels.write_text("image,label,group\n" + "\n".join(rows) + "\n")
    records = run("index", index_keys(source, labels))
    run("pretrain", records=records)
    chosen = run("cluster", records=records)
    adapter = run("adapt", records=chosen, base=str(tiny_base))
    generated = run("generate", records=records, base=str(tiny_base), adapters=[adapter])
    kept = run("select", records=records, generated=generated)
    hybrid = run("mix", records=records, kept=kept)
    model = run("classify", records=hybrid)
    run("evaluate", runs=[f"real_synthetic:0:{model}:{records}"])
    return made


def index_keys(source: Path, labels: Path) -> dict:
    """How the simulated PNG folder is indexed: labels and groups from a CSV file."""
    return {"source": str(source / "images"), "labels": "csv", "table": str(labels), "modality": "any"}


def test_every_stage_has_run(stages: dict[str, Path]) -> None:
    assert set(stages) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_documents_match_their_schema(stages: dict[str, Path], stage: str) -> None:
    document = read_stage(stages[stage])
    jsonschema.validate(document, schema("stage"))
    assert document["stage"] == stage
    assert document["state"] == "done"


def test_every_line_of_every_records_file_matches_the_schema(stages: dict[str, Path]) -> None:
    validator = jsonschema.Draft202012Validator(schema("record"))
    files = [path for folder in stages.values() for path in folder.glob("*.jsonl")]
    assert {path.name for path in files} >= {
        "records.jsonl",
        "chosen.jsonl",
        "generated.jsonl",
        "kept.jsonl",
        "hybrid.jsonl",
    }
    for path in files:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            validator.validate(record)
            assert not Path(record["image"]).is_absolute()
            assert (path.parent / record["image"]).is_file()


def test_all_stages_agree_on_the_classes(stages: dict[str, Path]) -> None:
    names = {
        stage: class_names(next(stages[stage].glob("*.jsonl")))
        for stage in STAGES
        if list(stages[stage].glob("*.jsonl"))
    }
    assert all(found == ["benign", "malignant", "normal"] for found in names.values()), names


@pytest.mark.parametrize(
    ("stage", "name", "file"),
    [
        ("adapt", "adapter", "adapter.json"),
        ("pretrain", "base", "base/base.json"),
        ("classify", "cost", "cost.json"),
        ("evaluate", "report", "report.json"),
    ],
)
def test_documents_match_their_schema(stages: dict[str, Path], stage: str, name: str, file: str) -> None:
    jsonschema.validate(json.loads((stages[stage] / file).read_text()), schema(name))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rejects", "index/rejects.csv"),
        ("plan", "generate/plan.csv"),
        ("dropped", "select/dropped.csv"),
        ("predictions", "evaluate/predictions/real_synthetic-0-own.csv"),
        ("results", "evaluate/results.csv"),
    ],
)
def test_tables_match_their_schema(stages: dict[str, Path], name: str, file: str) -> None:
    stage, _, place = file.partition("/")
    check_table(stages[stage] / place, name)


def test_the_table_of_infer_matches_its_schema(stages: dict[str, Path], tmp_path: Path) -> None:
    for rows in ("file", "frame", "patient"):
        config = InferConfig(rows=rows)
        table = infer(config, [stages["classify"]], stages["index"] / "images", tmp_path / f"{rows}.csv")
        check_table(table, "answers")


def check_table(path: Path, name: str) -> None:
    head, *rows = [cells for _, cells in read_csv(path)]
    assert rows or name in ("rejects", "dropped")
    validator = jsonschema.Draft202012Validator(schema(name))
    assert set(schema(name)["required"]) <= set(head)
    for row in rows:
        validator.validate(dict(zip(head, row, strict=True)))


@pytest.mark.parametrize("table", sorted(path.name for path in resources.find("data/prompts").glob("*.yaml")))
def test_prompt_tables_match_their_schema(table: str) -> None:
    jsonschema.validate(yaml.safe_load((resources.find("data/prompts") / table).read_text()), schema("prompts"))


@pytest.mark.parametrize(("stage", "inside"), [("pretrain", "base"), ("adapt", "."), ("classify", ".")])
def test_every_trained_thing_carries_what_it_saw_and_nothing_held_out(
    stages: dict[str, Path], stage: str, inside: str
) -> None:
    folder = stages[stage] / inside
    assert provenance.train_hashes(folder)
    records = read_records(stages["index"] / "records.jsonl", full=True)
    assert any(record["split"] == "test" for record in records)
    provenance.check_provenance(folder, records)


def test_synthetic_images_train_only_and_say_what_they_are(stages: dict[str, Path]) -> None:
    records = read_records(stages["mix"] / "hybrid.jsonl", source="synthetic", full=True)
    assert records
    assert {record["split"] for record in records} == {"train"}
    assert {record["sha256"] for record in records}.isdisjoint(
        record["sha256"] for record in read_records(stages["index"] / "records.jsonl", full=True)
    )
