"""The four published studies: their resolved configurations, and all of them run at smoke scale (``make smoke``).

``python tests/test_studies.py`` writes the stored configurations again; read the difference before you commit it.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meddap_monai import store
from meddap_monai.cli.main import main
from meddap_monai.core.ids import read_yaml
from meddap_monai.core.records import iter_records, read_records, write_records
from meddap_monai.core.resources import find
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import read_stage
from meddap_monai.study import draw, read_study, run_study
from meddap_monai.study.config import DrawConfig
from meddap_monai.study.sections import load_sections
from meddap_monai.study.seed import SeedRunner, read_runner
from tools.bundle_lint import lint_overlay

STUDIES = ["meddap_busi", "fulora_fetal", "histodiffusion", "ort_dreambooth"]
STORED = Path(__file__).parent / "resolved"
CASES = [(study, *smoke) for study in STUDIES for smoke in ((), ("smoke",))]


def resolve(*overlays: str) -> dict[str, Any]:
    """Everything that a study of these overlays would do: its sections, and what its variants change."""
    sections = load_sections(overlays)
    _, variants = read_study(sections)
    return {"sections": sections, "variants": list(variants)}


@pytest.mark.parametrize("overlays", CASES, ids="+".join)
def test_the_resolved_configuration_is_the_stored_one(overlays: tuple[str, ...]) -> None:
    stored = json.loads((STORED / f"{'+'.join(overlays)}.json").read_text())
    assert json.loads(json.dumps(resolve(*overlays))) == stored


@pytest.mark.parametrize("overlays", CASES, ids="+".join)
def test_another_process_runs_the_same_study(overlays: tuple[str, ...]) -> None:
    """Limits hold numbers as keys, which JSON turns into text: they are applied before anything is sent."""
    study, variants = read_study(load_sections(overlays))
    sent = SeedRunner(study, list(variants.values()), Path("out"), Path("own.jsonl"), None, False).plain()
    again = read_runner(json.loads(json.dumps(sent)))
    said = {"limits": {}, "variants": {}, "grid": {}}
    assert again.study == replace(study, **said)
    assert again.variants == [replace(one, config=replace(one.config, **said)) for one in variants.values()]


def _known() -> dict[str, Any]:
    return read_yaml(find("bundles/meddap_study/configs/train.yaml"))


@pytest.mark.parametrize("name", sorted(path.name for path in find("configs").glob("*.yaml")))
def test_overlays_hold_data_under_full_ids(name: str) -> None:
    assert lint_overlay(find(f"configs/{name}"), _known()) == []


def test_published_settings_reach_the_stages() -> None:
    _, meddap = read_study(load_sections(["meddap_busi"]))
    assert len(meddap) == 10 * 3 * 3
    one = meddap["high_contrast-2.0-squeezenet1_1"].config
    assert (one.adapt.rank, one.adapt.alpha, one.adapt.resolution, one.adapt.batch) == (4, 4.0, 224, 1)
    assert (one.generate.adjectives, one.generate.ratio, one.generate.steps) == (("high-contrast",), 2.0, 30)
    assert (one.generate.scheduler, one.generate.guidance) == ("pndm", 7.5)
    assert one.classify.encoder == "torchvision:squeezenet1_1"
    assert (one.adapt.flip, one.adapt.learning_rate, one.adapt.weight_decay, one.adapt.precision) == (
        True, 1e-4, 1e-2, "fp16"
    )  # fmt: skip
    assert (one.classify.optimizer, one.classify.learning_rate, one.classify.batch, one.classify.resolution) == (
        "adam", 1e-3, 32, 224
    )  # fmt: skip
    assert (one.seeds[0], one.evaluate.metric, one.adapt.steps) == (42, "accuracy", 50_000)
    _, fulora = read_study(load_sections(["fulora_fetal"]))
    assert len(fulora) == 3 * 5
    one = fulora["128-vit_b16"].config
    assert (one.adapt.method, one.adapt.rank, one.generate.scheduler) == ("fulora", 128, ("euler", "unipc"))
    assert (one.generate.counts, one.draw.train, one.cluster.nearest) == (1000, 230, 20)
    assert (one.adapt.batch, one.adapt.steps, one.adapt.clip_skip, one.adapt.flip) == (2, 10_000, 1, False)
    assert (one.adapt.learning_rate, one.adapt.text_learning_rate, one.adapt.optimizer) == (1e-4, 5e-5, "adamw8bit")
    assert (one.classify.optimizer, one.classify.learning_rate, one.seeds[0]) == ("sgd", 1e-3, 1234)
    assert one.evaluate.embedding == "tsne"
    _, histo = read_study(load_sections(["histodiffusion"]))
    assert [one.config.mix.ratio for one in histo.values()] == [0.5, 1.0, 2.0, 3.0]
    one = histo["0.5"].config
    assert one.generate.unconditional and one.generate.classifier_guidance.scale == 10.0
    assert (one.pretrain.unet.loss, one.pretrain.unet.beta_start, one.select.rules.quota) == ("l1", 0.0015, 500)
    assert [width / 192 for width in one.pretrain.unet.channels] == [1, 2, 2, 4, 4]
    assert [width / 128 for width in one.pretrain.autoencoder.channels] == [1, 2, 4]
    unet = one.pretrain.unet
    assert (sum(unet.attention), unet.beta_end, unet.warmup) == (4, 0.0155, 10_000)
    guide = one.generate.classifier_guidance
    assert (guide.variant, guide.training.learning_rate, guide.training.batch) == ("published", 5e-5, 32)
    assert (one.generate.scheduler, one.generate.eta, one.select.rules.use) == ("ddim", 1.0, ("centroid",))
    _, ort = read_study(load_sections(["ort_dreambooth"]))
    assert {one.config.generate.strength for one in ort.values() if one.config.adapt is None} == {0.05, 0.1, 0.15, 0.2}
    assert {one.config.adapt.method for one in ort.values() if one.config.adapt} == {"dreambooth", "textual_inversion"}
    assert {one.config.classify.head for one in ort.values()} == {"mlp", "svc", "logistic"}
    assert all(one.config.mix.mode == "double" for one in ort.values())
    assert {one.config.generate.steps for one in ort.values()} == {24, 50}
    one = ort["dreambooth_single-mlp"].config
    assert one.adapt.dreambooth.instance_prompt("pneumoconiosis") == "image of a pneumoconiosis xray"
    assert (one.cluster.k, one.cluster.iterations, one.cluster.nearest) == (5, 20, 25)
    assert (one.adapt.dreambooth.full, one.adapt.dreambooth.text_encoder, one.adapters) == (True, True, "per_class")


def test_a_grid_spans_variants_and_a_diagonal_takes_each_value_once() -> None:
    grid = "grid={'generate#ratio': [1, 2], 'classify#encoder': {a: resnet10, b: resnet18, c: resnet34}}"
    _, product = read_study(load_sections([], [grid]))
    assert list(product) == ["1-a", "1-b", "1-c", "2-a", "2-b", "2-c"]
    assert product["2-b"].config.generate.ratio == 2.0
    assert product["2-b"].real == "b", "an arm without synthetic images does not depend on the ratio"
    _, diagonal = read_study(load_sections([], [grid, "combine=diagonal", "variants={x: {seeds: [4]}}"]))
    assert list(diagonal) == ["x-1-a", "x-2-b", "x-1-c"]
    assert diagonal["x-2-b"].config.seeds == (4,)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["grid={'classify#encoder': []}"], "got no values"),
        (["grid={'classify#encodre': [a]}"], "did you mean 'encoder'"),
        (["grid={'generate#ratio': {a: 1, 'a ': 2}}"], "name the values"),
        (["variants={x: {'clasify#resolution': 32}}"], "did you mean 'classify'"),
        (["combine=diagonl"], "did you mean 'diagonal'"),
        (["adapters=per_cluster"], "needs clusters"),
    ],
)
def test_a_wrong_grid_is_named(words: list[str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        read_study(load_sections([], words))


def test_the_unseen_and_the_unlabelled_set_are_one_split_each() -> None:
    words = ["index#source=a", "unseen#source=b", "unlabelled#source=c", "variants={x: {'unlabelled#split': val}}"]
    study, variants = read_study(load_sections([], words))
    assert (study.index.split, study.unseen.split, study.unlabelled.split) == ("", "unseen", "train")
    assert (variants["x"].config.unseen.split, variants["x"].config.unlabelled.split) == ("unseen", "val")


def test_limits_have_the_last_word_where_the_section_is_used_and_the_command_line_beats_them() -> None:
    limits = "limits={'adapt#steps': 2, 'pretrain#resolution': 8, 'classify#encoder': {replace: {resnet18: resnet10}}}"
    words = [limits, "variants={x: {'adapt#steps': 9, 'classify#encoder': resnet18}, y: {adapt: null}}"]
    _, variants = read_study(load_sections([], words))
    assert variants["x"].config.adapt.steps == 2
    assert variants["x"].config.classify.encoder == "resnet10"
    assert variants["x"].config.pretrain is None and variants["y"].config.adapt is None
    _, variants = read_study(load_sections([], [*words, "adapt#steps=5"]))
    assert variants["y"].config.adapt is None and variants["x"].config.adapt.steps == 9


def test_outputs_of_several_tasks_are_joined(make_records: Any, tmp_path: Path) -> None:
    first, second = make_records({"train": 2}), make_records({"val": 1})
    for number, records in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        for name in ("records.jsonl", "stage.json"):
            target = "generated.jsonl" if name == "records.jsonl" else name
            (tmp_path / str(number) / target).write_bytes((records.parent / name).read_bytes())
    parts = [str(tmp_path / "0"), str(tmp_path / "1" / "generated.jsonl")]
    assert main(["join", *parts, "--output", str(tmp_path / "all")]) == 0
    assert len(read_records(tmp_path / "all" / "generated.jsonl")) == 9
    assert main(["join", parts[0], parts[0], "--output", str(tmp_path / "twice")]) == 2


# ------------------------------------------------------------------------------------------------------ smoke scale
@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> str:
    """The embedded base where it is, else an untrained one of the same kind."""
    try:
        find("data/base/model_index.json")
    except ConfigurationError:
        return str(request.getfixturevalue("tiny_base"))
    return "embedded"


def run_smoke(study: str, base: str, folder: Path) -> Path:
    read, hashed = store.sha256_file, Counter[Path]()

    def counting(path: Path | str) -> str:
        hashed[Path(path)] += 1
        return read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "sha256_file", counting)
        report = run_study(folder, load_sections([study, "smoke"], [f"base={base}"]))
    weights = Path(open_base(base).source).rglob("*.safetensors")
    assert max(hashed[path] for path in weights) <= 1, "a study opens each base once"
    for path in folder.rglob("stage.json"):
        assert read_stage(path.parent)["state"] == "done", path
    page = report.read_text()
    assert "Smoke scale: simulated images" in page, "the report must say that nothing in it is evidence"
    return folder


def generated(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Variant -> full synthetic records."""
    parts = (folder / "seed_0" / "generate").rglob("generated.jsonl")
    return {path.relative_to(folder / "seed_0" / "generate").parts[0]: list(iter_records(path)) for path in parts}


