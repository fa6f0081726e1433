"""Adapters that say how they are sampled: alone, beside others, beside a base, and when somebody says otherwise."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapter_material import card_of, random_weights, write_adapter
from diffusers import LCMScheduler

from meddap_monai import store
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.generation.config import ClassifierGuidance, GenerateConfig
from meddap_monai.diffusion.generation.defaults import settled, weights_of
from meddap_monai.diffusion.generation.plan import read_plan
from meddap_monai.diffusion.generation.remake import remake_shard
from meddap_monai.diffusion.generation.stage import cards, generate, open_sampler
from meddap_monai.errors import ConfigurationError

FEW: dict[str, Any] = {"counts": 1, "shard_size": 8, "sheet_columns": 1, "device": "cpu"}
LCM = {"scheduler": "lcm", "steps": 3, "guidance": 1.0}


def write_distilled(folder: Path, base: Path, seed: int = 5, **sampling: Any) -> Path:
    pipeline = load_base(base)
    weights = random_weights(adapters.parts_of(pipeline), {"unet": "transformer_and_convolutions"}, seed=seed)
    save_adapter(folder, weights, card_of(pipeline, "lcm") | {"sampling": LCM | sampling, "columns": ["device"]})
    (folder / "train_sha256.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def distilled(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_distilled(tmp_path_factory.mktemp("adapter") / "few", tiny_base)


@pytest.fixture(scope="module")
def own(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "own"
    write_adapter(folder, load_base(tiny_base))
    return folder


@pytest.fixture(scope="module")
def complete(tiny_base: Path, distilled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with a distilled adapter beside its weights."""
    folder = tmp_path_factory.mktemp("base") / "complete"
    shutil.copytree(tiny_base, folder)
    shutil.copytree(distilled, folder / "distilled")
    return folder


def said(config: GenerateConfig) -> tuple[Any, Any, Any]:
    return config.scheduler, config.steps, config.guidance


USUAL, THREE = ("dpmsolver++", 15, 2.5), ("lcm", 3, 1.0)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, THREE),
        ({"steps": 8}, ("lcm", 8, 1.0)),
        ({"guidance": 1.5}, ("lcm", 3, 1.5)),
        ({"scheduler": "lcm"}, THREE),
        ({"scheduler": "ddim"}, ("ddim", 15, 2.5)),
        ({"scheduler": "ddim", "steps": 4}, ("ddim", 4, 2.5)),
        ({"mode": "image"}, THREE),
    ],
)
def test_a_distilled_adapter_says_what_the_configuration_does_not(
    tiny_base: Path, distilled: Path, own: Path, keys: dict, wanted: tuple
) -> None:
    base = open_base(tiny_base)
    for given in ([distilled], [own, distilled]):
        config, found = settled(GenerateConfig(**keys), base, given)
        assert (said(config), config.distilled, found) == (wanted, False, tuple(given))
        assert settled(config, base, found) == (config, found)
    usual, _ = settled(GenerateConfig(), base, [own])
    assert said(usual) == USUAL


@pytest.mark.parametrize(
    ("keys", "with_own", "taken"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"distilled": False}, False, False),
        ({"distilled": True}, True, True),
        ({"distilled": True, "steps": 2}, False, True),
        ({"steps": 15}, False, False),
        ({"scheduler": "dpmsolver++"}, False, False),
        ({"guidance": 2.5}, False, False),
        ({"mode": "image"}, False, False),
        ({"unconditional": True}, False, False),
        ({"negative": "text"}, False, False),
        ({"plan": Path("mine.csv")}, False, False),
        ({"classifier_guidance": ClassifierGuidance(classifier=Path("there"))}, False, False),
    ],
)
def test_the_adapter_beside_a_base_is_taken_where_it_was_made_for_the_task(
    tiny_base: Path, complete: Path, own: Path, keys: dict, with_own: bool, taken: bool
) -> None:
    base, given = open_base(complete), (own,) if with_own else ()
    assert base.sha256 == open_base(tiny_base).sha256
    config, found = settled(GenerateConfig(**keys), base, given)
    assert config.distilled is taken
    assert found == ((complete / "distilled", *given) if taken else given)
    if taken:
        assert config.scheduler == "lcm"
        assert settled(config, base, found) == settled(config, base, given) == (config, found)


