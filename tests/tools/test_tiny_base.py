"""The untrained folder opens in diffusers, knows the tables' words, and is the same bytes for the same seed."""

import warnings
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.diffusion.bases.prompts import load_prompt_table, table_names
from meddap_monai.diffusion.pretraining.tokenizer import PROMPT_LENGTH, learn_merges
from tools.tiny_base import build_tiny_base

WEIGHTS = ("unet", "vae")


def test_equal_seeds_give_equal_files(tiny_base: Path, tmp_path: Path) -> None:
    again, other = build_tiny_base(tmp_path / "a"), build_tiny_base(tmp_path / "b", seed=1)
    for part in WEIGHTS:
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert store.sha256_file(again / name) == store.sha256_file(tiny_base / name)
        assert store.sha256_file(other / name) != store.sha256_file(tiny_base / name)


def test_opens_without_warnings_and_draws(tiny_base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.safety_checker is None
    image = pipeline("a photo of fetal brain", num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)


@pytest.mark.parametrize("name", table_names())
def test_every_word_of_the_tables_is_one_token_and_every_prompt_fits(tiny_base: Path, name: str) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    table = load_prompt_table(name)
    for word in table.words():
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
    prompts = [
        table.prompt(class_name, adjective, template)
        for class_name in table.classes
        for adjective in table.adjectives
        for template in range(len(table.templates))
    ]
    assert max(len(ids) for ids in tokenizer(prompts).input_ids) <= PROMPT_LENGTH


def test_unknown_text_falls_back_to_letters(tiny_base: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    pieces = tokenizer.tokenize("zebra")
    assert len(pieces) > 1
    assert tokenizer.unk_token not in pieces


def test_merges_end_with_whole_words() -> None:
    merges = learn_merges(["ab", "abc", "b"])
    assert {"".join(pair) for pair in merges} >= {"ab</w>", "abc</w>"}