def judged(folder: Path) -> set[str]:
    return set(json.loads((folder / "evaluate" / "report.json").read_text())["sets"]["own"]["arms"])


@pytest.mark.smoke
@pytest.mark.timeout(1200)
def test_meddap_runs_at_smoke_scale(base: str, tmp_path: Path) -> None:
    folder = run_smoke("meddap_busi", base, tmp_path)
    records = generated(folder)
    assert len(records) == 10
    assert {record["synthetic"]["adjective"] for one in records.values() for record in one} == {
        "none", "colorful", "stylized", "high-contrast", "low-contrast",
        "posterized", "solarized", "sheared", "bright", "dark",
    }  # fmt: skip
    real = Counter(r["class_name"] for r in read_records(folder / "index" / "records.jsonl", split="train"))
    assert Counter(r["class_name"] for r in records["stylized-2.0-squeezenet1_1"]) == {
        n: 2 * c for n, c in real.items()
    }
    prompts = {record["synthetic"]["prompt"] for record in records["bright-2.0-squeezenet1_1"]}
    assert "bright an ultrasound photo of no tumor in breast" in prompts
    assert {"real@densenet121", "real@resnet34", "real@squeezenet1_1"} <= judged(folder)
    assert (folder / "unseen" / "records.jsonl").is_file()