def test_a_base_without_one_says_so(tiny_base: Path) -> None:
    with pytest.raises(ConfigurationError, match="generate#distilled: the base .*tiny has no distilled adapter"):
        settled(GenerateConfig(distilled=True), open_base(tiny_base), ())


def test_two_ways_of_sampling_are_refused(tiny_base: Path, distilled: Path, tmp_path: Path) -> None:
    other = write_distilled(tmp_path / "other", tiny_base, steps=7)
    with pytest.raises(ConfigurationError, match="sampled in unlike ways.*one distilled adapter at a time"):
        settled(GenerateConfig(), open_base(tiny_base), [distilled, other])


def test_weights_are_those_of_the_given_adapters(complete: Path, own: Path) -> None:
    base = open_base(complete)
    config, found = settled(GenerateConfig(distilled=True, adapter_weights=(0.5,)), base, [own])
    assert weights_of(config, found) == (1.0, 0.5)
    with pytest.raises(ConfigurationError, match="1 weights for 0 adapters"):
        weights_of(*settled(GenerateConfig(distilled=True, adapter_weights=(0.5,)), base, []))


def test_a_distilled_adapter_leaves_the_words_to_others(complete: Path, own: Path) -> None:
    base = open_base(complete)
    alone, both = cards(base, [complete / "distilled"]), cards(base, [own, complete / "distilled"])
    assert (alone["class_prompts"], alone["columns"]) == ({}, ())
    assert both["class_prompts"] == cards(base, [own])["class_prompts"] != {}


def test_it_is_drawn_in_few_steps_without_the_unguided_half(
    complete: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture costs one pass per step; what was done stands in stage.json, plan and records, and can be remade."""
    asked: list[int] = []
    step = LCMScheduler.step

    @functools.wraps(step)
    def counted(self: Any, output: Any, *rest: Any, **named: Any) -> Any:
        asked.append(len(output))
        return step(self, output, *rest, **named)

    monkeypatch.setattr(LCMScheduler, "step", counted)
    path = generate(GenerateConfig(**FEW), tmp_path / "out", records=records, base=complete)
    assert asked == [3] * 3
    told = store.read_stage(tmp_path / "out")["configuration"]
    assert (told["scheduler"], told["steps"], told["guidance"], told["distilled"]) == (*THREE, True)
    assert {(row.scheduler, row.steps, row.guidance) for row in read_plan(tmp_path / "out/plan.csv")} == {THREE}
    hashes = [record["synthetic"]["adapters"] for record in iter_records(path)]
    card = json.loads((complete / "distilled/adapter.json").read_text())
    assert hashes == [[{"name": "distilled", "sha256": card["weights_sha256"], "weight": 1.0}]] * 3
    made = remake_shard(tmp_path / "out", 0, tmp_path / "again", records=records, base=complete)
    assert [(one.equal, one.levels) for one in made] == [(True, 0)] * 3
    usual = generate(GenerateConfig(**FEW, distilled=False), tmp_path / "usual", records=records, base=complete)
    assert [row["synthetic"]["scheduler"] for row in iter_records(usual)] == ["dpmsolver++"] * 3


def test_it_combines_with_an_adapter_by_weight(complete: Path, own: Path) -> None:
    """The weight change is the sum of both, each at its weight."""
    plain, changes = load_base(complete), {}
    for name, path in (("few", complete / "distilled"), ("own", own)):
        alone = load_base(complete)
        adapters.load_adapter(alone, path)
        with adapters.fuse(alone):
            changes[name] = alone.unet.state_dict()
            changes[name] = {key: value.clone() for key, value in changes[name].items()}
    config = GenerateConfig(distilled=True, adapter_weights=(0.5,), device="cpu")
    with open_sampler(config, complete, [own]) as sampler:
        found = sampler.pipeline.unet.state_dict()
        for key, start in plain.unet.state_dict().items():
            wanted = changes["few"][key] + 0.5 * (changes["own"][key] - start)
            assert (found[key] - wanted).abs().max() < 1e-5
