"""Any label works: the package's table that knows the labels by their words, else one made from them; all is shown."""

from pathlib import Path

import pytest

from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.prompt_choice import (
    FILE,
    check_columns,
    shown_table,
    table_for,
    tables_for,
    write_table,
)  # fmt: skip
from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table, table_names
from meddap_monai.diffusion.bases.vocabulary import check_words, unknown_words
from meddap_monai.diffusion.bases.words import ending, facts_of
from meddap_monai.errors import ConfigurationError


@pytest.mark.parametrize(
    ("labels", "table", "sentences"),
    [
        (["benign", "malignant", "normal"], "breast", ["an ultrasound photo of benign tumor in breast"]),
        (["Benign", "cancer"], "breast",
         ["an ultrasound photo of benign tumor in breast", "an ultrasound photo of malignant tumor in breast"]),
        (["bening", "MALIGNENT"], "breast", ["an ultrasound photo of benign tumor in breast"]),
        (["Healthy", "Benign tumor"], "breast", ["an ultrasound photo of no tumor in breast"]),
        (["Fetal abdomen", "FetalBrain", "fetal_thorax"], "fetal",
         ["a photo of fetal abdomen", "a photo of fetal brain"]),
        (["abdomen", "Other"], "fetal", ["a photo of fetal abdomen", "a photo of fetal other"]),
        (["thyroid benign", "thyroid_malignant"], "thyroid", ["an ultrasound photo of benign nodule in thyroid"]),
        (["COVID-19", "pneumonia", "regular"], "lung", ["an ultrasound photo of covid in lung"]),
        (["gallstones", "polyps"], "gallbladder", ["an ultrasound photo of gallstones gallbladder"]),
        (["healthy", "polymyositis"], "muscle", ["an ultrasound photo of normal muscle"]),
        (["glioma", "meningioma", "notumor", "pituitary"], "brain_mri", ["image of a glioma tumor brain mri"]),
        (["DR", "No_DR"], "retinopathy", ["image of a retina with diabetic retinopathy"]),
        (["normal", "pneumoconiosis"], "chest", ["image of a normal xray", "image of a pneumoconiosis xray"]),
        (["cyst", "Fibro_Adenoma"], "labels",
         ["an ultrasound image of cyst", "an ultrasound image of fibro adenoma"]),
        (["normal", "abnormal"], "labels", ["an ultrasound image of normal", "an ultrasound image of abnormal"]),
        (["malignant", "cancer"], "labels", ["an ultrasound image of malignant", "an ultrasound image of cancer"]),
        (["BI-RADS 3", "BI-RADS 4"], "labels",
         ["an ultrasound image of bi-rads 3", "an ultrasound image of bi-rads 4"]),
        (["__", "Ödem"], "labels", ["an ultrasound image of __", "an ultrasound image of ödem"]),
    ],
)  # fmt: skip
def test_labels_choose_their_table(labels: list[str], table: str, sentences: list[str]) -> None:
    chosen = table_for("auto", labels)
    assert chosen.name == table
    assert [chosen.prompt(label) for label in labels[: len(sentences)]] == sentences
    assert len({chosen.prompt(label) for label in labels}) == len(labels)


def test_the_tables_of_the_studies_are_there() -> None:
    wanted = {"breast", "fetal", "chest", "thyroid", "lung", "gallbladder", "muscle", "brain_mri", "retinopathy"}
    assert wanted <= set(table_names())


def test_exact_labels_leave_a_table_as_it_is() -> None:
    assert table_for("auto", ["benign", "malignant"]) == load_prompt_table("breast")
    assert table_for("fetal", ["brain"]) == load_prompt_table("fetal")


def test_a_table_asked_for_by_name_stays_strict_about_what_it_does_not_know() -> None:
    table = table_for("breast", ["Malignant", "cyst"])
    assert table.prompt("Malignant") == "an ultrasound photo of malignant tumor in breast"
    with pytest.raises(ConfigurationError, match=r"unknown class 'cyst'; .*; prompts=auto takes any label"):
        table.prompt("cyst")