def test_patients_of_the_unlabelled_set_may_train_and_are_never_judged(make_records, tmp_path: Path) -> None:
    """Two pictures of each patient: where one is in the archive, the other must not be tested on either."""
    pool = make_records({"test": 12}, size=16)
    rows = [row | {"split": ""} for row in read_records(pool, full=True)]
    first = {row["patient"]: row for row in rows}
    known = sorted(first)[::3]
    archive, own = tmp_path / "archive" / "records.jsonl", tmp_path / "own" / "records.jsonl"
    write_records(archive, [first[name] | {"split": "train"} for name in known])
    write_records(own, [row | {"split": "train"} for row in rows if row["id"] not in {first[n]["id"] for n in known}])
    shutil.copy(pool.parent / "stage.json", own.parent)
    without, held = (
        draw(DrawConfig(4, 2), tmp_path / name, own, 0, "embedded", unlabelled=unlabelled)
        for name, unlabelled in (("without", None), ("with", archive))
    )
    judged = {row["patient"] for row in read_records(without) if row["split"] != "train"}
    assert judged & set(known), "otherwise nothing is shown"
    splits = {row["split"] for row in read_records(held) if row["patient"] in known}
    assert splits == {"train"}
    assert {row["split"] for row in read_records(held)} == {"train", "val", "test"}


