"""Words that say facts: how they are spelled, what a base refuses, and that a device's word acts."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from adapter_material import quick
from PIL import Image
from transformers import CLIPTokenizer

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.records import Record, read_records, write_records
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.bases.words import check_facts, ending, known_columns, make_words, word_of
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.parts import TextEncoderConfig, ViewsConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.text_encoder import TextEncoderTraining, build_text_encoder
from meddap_monai.diffusion.pretraining.tokenizer import vocabulary_words
from meddap_monai.diffusion.pretraining.views import cut_views, words_of
from meddap_monai.errors import ConfigurationError
from tests.pretrain_material import SMALL
from tests.record_material import image_record

WORDS = make_words({"device": ["GE Logiq E9", "Philips HD11XE"], "birads": ["2", "4"]})
BRIGHT, DARK = "Alpha 1", "Beta 2"
FEW = {"steps": 6, "guidance": 1.5, "sheet_columns": 1}


# --------------------------------------------------------------------------------------------------------------- words
def test_a_word_is_one_token_of_letters(tmp_path: Path) -> None:
    assert word_of("device", "GE Logiq E9") == "devicegelogiqenine"
    tokenizer, _ = build_text_encoder(tmp_path, vocabulary_words([load_prompt_table("breast")], WORDS), 32, 1, 2)
    assert isinstance(tokenizer, CLIPTokenizer)
    for word in (word for own in WORDS.values() for word in own.values()):
        assert tokenizer.tokenize(word) == [f"{word}</w>"]


@pytest.mark.parametrize("values", [["E 9", "e9"], ["GE", "日立"]])
def test_values_that_letters_do_not_tell_apart(values: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"pretrain#views#words: the column 'device' holds .* rename them"):
        make_words({"device": values})


@pytest.mark.parametrize(
    ("facts", "words", "end"),
    [
        ({"device": "GE Logiq E9", "birads": "4"}, WORDS, " biradsfour devicegelogiqenine"),
        ({"device": "ge_logiq-e9"}, WORDS, " devicegelogiqenine"),
        ({"device": "Esaote", "birads": "4"}, WORDS, " biradsfour, device esaote"),
        ({"device": "GE Logiq E9", "birads": "4"}, {}, ", device ge logiq e9, birads 4"),
        ({}, WORDS, ""),
    ],
)
def test_facts_end_a_prompt(facts: dict[str, str], words: dict, end: str) -> None:
    assert ending(facts, words) == end


@pytest.mark.parametrize(
    ("facts", "words", "message"),
    [
        ({"device": "GE Logic E9"}, WORDS, "here#device: .* know 'GE Logic E9'; did you mean 'GE Logiq E9'"),
        ({"devise": "GE Logiq E9"}, WORDS, "no word for 'devise'; did you mean 'device'"),
        ({"birads": "9"}, WORDS, r"does not know '9' \(known: 2, 4\)"),
        ({"device": "GE Logiq E9"}, {}, "here: this base was trained without words of facts"),
    ],
)  # fmt: skip
def test_what_a_base_has_no_word_for(facts: dict[str, str], words: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_facts(facts, words, "here")


def test_only_columns_with_a_known_value_count() -> None:
    rows = [{"meta": {"device": "Esaote", "birads": "4", "centre": "x"}}, {"meta": None}]
    assert known_columns(WORDS, rows) == ("birads",)
    assert known_columns({}, rows) == ()


# --------------------------------------------------------------------------------------------------- a base with words
def two_devices(folder: Path) -> Path:
    """Write records of pictures that are bright on one device and dark on the other, with a darker box in each."""
    rows: list[Record] = []
    draw = np.random.default_rng(0)
    for number in range(12):
        level = 190 if number % 2 else 50
        pixels = (level + draw.normal(0, 8, (32, 32))).clip(0, 255).astype(np.uint8)
        pixels[4:12, 18:26] //= 2
        meta = {"device": BRIGHT if number % 2 else DARK, "birads": "4", "lesion_box": [18, 4, 26, 12]}
        name = "benign" if number % 4 < 2 else "malignant"
        rows.append(image_record(folder, f"{number}", pixels, name, meta=meta))
    write_records(folder / "records.jsonl", rows)
    stage = {"schema_version": 1, "stage": "index", "state": "done", "classes": ["benign", "malignant"], "counts": {}}
    store.write_json(folder / "stage.json", stage)
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def told_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_devices(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def told_base(told_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(
        SMALL,
        views=ViewsConfig(clean=4, changed=0, close=2, words=("device", "birads", "view")),
        autoencoder=dataclasses.replace(SMALL.autoencoder, steps=60, corner_steps=0, adversarial=0.0, per_group=8),
        text_encoder=TextEncoderConfig(width=32, layers=1, steps=70, batch=32, learning_rate=5e-3),
        unet=dataclasses.replace(
            SMALL.unet, steps=110, batch=8, learning_rate=3e-3, ema=0.9, snr_gamma=5.0, emphasis={"benign": 2.0}
        ),
        checkpoint_every=1000,
        pictures_every=1000,
    )
    return pretrain(config, tmp_path_factory.mktemp("told") / "out", records=told_records)


def test_views_say_what_they_show_now_and_then(told_records: Path) -> None:
    rows = read_records(told_records, full=True)
    config = ViewsConfig(clean=20, changed=4, close=8, words=("device", "view"))
    words = words_of(rows, config.words)
    views = cut_views(rows, [load_prompt_table("breast")], 32, config, 0, words)
    assert len(views.ids) == len(rows) * 32 and set(views.groups) == {
        f"{name}/{device}" for name in ("benign", "malignant") for device in (BRIGHT, DARK)
    }
    said = Counter(
        (group.split("/")[1], word)
        for group, caption in zip(views.groups, views.captions, strict=True)
        for word in caption.split()
        if word.startswith(("device", "view"))
    )
    for device, other in ((BRIGHT, DARK), (DARK, BRIGHT)):
        assert 60 < said[device, word_of("device", device)] < 130  # about half of 192
        assert said[device, word_of("device", other)] == 0
    plain = sum(caption == look for caption, look in zip(views.captions, views.looks, strict=True))
    assert plain > len(views.ids) / 6
    bare = [caption for caption in views.captions if caption.startswith(("device", "view"))]
    assert 0 < len(bare) < len(views.ids) / 8
    close = np.arange(len(views.ids)) % 32 >= 24
    assert all("viewwhole" not in views.captions[row] for row in np.flatnonzero(close))
    dark = (views.pixels < 0.75 * np.median(views.pixels, (1, 2), keepdims=True)).mean((1, 2))
    assert dark[close].mean() > 2 * dark[~close].mean()


def test_a_column_of_words_that_no_record_has(told_records: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pretrain#views#words: no training image has 'centre' .* device"):
        words_of(read_records(told_records, full=True), ("centre",))


def test_the_text_encoder_tells_the_words(tmp_path: Path) -> None:
    table = load_prompt_table("breast")
    tokenizer, encoder = build_text_encoder(tmp_path, vocabulary_words([table], WORDS), 32, 1, 2)
    config = TextEncoderConfig(width=32, layers=1, steps=100, learning_rate=5e-3)
    work = TextEncoderTraining(tokenizer, encoder, [table], config, 0, WORDS)
    first = work.advance(0)
    for step in range(1, config.steps):
        last = work.advance(step)
    assert last["words"] < 0.2 < first["words"]
    assert last["class"] < 0.3


def test_the_word_of_a_device_acts(told_base: Path, told_records: Path, tmp_path: Path) -> None:
    card = json.loads((told_base / "base.json").read_text())
    assert card["words"]["device"] == {BRIGHT: "devicealphaone", DARK: "devicebetatwo"}
    assert card["words"]["view"] == {"close": "viewclose", "whole": "viewwhole"}
    levels = {}
    for device in (BRIGHT, DARK):
        config = GenerateConfig(counts=3, words={"device": device.lower()}, **FEW)
        made = generate(config, tmp_path / device, records=told_records, base=told_base)
        rows = read_records(made, full=True)
        assert all(row["synthetic"]["prompt"].endswith(word_of("device", device)) for row in rows)
        levels[device] = np.mean([np.asarray(Image.open(row["image"])).mean() for row in rows])
    assert levels[BRIGHT] > levels[DARK] + 40


def test_a_plan_gives_words_per_row(told_base: Path, told_records: Path, tmp_path: Path) -> None:
    plan = tmp_path / "given.csv"
    plan.write_text(f"class_name,words\nbenign,device: {BRIGHT}; view: close\nbenign,\nmalignant,device: {DARK}\n")
    config = build(GenerateConfig, {"plan": str(plan), "words": {"view": "whole", "birads": 4}, **FEW}, "generate")
    rows = read_records(generate(config, tmp_path / "out", records=told_records, base=told_base), full=True)
    sentence = "an ultrasound photo of {} tumor in breast biradsfour{}"
    assert [row["synthetic"]["prompt"] for row in rows] == [
        sentence.format("benign", " devicealphaone viewclose"),
        sentence.format("benign", " viewwhole"),
        sentence.format("malignant", " devicebetatwo viewwhole"),
    ]
    plan.write_text("class_name,words\nbenign,device: Alpha\n")
    with pytest.raises(ConfigurationError, match=r"row 0: generate#words#device: .*'Alpha'; did you mean 'Alpha 1'"):
        generate(config, tmp_path / "wrong", records=told_records, base=told_base)
    plan.write_text("class_name,words\nbenign,Alpha 1\n")
    with pytest.raises(ConfigurationError, match=r"row 0: words is 'Alpha 1', expected such as"):
        generate(config, tmp_path / "wrong2", records=told_records, base=told_base)


def test_a_base_without_words_refuses_them(told_records: Path, tmp_path: Path, tiny_base: Path) -> None:
    config = GenerateConfig(counts=1, words={"device": BRIGHT}, **FEW)
    with pytest.raises(ConfigurationError, match="generate#words: this base was trained without words of facts"):
        generate(config, tmp_path / "out", records=told_records, base=tiny_base)


def test_adapt_says_the_facts_that_a_base_has_words_for(told_base: Path, told_records: Path, tmp_path: Path) -> None:
    folder = adapt(quick(steps=2), tmp_path / "a", records=told_records, base=told_base)
    assert json.loads((folder / "adapter.json").read_text())["columns"] == ["birads", "device"]
    config = GenerateConfig(counts=2, classes=("benign",), **FEW)
    made = generate(config, tmp_path / "g", records=told_records, base=told_base, adapters=[folder])
    ends = {row["synthetic"]["prompt"].partition("breast")[2] for row in read_records(made, full=True)}
    assert ends == {" biradsfour devicealphaone", " biradsfour devicebetatwo"}
