"""Every key explains itself: ``meddap STAGE --help`` and ``meddap config`` are read off the fields."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.cli.keys import config_text, keys_text
from meddap_monai.cli.main import main
from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import Choice, Count, Multiple, Range, settings
from meddap_monai.core.ids import nest, read_pairs, read_yaml
from meddap_monai.core.keys import Key, keys_of
from meddap_monai.store import STAGES
from meddap_monai.study.config import StudyConfig, config_of, read_study
from meddap_monai.study.grid_config import GridConfig
from meddap_monai.study.sections import load_sections


def every_key(cls: type, place: str = "") -> Iterator[Key]:
    for key in keys_of(cls, place):
        yield key
        if key.section is not None:
            yield from every_key(key.section, key.id)


CLASSES = [("", StudyConfig), ("infer", InferConfig), ("grid", GridConfig)]


@pytest.mark.parametrize(("place", "cls"), CLASSES, ids=["study", "infer", "grid"])
def test_every_key_has_a_meaning_and_words_for_what_it_takes(place: str, cls: type) -> None:
    keys = list(every_key(cls, place))
    assert [key.id for key in keys if not key.meaning] == []
    assert [key.id for key in keys if "typing." in key.expected or "<class" in key.expected] == []
    assert len(keys) > (300 if not place else 5)


@pytest.mark.parametrize("stage", STAGES)
def test_every_example_is_taken_and_is_not_the_default(stage: str) -> None:
    needed = {"source": "data"} if stage == "index" else {}
    same = []
    for key in every_key(config_of(stage)):
        if key.section is None:
            pairs = read_pairs([f"{key.id}={key.example}"], {stage: config_of(stage)}, stage)
            config = build(config_of(stage), needed | nest(pairs)[stage], stage)
            for name in key.id.split("#"):
                config = getattr(config, name)
            same += [key.id] if config == key.default else []
    assert same == (["method_settings"] if stage == "adapt" else [])  # only a method from outside has any


@dataclass(frozen=True)
@settings("s")
class Sample:
    """What is written.

    Attributes:
        one: the first, in
            two lines; "x" is said.
        two: the second.
    """

    one: str = "y"
    two: Annotated[int, Range(8, 64), Multiple(8)] | None = None
    three: Annotated[tuple[Annotated[float, Range(0.0, 1.0)], ...], Count(2, 3)] = (0.5, 0.25)
    """The third."""
    four: dict[str, Annotated[str, Choice(("a", ""))]] = field(default_factory=dict)
    """The fourth, ``{k: a}``."""
    five: tuple[int, ...] = ()
    six: bool = True


def test_a_key_in_words() -> None:
    keys = {key.name: key for key in keys_of(Sample, "s")}
    assert {name: key.meaning for name, key in keys.items()} == {
        "one": 'The first, in two lines; "x" is said.',
        "two": "The second.",
        "three": "The third.",
        "four": "The fourth, ``{k: a}``.",
        "five": "",
        "six": "",
    }
    assert {name: key.expected for name, key in keys.items()} == {
        "one": "text",
        "two": "whole number from 8 to 64, a multiple of 8, or null",
        "three": "list, each number from 0 to 1; 2 to 3 of them",
        "four": "mapping of names, each one of a, an empty text",
        "five": "list, each whole number",
        "six": "true or false",
    }
    assert [key.example for key in keys.values()] == ["x", "8", "[1, 1]", "{k: a}", "[1]", "false"]
    assert [key.default_text for key in keys.values()] == ["y", "null", "[0.5, 0.25]", "{}", "[]", "true"]


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_every_key_of_the_stage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    listed = {line.strip() for line in said.splitlines() if line.startswith("  ") and line[2:3] != " "}
    assert {key.id for key in every_key(config_of(stage)) if key.section is None} <= listed


def test_help_of_one_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        main(["classify", "--help"])
    assert (
        "  checkpoint_every\n"
        "      Steps between checkpoints; at most these are lost by a kill.\n"
        "      whole number from 1 to 10,000,000; default: 100; e.g. checkpoint_every=200\n"
    ) in (said := capsys.readouterr().out)
    assert said.index("\ntraining\n") < said.index("\nvalidation and checkpoints\n") < said.index("\nthe machine")


def test_help_of_a_study_leaves_the_stages_to_their_own() -> None:
    text = keys_text(StudyConfig, (*STAGES, "unseen", "unlabelled"))
    assert "\n  seeds\n" in text and "\n  draw#train\n" in text
    assert "classify#" not in text.replace("{'classify#steps", "").replace("'{classify#steps", "")


STUDIES = sorted(path.name for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("overlays", [[], *([name] for name in STUDIES), ["busi.yaml", "smoke.yaml"]], ids=str)
def test_a_printed_configuration_changes_nothing_when_it_is_fed_back(overlays: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(config_text(overlays))
    assert len(read_yaml(tmp_path / "mine.yaml")) > 200
    assert read_study(load_sections([tmp_path / "mine.yaml"])) == read_study(load_sections(overlays))


@pytest.mark.parametrize("stage", STAGES)
def test_the_printed_keys_of_one_stage(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", stage, "--study", "smoke"]) == 0
    (tmp_path / "mine.yaml").write_text(said := capsys.readouterr().out)
    assert {key.split("#")[0] for key in read_yaml(tmp_path / "mine.yaml")} <= {stage}
    printed = {line.lstrip("# ").partition(": ")[0] for line in said.splitlines()}
    assert {key.id for key in every_key(config_of(stage), stage) if key.section is None} <= printed
    assert build(StudyConfig, load_sections([tmp_path / "mine.yaml", "smoke"]), "study") == build(
        StudyConfig, load_sections(["smoke"]), "study"
    )


def test_a_section_that_is_off_stays_off_as_a_comment(tmp_path: Path) -> None:
    text = config_text([], "pretrain")
    assert "# It is off; a value for any of its keys switches it on.\n" in text
    assert "\n# pretrain#unet#steps: 7000\n" in text
    (tmp_path / "mine.yaml").write_text("adapt: null\n")
    text = config_text([str(tmp_path / "mine.yaml")])
    assert "\nadapt: null\n" in text and "\n# adapt#steps: 1000\n" in text