def test_synonyms_change_no_hash_and_must_be_of_a_class() -> None:
    table = load_prompt_table("breast")
    assert table.also["malignant"]
    plain = PromptTable(table.name, table.templates, table.classes, table.adjectives, table.negative)
    assert plain.sha256 == table.sha256
    with pytest.raises(ConfigurationError, match="also names 'x', which is none of its classes"):
        PromptTable("a", ("{class}",), {"b": "c"}, also={"x": ("y",)})


def test_a_base_to_train_gets_a_table_for_labels_that_none_knows() -> None:
    tables = tables_for(["breast", "fetal"], ["Benign", "brain", "cyst"])
    assert [table.name for table in tables] == ["breast", "fetal", "labels"]
    assert ("Benign" in tables[0].classes, "benign" in tables[0].classes) == (True, False)
    assert tables[2].prompt("cyst") == "an ultrasound image of cyst"
    assert [table.name for table in tables_for(["breast"], ["benign"])] == ["breast"]


def test_what_was_chosen_is_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_for("auto", ["cyst", "Abscess"])
    write_table(table, tmp_path, "adapt")
    said = capsys.readouterr().err
    assert f"adapt: prompts by the labels (to change them, give a copy of {tmp_path / FILE} as prompts):" in said
    assert "  cyst: an ultrasound image of cyst\n  Abscess: an ultrasound image of abscess" in said
    assert load_prompt_table(tmp_path / FILE) == table
    organs = shown_table(table_for("auto", ["benign", "malignant"]), "generate", tmp_path)
    assert organs == (
        "generate: the labels fit the prompt tables breast, gallbladder, thyroid; taking 'breast'. If the images show "
        "another organ, name its table: generate#prompts=gallbladder"
    )
    assert shown_table(load_prompt_table("breast"), "generate", tmp_path, "breast") == ""
    assert shown_table(table_for("auto", ["abdomen", "brain"]), "generate", tmp_path) == ""


# ------------------------------------------------------------------------------------------------------------- columns
@pytest.mark.parametrize(
    ("meta", "end"),
    [
        ({"device": "LOGIQ_E9", "birads": "4"}, ", device logiq e9, birads 4"),
        ({"birads": "4"}, ", birads 4"),
        ({"device": None, "birads": ""}, ""),
        (None, ""),
    ],
)
def test_columns_end_a_prompt(meta: dict | None, end: str) -> None:
    assert ending(facts_of({"meta": meta}, ("device", "birads")), {}) == end


def test_a_column_that_no_record_has_is_named() -> None:
    said = (
        "adapt#columns: no training image has 'birads' in its meta, which holds device, frame; index#columns keeps a "
    )
    with pytest.raises(ConfigurationError, match=said):
        check_columns(["device", "birads"], [{"meta": {"device": "x", "frame": 0}}, {}], "adapt#columns")


# ---------------------------------------------------------------------------------------------------------- vocabulary
UNKNOWN = (
    "adapt#prompts: the base does not know the words cyst, thyroid: its 672 tokens hold whole words of its own tables, "
    "and it reads any other letter by letter. They mean nothing to it before an adapter has learned these classes"
)
SAME = (
    "adapt#prompts: the base reads the prompts of the classes 'a' and 'b' as the same 24 tokens, because it cuts what "
    "is longer; give a prompt table with shorter words for them"
)


@pytest.mark.filterwarnings("ignore:adapt#prompts")
def test_the_embedded_base_says_which_words_it_does_not_know() -> None:
    tokenizer = load_base("embedded").tokenizer
    assert unknown_words(tokenizer, ["an ultrasound image of benign", "bright <cyst> of 4"]) == []
    with pytest.warns(UserWarning, match=UNKNOWN):
        check_words(tokenizer, {"a": "an ultrasound image of thyroid", "b": "a cyst"}, "adapt#prompts")
    long = "an ultrasound image of the polycystic kidneys, {} cysts"
    with pytest.raises(ConfigurationError, match=SAME):
        check_words(tokenizer, {"a": long.format("large"), "b": long.format("small")}, "adapt#prompts")
    with pytest.warns(UserWarning, match="reads 24 tokens and cuts the rest of 'an ultrasound image of the polycystic"):
        check_words(tokenizer, {"a": long.format("large")}, "adapt#prompts")
