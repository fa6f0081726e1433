"""The plan: how many of what, in which order, streamed, and read back equal."""

import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.generation import plan, planning
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.errors import ConfigurationError

CLASSES = ["benign", "malignant", "normal"]
WANTED = planning.PlanInputs(
    CLASSES,
    {"benign": 10, "malignant": 6, "normal": 3},
    {name: [f"{name}-{number}" for number in range(3)] for name in CLASSES},
    (32, 32),
)
TABLE = load_prompt_table("breast")


def rows_of(**keys) -> list[plan.PlanRow]:
    return list(planning.make_plan(GenerateConfig(**keys), TABLE, WANTED))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"benign": 10, "malignant": 6, "normal": 3}),
        ({"ratio": 0.5}, {"benign": 5, "malignant": 3, "normal": 2}),
        ({"ratio": 2.0}, {"benign": 20, "malignant": 12, "normal": 6}),
        ({"ratio": {"malignant": 1.0}}, {"malignant": 6}),
        ({"ratio": 1.0, "adjectives": ("none", "dark")}, {"benign": 20, "malignant": 12, "normal": 6}),
        (
            {"ratio": 1.0, "adjectives": ("none", "dark"), "share_adjectives": True},
            {"benign": 10, "malignant": 6, "normal": 3},
        ),
        ({"counts": 4}, {"benign": 4, "malignant": 4, "normal": 4}),
        ({"counts": {"normal": 5}}, {"normal": 5}),
        ({"balance": True}, {"malignant": 4, "normal": 7}),
        ({"balance": True, "adjectives": ("none", "dark", "bright")}, {"malignant": 4, "normal": 7}),
        ({"ratio": 1.0, "classes": ("normal",)}, {"normal": 3}),
        ({"counts": 5, "scheduler": ("euler", "unipc")}, {"benign": 5, "malignant": 5, "normal": 5}),
    ],
)
def test_counts(keys: dict, expected: dict[str, int]) -> None:
    rows = rows_of(**keys)
    assert Counter(row.class_name for row in rows) == expected
    assert [row.row for row in rows] == list(range(len(rows)))
    assert all(row.label == CLASSES.index(row.class_name) for row in rows)
    assert len({row.seed for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("class_name", "adjective", "prompt"),
    [
        ("benign", "none", "an ultrasound photo of benign tumor in breast"),
        ("normal", "none", "an ultrasound photo of no tumor in breast"),
        ("malignant", "bright", "bright an ultrasound photo of malignant tumor in breast"),
    ],
)
def test_prompts_are_the_tables(class_name: str, adjective: str, prompt: str) -> None:
    rows = rows_of(counts=1, adjectives=(adjective,))
    assert [row.prompt for row in rows if row.class_name == class_name] == [prompt]


def test_unconditional_has_the_empty_prompt() -> None:
    assert {row.prompt for row in rows_of(counts=2, unconditional=True)} == {""}


def test_adapters_prompt_comes_first_with_the_adjective_in_front() -> None:
    wanted = planning.PlanInputs(CLASSES, WANTED.real, {}, (32, 32), {"benign": "a photo of sks breast"})
    rows = list(planning.make_plan(GenerateConfig(counts=1, adjectives=("dark",)), TABLE, wanted))
    assert rows[0].prompt == "dark a photo of sks breast"
    assert rows[1].prompt == "dark an ultrasound photo of malignant tumor in breast"


def test_samplers_share_the_images_and_stand_together() -> None:
    rows = rows_of(counts=5, scheduler=("euler", "unipc"))
    assert [row.scheduler for row in rows] == ["euler"] * 9 + ["unipc"] * 6
    sizes = [len(batch) for batch in plan.batches(rows, 4)]
    assert sizes == [4, 4, 1, 4, 2]


def test_images_start_from_real_training_images_in_turn() -> None:
    rows = rows_of(mode="image", counts={"normal": 5}, strength=(0.05, 0.2))
    assert [row.source_id for row in rows] == ["normal-0", "normal-1", "normal-2", "normal-0", "normal-1"]
    assert [row.strength for row in rows] == [0.05] * 3 + [0.2] * 2


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"mode": "txt"}, "did you mean 'text'"),
        ({"ratio": 1.0, "balance": True}, "ratio and balance are given"),
        ({"height": 30}, "expected a multiple of 8"),
        ({"strength": 0.0}, "generate#strength: got 0"),
        ({"adjectives": ("brigth",)}, "did you mean 'bright'"),
        ({"classes": ("benin",)}, "did you mean 'benign'"),
        ({"ratio": {"benin": 1.0}}, "did you mean 'benign'"),
        ({"ratio": 0.0}, "nothing to generate .real training images: benign 10"),
        ({"balance": True, "classes": ("benign",)}, "no chosen class is smaller than the largest one"),
        ({"steps": 0}, "generate#steps: got 0"),
        ({"guidance_interval": (0.8, 0.2)}, "generate#guidance_interval#1"),
        ({"precision": "float"}, "generate#precision"),
        ({"adjectives": ()}, "expected at least one"),
        ({"plan": Path("nowhere.csv")}, "nowhere.csv: cannot be read"),
    ],
)
def test_wrong_wishes_are_named(keys: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        rows_of(**keys)


def test_image_mode_without_sources_is_refused() -> None:
    wanted = planning.PlanInputs(CLASSES, WANTED.real, {}, (32, 32))
    with pytest.raises(ConfigurationError, match="needs real training images of class 'benign'"):
        list(planning.make_plan(GenerateConfig(mode="image"), TABLE, wanted))


def test_written_and_read_back_equal(tmp_path: Path) -> None:
    rows = rows_of(counts=3, adjectives=("none", "dark"), scheduler=("ddim", "heun"), negative='a "quoted", one\nword')
    assert plan.write_plan(tmp_path / "plan.csv", rows) == 18
    assert list(plan.read_plan(tmp_path / "plan.csv")) == rows


def test_a_users_own_table_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("class_name,adjective,seed,steps,prompt\nnormal,dark,11,,\nbenign,,,7,my words\n")
    rows = rows_of(plan=path)
    assert [(row.class_name, row.adjective, row.steps) for row in rows] == [
        ("normal", "dark", 15),
        ("benign", "none", 7),
    ]
    assert rows[0].seed == 11 and rows[0].prompt == "dark an ultrasound photo of no tumor in breast"
    assert rows[1].prompt == "my words"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("class,seed\nbenign,1\n", "unknown key 'class'; did you mean 'class_name'"),
        ("class_name,seed\nbenign,x\n", "row 0: seed is 'x', expected int"),
        ("class_name,seed\nbenign\n", "row 0: 1 cells, expected 2"),
        ("class_name\nbenin\n", "row 0.*did you mean 'benign'"),
        ("seed\n3\n", "row 0: class_name is empty"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=text):
        rows_of(plan=path)


def test_shards_are_cut_by_number_alone() -> None:
    rows = rows_of(counts=5)
    cut = list(plan.shards(rows, 4))
    assert [(number, len(members)) for number, members in cut] == [(0, 4), (1, 4), (2, 4), (3, 3)]
    assert [row for _, members in cut for row in members] == rows


def _peak(path: Path, count: int) -> int:
    config = GenerateConfig(counts={"benign": count})
    tracemalloc.start()
    plan.write_plan(path, planning.make_plan(config, TABLE, WANTED))
    for _ in plan.shards(plan.read_plan(path), 64):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_plan(tmp_path: Path) -> None:
    small, large = _peak(tmp_path / "small.csv", 500), _peak(tmp_path / "large.csv", 10_000)
    assert large < 1.2 * small + 100_000