@pytest.mark.smoke
@pytest.mark.timeout(1200)
def test_fulora_runs_at_smoke_scale(base: str, tmp_path: Path) -> None:
    folder = run_smoke("fulora_fetal", base, tmp_path)
    for records in generated(folder).values():
        assert len({record["synthetic"]["scheduler"] for record in records}) == 2
    ranks = {json.loads(path.read_text())["rank"] for path in (folder / "seed_0" / "adapt").rglob("adapter.json")}
    assert ranks == {8, 32, 128}
    chosen = read_records(next((folder / "seed_0" / "cluster").rglob("chosen.jsonl")))
    assert set(Counter(record["class_name"] for record in chosen).values()) == {4}
    assert {"real@vit_b16", "real_classical@vit_b16"} <= judged(folder)
    maps = json.loads((folder / "evaluate" / "report.json").read_text())["maps"]
    assert [set(found["points"]) for found in maps] == [{"real, training", "synthetic", "unseen test set"}] * 2


@pytest.mark.smoke
@pytest.mark.timeout(1200)
def test_histodiffusion_runs_at_smoke_scale(base: str, tmp_path: Path) -> None:
    folder = run_smoke("histodiffusion", base, tmp_path)
    (made,) = folder.glob("pretrain/*/base")
    assert (made / "model_index.json").is_file()
    unlabelled = {record["id"] for record in read_records(folder / "unlabelled" / "records.jsonl")}
    assert unlabelled.isdisjoint(record["id"] for record in read_records(folder / "index" / "records.jsonl"))
    (records,) = generated(folder).values()
    assert {record["synthetic"]["prompt"] for record in records} == {""}
    (selection,) = folder.glob("seed_0/select/**/stage.json")
    counts = read_stage(selection.parent)["counts"]
    assert (counts["in"], counts["out"], counts["rejected"]) == (3 * 32, 3 * 24, 3 * 8), "the quota drops the worst"
    dropped = (selection.parent / "dropped.csv").read_text().splitlines()[1:]
    assert len(dropped) == 24 and all(",quota," in line for line in dropped)
    added = {p.parent.parent.name: read_stage(p.parent)["counts"] for p in folder.glob("seed_0/mix/*/mixed/stage.json")}
    shares = {name: round(counts["added"] / counts["real_train"], 1) for name, counts in added.items()}
    assert shares == {"0.5": 0.5, "1.0": 1.0, "2.0": 2.0, "3.0": 3.0}


@pytest.mark.smoke
@pytest.mark.timeout(1200)
def test_ort_runs_at_smoke_scale_on_colour_images(base: str, tmp_path: Path) -> None:
    from PIL import Image

    folder = run_smoke("ort_dreambooth", base, tmp_path)
    first = read_records(folder / "index" / "records.jsonl")[0]
    assert Image.open(first["image"]).mode == "RGB"
    records = generated(folder)
    for name in ("noise_005-mlp", "noise_010-svc", "noise_015-logistic", "noise_020-mlp"):
        assert {record["synthetic"]["mode"] for record in records[name]} == {"image"}
        assert {record["synthetic"]["strength"] for record in records[name]} == {int(name[6:9]) / 100}
        assert all(record["synthetic"]["adapters"] == [] for record in records[name])
    assert list((folder / "seed_0" / "adapt").glob("textual_inversion-*/embeddings.safetensors"))
    assert list((folder / "seed_0" / "adapt").glob("dreambooth_single-*/*/base/unet"))
    assert list((folder / "seed_0" / "adapt").glob("dreambooth_lora-*/*/adapter.safetensors"))
    heads = {
        json.loads(path.read_text())["configuration"]["head"]
        for path in folder.glob("seed_0/classify/*/real/stage.json")
    }
    assert heads == {"mlp", "svc", "logistic"}


if __name__ == "__main__":
    for case in CASES:
        text = json.dumps(resolve(*case), indent=1, sort_keys=True)
        (STORED / f"{'+'.join(case)}.json").write_text(text + "\n")
