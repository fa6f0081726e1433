"""R31: hostile documents, put into every command that reads them, end in one named error within 2 seconds."""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import pytest

from meddap_monai.core.records import class_names, read_records
from meddap_monai.errors import MeddapError
from meddap_monai.evaluation.report.material import read_sections
from meddap_monai.images.writing.write import export_dicom
from meddap_monai.reading_form.reading import Reading, ReadingConfig
from meddap_monai.reading_form.reading_table import summarise_reading
from meddap_monai.study import run_stage
from meddap_monai.study.join import join_generated
from meddap_monai.transforms.bank import ImageBank
from tests.test_contracts import KEYS, index_keys

SMALL = Path(__file__).parent.parent / "small.yaml"
PROMPTS = """name: breast
templates: ["an ultrasound photo of {class}"]
classes: {benign: benign breast tumor, malignant: malignant breast tumor, normal: normal breast}
"""


@dataclass(frozen=True)
class Material:
    """Sound outputs of the stages, and what runs a stage on them."""

    root: Path
    base: Path
    keys: dict[str, dict]

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def run(self, stage: str, output: Path, keys: dict | None = None, **inputs: Any) -> Path:
        if stage in ("adapt", "generate"):
            inputs.setdefault("base", str(self.base))
        return run_stage(stage, self.keys[stage] | (keys or {}), output, inputs)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, make_records: Callable[..., Path]) -> Material:
    from meddap_monai.study.sections import load_sections

    root = tmp_path_factory.mktemp("hostile")
    small = load_sections([SMALL])
    made = Material(root, tiny_base, {stage: (small.get(stage) or {}) | keys for stage, keys in KEYS.items()})
    made.keys["index"] = (small.get("index") or {}) | {}
    source = make_records({"train": 6, "val": 3, "test": 3}, size=32)
    shutil.copytree(source.parent, root / "index")
    rows = read_records(source)
    table = "".join(f"{Path(row['image']).name},{row['class_name']},{row['patient']}\n" for row in rows)
    (root / "labels.csv").write_text("image,label,group\n" + table)
    (root / "plan.csv").write_text("class_name,seed\nbenign,1\n")
    (root / "prompts.yaml").write_text(PROMPTS)
    (root / "config.yaml").write_text("classify#steps: 2\n")
    records = root / "index" / "records.jsonl"
    adapter = made.run("adapt", root / "adapt", records=records)
    generated = made.run("generate", root / "generate", records=records, adapters=[adapter])
    kept = made.run("select", root / "select", records=records, generated=generated)
    hybrid = made.run("mix", root / "mix", records=records, kept=kept)
    made.run("classify", root / "classify", records=hybrid)
    Reading(root / "reading", "one", ReadingConfig(4), records, generated).answer(
        0, dict.fromkeys(("real", "person", "malformed", "finding"), "yes") | {"reader_class": "unsure"}
    )
    return made


def _stage(stage: str, keys: dict | None = None, **inputs: str) -> Callable[[Material, Path], Any]:
    def command(made: Material, output: Path) -> Any:
        given: dict[str, Any] = {name: made / place for name, place in inputs.items()}
        if "adapters" in given:
            given["adapters"] = [given["adapters"]]
        own = {name: value(made) if callable(value) else value for name, value in (keys or {}).items()}
        return made.run(stage, output, own, **given)

    return command


def _evaluate(made: Material, output: Path) -> Any:
    return made.run("evaluate", output, runs=[f"real:0:{made / 'classify'}:{made / 'index/records.jsonl'}"])


def _evaluate_hybrid(made: Material, output: Path) -> Any:
    return made.run("evaluate", output, runs=[f"real:0:{made / 'classify'}:{made / 'mix/hybrid.jsonl'}"])


def _review(made: Material, output: Path) -> Any:
    return Reading(output, "two", ReadingConfig(4), made / "index/records.jsonl", made / "generate/generated.jsonl")


def _configured(made: Material, output: Path) -> Any:
    from meddap_monai.study.sections import load_sections

    keys = load_sections([SMALL, made / "config.yaml"])["classify"]
    return made.run("classify", output, keys, records=made / "index/records.jsonl")


