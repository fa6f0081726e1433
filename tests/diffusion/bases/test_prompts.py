"""Prompt tables: MEDDAP's and FU-LoRA's sentences, and errors that name the nearest valid word."""

from pathlib import Path

import pytest

from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table, table_names
from meddap_monai.errors import ConfigurationError


@pytest.mark.parametrize(
    ("table", "class_name", "adjective", "template", "sentence"),
    [
        ("breast", "malignant", "none", 0, "an ultrasound photo of malignant tumor in breast"),
        ("breast", "normal", "none", 0, "an ultrasound photo of no tumor in breast"),
        ("breast", "benign", "bright", 0, "bright an ultrasound photo of benign tumor in breast"),
        ("breast", "benign", "deep", 1, "large depth a simulated ultrasound photo of benign tumor in breast"),
        ("fetal", "brain", "none", 0, "a photo of fetal brain"),
        ("chest", "pneumoconiosis", "none", 0, "image of a pneumoconiosis xray"),
    ],
)
def test_sentences(table: str, class_name: str, adjective: str, template: int, sentence: str) -> None:
    assert load_prompt_table(table).prompt(class_name, adjective, template) == sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("malignent",), "unknown class 'malignent'; did you mean 'malignant'"),
        (("benign", "brigth"), "unknown adjective 'brigth'; did you mean 'bright'"),
        (("benign", "none", 9), "template 9 does not exist"),
    ],
)
def test_unknown_words_name_the_nearest(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_prompt_table("breast").prompt(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntemplates: ['x']\nclasses: {b: b}\n", "must contain {class} exactly once"),
        ("name: a\ntemplate: ['{class}']\nclasses: {b: b}\n", "unknown key 'template'; did you mean 'templates'"),
        ("name: a\ntemplates: ['{class}']\n", "missing \\['classes'\\]"),
        ("name: a\ntemplates: ['{class}']\nclasses: {normal: no}\n", "quote no, yes"),
        ("[1, 2", "not a YAML file"),
        ("- 1\n", "got list, expected a mapping"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_prompt_table(tmp_path / "t.yaml")


def test_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'brest' does not exist; give one of .*breast"):
        load_prompt_table("brest")
    assert {"breast", "chest", "fetal"} <= set(table_names())


def test_hash_follows_the_content() -> None:
    one = PromptTable("a", ("{class}",), {"b": "c"})
    assert one.sha256 == PromptTable("a", ("{class}",), {"b": "c"}).sha256
    assert one.sha256 != PromptTable("a", ("{class}",), {"b": "d"}).sha256
