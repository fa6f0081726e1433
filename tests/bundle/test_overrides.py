"""A misspelled override of a bundle stops the run; a right one does not."""

from pathlib import Path

import pytest
from monai.bundle import create_workflow

from meddap_monai.bundle import check_overrides
from meddap_monai.errors import ConfigurationError
from meddap_monai.study.overlays import study_sections

TRAIN = """
device: cpu
imports: ["$import torch"]
network_def: {_target_: monai.networks.nets.DenseNet121, spatial_dims: 2, in_channels: 1, out_channels: 3}
loss: {_target_: DiceLoss}
options: {}
nothing: null
train:
  handlers: [{_target_: monai.handlers.StatsHandler}, {_target_: monai.handlers.StatsHandler}]
  trainer: {max_epochs: 3, device: "@device"}
  inferer: "@inferer"
inferer: {_target_: SimpleInferer}
sections: {generate: {}}
run: ["@device"]
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "some_bundle" / "configs"
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(TRAIN)
    (folder / "multi_gpu_train.yaml").write_text("train#sampler: {_target_: torch.utils.data.SequentialSampler}\n")
    return folder


def command(bundle: Path, *words: str) -> list[str]:
    return ["run", "--config_file", str(bundle / "train.yaml"), *words]


RIGHT = [
    ["--train#trainer#max_epochs", "5"],
    ["--train#trainer#max_epochs=5"],
    ["--train::trainer::max_epochs=5"],
    ["--device", "cuda"],
    ["--network_def#out_channels=2"],
    ["--network_def#dropout_prob=0.1"],
    ["--network_def", "{'_target_': 'monai.networks.nets.SEResNet50'}"],
    ["--loss#_disabled_=True"],
    ["--train#handlers#1#name=x"],
    ["--options#anything=1"],
    ["--nothing", "4"],
    ["--_meta_#version", "1"],
    ["--tracking", "mlflow", "--experiment_name", "first"],
    ["--logging_file", "x.conf", "--run_id", "run"],
]


@pytest.mark.parametrize("words", RIGHT, ids=" ".join)
def test_a_right_override_passes(bundle: Path, words: list[str]) -> None:
    check_overrides(command(bundle, *words))


WRONG = [
    (["--devise", "cuda"], "unknown key 'devise'; did you mean 'device'"),
    (["--train#trainer#max_epoch=5"], "train#trainer: unknown key 'max_epoch'; did you mean 'max_epochs'"),
    (["--train#trainor#max_epochs=5"], "did you mean 'trainer'"),
    (["--network_def#out_chanels=2"], "network_def: unknown key 'out_chanels'; did you mean 'out_channels'"),
    (["--loss#smoth=1"], "unknown key 'smoth'"),
    (["--train#handlers#2#name=x"], "got the index '2', expected 0 to 1"),
    (["--train#inferer#overlap=0.5"], "train#inferer: is '@inferer', which has no key 'overlap'"),
    (["--nothing#below=1"], "nothing: is None"),
    (["--train", "{'trainer': {'max_epochs': 2}}"], "would replace the whole mapping and lose its other keys"),
    (["--experiment_name", "first"], "unknown key 'experiment_name'"),
    (["--generate#stesp", "4"], "unknown key 'generate'"),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_misspelled_override_is_named(bundle: Path, words: list[str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text.replace("(", r"\(")):
        check_overrides(command(bundle, *words))


def test_the_bundles_own_second_file_may_bring_ids_and_a_foreign_one_may_not(bundle: Path, tmp_path: Path) -> None:
    own = f"['{bundle / 'train.yaml'}','{bundle / 'multi_gpu_train.yaml'}']"
    check_overrides(["run", "--config_file", own, "--train#sampler#data_source", "1"])
    foreign = tmp_path / "overlay.yaml"
    foreign.write_text("train#sampler: 3\n")
    with pytest.raises(ConfigurationError, match=r"overlay.yaml: train: unknown key 'sampler'"):
        check_overrides(["run", "--config_file", f"{bundle / 'train.yaml'},{foreign}"])


def test_a_misspelled_id_in_an_args_file_is_named(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "arguments.yaml"
    file.write_text(f"config_file: {bundle / 'train.yaml'}\nlos#weight: 3\n")
    with pytest.raises(ConfigurationError, match="did you mean 'loss'"):
        check_overrides(["run", "--args_file", str(file)])


def test_sections_are_left_to_what_reads_them(bundle: Path) -> None:
    check_overrides(command(bundle, "--train#free=1"), sections=["train"])
    with pytest.raises(ConfigurationError, match="unknown key 'trian'"):
        check_overrides(command(bundle, "--trian#free=1"), sections=["train", "trian"])


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--study#off#steps=1", 'study#off is None.*give the whole mapping: --study#off "{steps: ...}"'),
        ("--study#none#steps=1", "study#none is None"),
        ("--study#generate#steps#more=1", "study#generate#steps is 4"),
    ],
)
def test_an_id_that_monai_cannot_write_is_named_with_the_way_out(bundle: Path, word: str, text: str) -> None:
    with (bundle / "train.yaml").open("a") as file:
        file.write("study: {off: null, generate: {steps: 4}}\n")
    check_overrides(command(bundle, "--study#generate#free=1", "--study#off={steps: 1}"), sections=["study"])
    with pytest.raises(ConfigurationError, match=text):
        check_overrides(command(bundle, word), sections=["study"])


def test_outside_monai_s_command_line_nothing_is_checked(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    words = command(bundle, "--devise=1")
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", *words])
    check_overrides()
    monkeypatch.setattr("sys.argv", ["/site-packages/monai/bundle/__main__.py", *words])
    with pytest.raises(ConfigurationError, match="devise"):
        check_overrides()


@pytest.mark.filterwarnings("ignore")
def test_calls_from_python_are_checked_through_the_workflow_class(bundle: Path) -> None:
    name = "meddap_monai.bundle.CheckedWorkflow"
    (bundle / "metadata.json").write_text('{"version": "0"}')
    workflow = create_workflow(
        workflow_name=name, config_file=str(bundle / "train.yaml"), **{"train#trainer#max_epochs": 7}
    )
    assert workflow.parser["train#trainer#max_epochs"] == 7
    with pytest.raises(ConfigurationError, match="did you mean 'max_epochs'"):
        create_workflow(workflow_name=name, config_file=str(bundle / "train.yaml"), **{"train#trainer#max_epoch": 7})


@pytest.mark.filterwarnings("ignore")
def test_the_workflow_class_knows_the_sections_that_the_bundle_names(bundle: Path, tmp_path: Path) -> None:
    step = "initialize: [{_target_: meddap_monai.bundle.check_overrides, sections: [adapt]}]\nadapt: {method: a}\n"
    (bundle / "train.yaml").write_text(TRAIN + step)
    (bundle / "metadata.json").write_text('{"version": "0"}')
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("adapt: null\n")
    options = {"workflow_name": "meddap_monai.bundle.CheckedWorkflow", "config_file": str(bundle / "train.yaml")}
    assert create_workflow(**options, **{"adapt#steps": 7}).parser["adapt#steps"] == 7
    options["config_file"] = [str(bundle / "train.yaml"), str(overlay)]
    with pytest.raises(ConfigurationError, match="adapt is None, and MONAI sets ids only below a mapping"):
        create_workflow(**options, **{"adapt#steps": 7})


STUDY = "generate: {}\nadapt: {steps: 3, rank: 4}\nunseen: null\nvariants: {a: {}}\n"
STUDY += "study: {generate: '@generate', adapt: '@adapt', unseen: '@unseen', variants: '@variants'}\n"


@pytest.mark.parametrize(
    ("overlay", "text"),
    [
        ("adapt: {steps: 5}", "'adapt' would replace the whole mapping.*'adapt#steps'"),
        ("adpat#steps: 5", "did you mean 'adapt'"),
        ("adapt#steps#more: 5", "'steps' is 3, which has no keys"),
        ("- 1", "got list, expected a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_overlay_of_the_study_is_named(tmp_path: Path, overlay: str, text: str) -> None:
    (tmp_path / "train.yaml").write_text(STUDY)
    (tmp_path / "over.yaml").write_text(overlay)
    with pytest.raises(ConfigurationError, match=text):
        study_sections([tmp_path / "train.yaml", tmp_path / "over.yaml"])


def test_overlays_go_over_one_another_and_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(STUDY)
    (tmp_path / "one.yaml").write_text("adapt#steps: 5\nunseen: {source: a, split: unseen}\nvariants: {b: {x#y: 1}}")
    (tmp_path / "two.yaml").write_text("adapt: {steps: 6, rank: 8}\ngenerate#guide#scale: 2")
    files = [tmp_path / name for name in ("train.yaml", "one.yaml", "two.yaml")]
    check_overrides(["run", "--config_file", str([str(file) for file in files]), "--variants={}"], ["generate"])
    assert study_sections(files, {"unseen#source": "b"}) == {
        "generate": {"guide": {"scale": 2}},
        "adapt": {"steps": 6, "rank": 8},
        "unseen": {"source": "b", "split": "unseen"},
        "variants": {"b": {"x#y": 1}},
    }