REAL = {"records": "index/records.jsonl"}
COMMANDS: dict[str, Callable[[Material, Path], Any]] = {
    "cluster": _stage("cluster", **REAL),
    "pretrain": _stage("pretrain", **REAL),
    "adapt": _stage("adapt", **REAL),
    "generate": _stage("generate", **REAL, adapters="adapt"),
    "generate from images": _stage("generate", {"mode": "image"}, **REAL),
    "generate a plan": _stage("generate", {"plan": lambda made: str(made / "plan.csv")}, **REAL),
    "generate with prompts": _stage("generate", {"prompts": lambda made: str(made / "prompts.yaml")}, **REAL),
    "adapt with prompts": _stage("adapt", {"prompts": lambda made: str(made / "prompts.yaml")}, **REAL),
    "select": _stage("select", **REAL, generated="generate/generated.jsonl"),
    "mix": _stage("mix", **REAL, kept="select/kept.jsonl"),
    "classify": _stage("classify", **REAL),
    "classify hog": _stage("classify", {"encoder": "hog", "mode": "probe", "head": "ridge"}, **REAL),
    "classify as configured": _configured,
    "classify a hybrid": _stage("classify", records="mix/hybrid.jsonl"),
    "evaluate": _evaluate,
    "evaluate a hybrid": _evaluate_hybrid,
    "review": _review,
    "export": lambda made, output: export_dicom(made / "generate/generated.jsonl", output),
    "bank": lambda made, output: ImageBank(made / "generate/generated.jsonl").draw("benign", 0),
    "join": lambda made, output: join_generated(output, [made / "generate"]),
    "read again": lambda made, output: Reading(
        made / "reading", "one", ReadingConfig(4), made / "index/records.jsonl", made / "generate/generated.jsonl"
    ),
    "table of a reading": lambda made, output: summarise_reading(made / "reading"),
    "report": lambda made, output: read_sections({name: made / name for name in ("index", "select")}),
    "classes": lambda made, output: class_names(made / "index/records.jsonl"),
    "index": lambda made, output: made.run("index", output, index_keys(made / "index", made / "labels.csv")),
    "generate again": lambda made, _: COMMANDS["generate"](made, made / "generate"),
    "select again": lambda made, _: COMMANDS["select"](made, made / "select"),
    "mix again": lambda made, _: COMMANDS["mix"](made, made / "mix"),
}
_TRAIN = ("cluster", "adapt", "generate", "select", "classify", "classify hog")
_READ_RECORDS = (*_TRAIN, "pretrain", "mix", "evaluate", "review")
_READ_GENERATED = ("select", "review", "export", "bank", "join")
_READ_IMAGES = (*_TRAIN, "pretrain", "generate from images", "evaluate", "review")
LINES = hostile.TEXTS | hostile.JSONS | hostile.VALUES
DOCUMENTS = hostile.TEXTS | hostile.JSONS
TABLE: tuple[tuple[str, dict[str, hostile.Change], tuple[str, ...]], ...] = (
    ("index/records.jsonl", LINES | hostile.REAL, _READ_RECORDS),
    ("generate/generated.jsonl", LINES, _READ_GENERATED),
    ("select/kept.jsonl", LINES, ("mix",)),
    ("mix/hybrid.jsonl", LINES | hostile.REAL, ("classify a hybrid", "evaluate a hybrid")),
    ("index/stage.json", DOCUMENTS | hostile.STAGES, ("classes", *_READ_RECORDS)),
    ("generate/stage.json", DOCUMENTS, ("join", "generate again")),
    ("select/stage.json", DOCUMENTS, ("report", "select again")),
    ("mix/stage.json", DOCUMENTS, ("mix again",)),
    ("select/cost.json", DOCUMENTS, ("report",)),
    ("select/selection.json", DOCUMENTS, ("report",)),
    ("select/dropped.csv", hostile.TEXTS | {"a huge cell": hostile.TABLES["a huge cell"]}, ("report",)),
    ("classify/train_sha256.txt", hostile.TEXTS | hostile.HASHES, ("evaluate",)),
    ("adapt/train_sha256.txt", hostile.TEXTS | hostile.HASHES, ("generate",)),
    ("adapt/adapter.json", DOCUMENTS | hostile.CARDS, ("generate",)),
    ("plan.csv", hostile.TEXTS | hostile.TABLES | hostile.PLANS, ("generate a plan",)),
    ("prompts.yaml", hostile.TEXTS | hostile.PROMPTS, ("generate with prompts", "adapt with prompts")),
    ("config.yaml", hostile.TEXTS | hostile.CONFIGURATIONS, ("classify as configured",)),
    ("labels.csv", hostile.TEXTS | {"another head": hostile.TABLES["another head"]}, ("index",)),
    ("reading/reading.json", DOCUMENTS, ("read again",)),
    ("reading/answers/one.jsonl", DOCUMENTS, ("read again", "table of a reading")),
)
CASES = [
    pytest.param(place, name, command, id=f"{place}-{name}-{command}")
    for place, variants, commands in TABLE
    for name, command in itertools.product(variants, commands)
    if not (command == "classes" and name.startswith("classes ["))  # valid by themselves
]
IMAGE_CASES = [
    pytest.param(name, command, id=f"{name}-{command}")
    for name, command in itertools.product(hostile.IMAGES, _READ_IMAGES)
]


