"""Every renamed key: the old one is an error that names the new one, in mappings, overlays and overrides."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddap_monai.bundle.known_ids import check_id
from meddap_monai.cli.main import main
from meddap_monai.core.configuration import RENAMED, build, field_types, options
from meddap_monai.core.ids import read_yaml, split, type_of
from meddap_monai.errors import ConfigurationError
from meddap_monai.study.config import StudyConfig, read_study
from meddap_monai.study.overlays import study_sections

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
PAGE = (ROOT / "docs" / "configuration.md").read_text()
STUDY = BUNDLES / "meddap_study" / "configs" / "train.yaml"
KEYS = [
    ("classify#optimiser", "optimizer", "sgd"),
    ("classify#val_interval", "validation_every", 2),
    ("classify#checkpoint_interval", "checkpoint_every", 2),
    ("classify#choose", "keep", "last"),
    ("classify#amp", "precision", True),
    ("classify#network", "encoder", "resnet10"),
    ("select#filter#network", "encoder", "resnet10"),
    ("classify#num_workers", "workers", 2),
    ("classify#size", "resolution", 32),
    ("mix#search#classifier#size", "resolution", 32),
    ("select#filter#size", "resolution", 32),
    ("cluster#filter#size", "resolution", 32),
    ("adapt#samples_every", "pictures_every", 2),
    ("pretrain#half", "precision", False),
    ("pretrain#picture_every", "pictures_every", 2),
    ("pretrain#polish", "refinement", {"steps": 2}),
    ("pretrain#refinement#rival_rate", "discriminator_learning_rate", 0.1),
    ("pretrain#refinement#average", "ema", 0.9),
    ("pretrain#unet#average", "ema", 0.9),
    ("generate#dtype", "precision", "float16"),
]


def sentence(old: str, new: str) -> str:
    return f"{old} is now {'#'.join([*split(old)[:-1], new])}"


def test_the_table_has_a_case_for_each_key() -> None:
    assert {split(old)[-1]: new for old, new, _ in KEYS} == RENAMED


@pytest.mark.parametrize(("old", "new", "value"), KEYS)
def test_an_old_key_of_a_mapping_names_the_new_one(old: str, new: str, value: Any) -> None:
    section, *inner = split(old)
    mapping: Any = value
    for key in reversed(inner):
        mapping = {key: mapping}
    cls = next(one for one in options(field_types(StudyConfig)[section]) if dataclasses.is_dataclass(one))
    with pytest.raises(ConfigurationError) as refused:
        build(cls, mapping, section)
    assert str(refused.value) == sentence(old, new)


@pytest.mark.parametrize(("old", "new", "value"), KEYS)
def test_an_old_key_of_an_overlay_names_the_new_one(old: str, new: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"index#source": str(tmp_path), old: value}))
    with pytest.raises(ConfigurationError) as refused:
        read_study(study_sections([STUDY, tmp_path / "mine.yaml"]))
    assert str(refused.value) == sentence(f"study#{old}", new)


@pytest.mark.parametrize("where", ["variants: {x: {KEY: 2}}", "limits: {KEY: 2}", "grid: {KEY: [2]}"])
def test_an_old_key_of_a_variant_a_grid_or_a_limit_names_the_new_one(where: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"index#source: {tmp_path}\n{where.replace('KEY', 'classify#val_interval')}\n")
    with pytest.raises(ConfigurationError, match="#classify#val_interval is now .*#classify#validation_every"):
        read_study(study_sections([STUDY, tmp_path / "mine.yaml"]))


@pytest.mark.parametrize(("old", "new", "value"), KEYS)
def test_an_old_key_of_a_command_names_the_new_one(
    old: str, new: str, value: Any, capsys: pytest.CaptureFixture
) -> None:
    assert main(["study", "index#source=none", f"{old}={value}"]) == 2
    assert sentence(f"study#{old}", new) in capsys.readouterr().err


def test_an_old_key_of_a_bundle_names_the_new_one() -> None:
    known = read_yaml(BUNDLES / "ultrasound_classifier" / "configs" / "train.yaml")
    with pytest.raises(ConfigurationError, match="^command line: size is now resolution"):
        check_id("size", known, "command line")
    study = read_yaml(STUDY)
    with pytest.raises(ConfigurationError, match="^pretrain#polish is now pretrain#refinement"):
        check_id("pretrain#polish#steps", study, "command line", ("pretrain",))


def test_a_key_that_was_never_there_still_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="index: unknown key 'size'"):
        build(StudyConfig, {"index": {"source": "a", "size": 3}}, "study")


def test_the_page_says_where_each_word_stands_and_how_each_key_was_called() -> None:
    words = re.findall(r"^\| `(\w+)` \| .* \| `([a-z# _]+)` \|$", PAGE.partition("## A limit")[0], re.M)
    assert len(words) > 15
    for word, places in words:
        for place in places.split():
            assert type_of(f"{place}#{word}", field_types(StudyConfig)) is not Any, f"{place}#{word}"
    renamed = re.findall(r"^\| `(\w+)`.*? \| `(\w+)`", PAGE.partition("## Keys of before")[2], re.M)
    assert dict(renamed) == RENAMED