def spread(cases: list[Any], quick: int) -> list[Any]:
    """Mark all but some `quick` cases, evenly spread, as slow; every document and command stays quick once."""
    step = len(cases) / quick
    kept = {int(number * step) for number in range(quick)}
    seen: set[Any] = set()
    for number, case in enumerate(cases):
        if case.values[-1] not in seen or case.values[0] not in seen:
            kept.add(number)
            seen |= {case.values[-1], case.values[0]}
    return [
        case if number in kept else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]


@pytest.fixture
def damaged() -> Iterator[Callable[[list[Path], Callable[[Path], Any]], None]]:
    """Damage files for one test."""
    before: dict[Path, bytes] = {}

    def damage(paths: list[Path], change: Callable[[Path], Any]) -> None:
        for path in paths:
            before[path] = path.read_bytes()
            change(path)

    yield damage
    for path, data in before.items():
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def refuse(material: Material, command: str, output: Path) -> str:
    """Run a command that must end in one named error within 2 seconds of work; return the message."""
    begun = time.process_time()
    with pytest.raises(MeddapError) as found:
        COMMANDS[command](material, output)
    assert time.process_time() - begun < 2
    assert len(str(found.value)) < 2000 and "\n" not in str(found.value).strip()[:200]
    return str(found.value)


def test_the_material_is_sound(material: Material, tmp_path: Path) -> None:
    for command in ("mix", "review", "export", "bank", "join", "read again", "report", "classes", "index"):
        COMMANDS[command](material, tmp_path / command.replace(" ", "_"))


@pytest.mark.parametrize(("place", "name", "command"), spread(CASES, 60))
def test_a_document_is_refused_by_name(
    material: Material, damaged: Callable[..., None], tmp_path: Path, place: str, name: str, command: str
) -> None:
    change = next(variants[name] for other, variants, _ in TABLE if other == place)
    damaged([material / place], lambda path: path.write_bytes(change(path.read_bytes())))
    message = refuse(material, command, tmp_path / "out")
    named = Path(place).name in message or "line" in message
    assert named or (place == "config.yaml" and "classify#" in message), message
    if name in hostile.TEXTS and place not in ("labels.csv", "config.yaml"):
        assert "line" in message and "not UTF-8" in message, message


@pytest.mark.parametrize(("name", "command"), spread(IMAGE_CASES, 20))
def test_an_image_is_refused_by_name(
    material: Material, damaged: Callable[..., None], tmp_path: Path, name: str, command: str
) -> None:
    rows = read_records(material / "index/records.jsonl")
    splits = ("test",) if command == "evaluate" else ("train", "val", "test")
    images = [Path(row["image"]) for row in rows if row["split"] in splits]
    damaged(images, hostile.IMAGES[name])
    if command == "review":
        shown = _review(material, tmp_path / "out") if name == "exchanged" else None
        with pytest.raises(MeddapError) as found:
            for number in range(4):
                (shown or _review(material, tmp_path / "out")).picture(number)
        message = str(found.value)
    else:
        message = refuse(material, command, tmp_path / "out")
    assert any(path.name in message for path in images), message


def test_enough_variants_are_tried() -> None:
    assert len(CASES) + len(IMAGE_CASES) >= 400
