"""Four bundles to the model zoo's standard: files, metadata, MONAI's properties, and running them in every way."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ckpt_export, create_workflow, run, verify_metadata, verify_net_in_out

import meddap_monai
from meddap_monai.bundle import check_overrides
from meddap_monai.core.ids import look_up
from meddap_monai.core.resources import find
from meddap_monai.errors import ConfigurationError
from meddap_monai.study import StudyConfig, read_study
from tools.bundle_lint import lint_bundle

ROOT = find("bundles").parent
NAMES = ["uslora_adapter", "ultrasound_ldm", "ultrasound_classifier", "meddap_study"]
TRAINING = NAMES[:3]
"""Bundles with MONAI's train and inference properties; a study trains many things and has none of its own."""
SCHEMA = Path(__file__).parent / "data" / "meta_schema.json"
PUBLISHED = {
    "metadata": "schema version monai_version pytorch_version numpy_version required_packages_version task description "
    "authors copyright network_data_format",
    "tensor": "type format num_channels spatial_shape dtype value_range",
}
"""What the published meta_schema_20240725.json requires, read in Project-MONAI/project-monai.github.io
(public/schema, commit abfc0515); the other fields of that schema are optional."""
VERSIONS = {"monai": "monai", "pytorch": "torch", "numpy": "numpy"}
SECTIONS = ["Data", "Training configuration", "Performance", "MONAI Bundle Commands", "References", "License"]
pytestmark = pytest.mark.filterwarnings("ignore")


def configs(name: str) -> Path:
    return find(f"bundles/{name}") / "configs"


def small(name: str, folder: Path, records: Path, base: Path) -> dict[str, Any]:
    """Overrides under which a bundle's training takes seconds."""
    shared: dict[str, Any] = {"dataset_dir": str(records.parent), "device": "cpu", "ckpt_dir": str(folder / "models")}
    adapt = {"steps": 2, "batch": 2, "samples_per_class": 0, "validation_every": 0}
    if name == "uslora_adapter":
        shared |= {"output_dir": str(folder / "adapter"), "base": str(base), "resolution": 32}
        return shared | {f"adapt#{key}": value for key, value in adapt.items()}
    if name == "ultrasound_classifier":
        shared |= {"output_dir": str(folder / "curves"), "epochs": 1, "batch": 4}
        return shared | {"resolution": 32, "val_interval": 1}
    if name == "ultrasound_ldm":
        return shared | {"output_dir": str(folder / "base")} | SMALL_LDM
    return {
        "index#source": "simulated",
        "simulated#patients_per_class": 9,
        "draw": {"train": 6, "val": 3},
        "base": str(base),
        "seeds": [0],
        "arms": ["real", "real_synthetic"],
        "output_dir": str(folder / "study"),
        **{f"adapt#{key}": value for key, value in adapt.items()},
        "generate#steps": 2,
        "generate#ratio": 1.0,
        "select#rules#alpha": 0.0,
        "select#filter": {
            "encoder": "resnet10_tiny",
            "mode": "scratch",
            "resolution": 32,
            "steps": 4,
            "folds": 2,
            "views": 1,
        },
        "select#pictures": False,
        "select#copies#action": "report",
        "classify#encoder": "resnet10_tiny",
        "classify#mode": "scratch",
        "classify#resolution": 32,
        "classify#steps": 4,
        "classify#batch": 8,
        "classify#pictures": False,
        "evaluate#samples": 50,
        "evaluate#pictures": 1,
    }


SMALL_LDM: dict[str, Any] = {
    "pretrain#resolution": 32,
    "pretrain#views": {"clean": 1, "changed": 1},
    "pretrain#autoencoder": {"channels": [16, 32, 32], "latents": 4, "steps": 2, "batch": 2, "crop": 32}
    | {"corner_steps": 2},
    "pretrain#text_encoder": {"width": 32, "layers": 1, "steps": 2, "batch": 4},
    "pretrain#unet": {"channels": [16, 32], "groups": 8, "heads": 2, "steps": 2, "batch": 2},
}
RESULTS = {
    "uslora_adapter": "adapter/adapter.safetensors",
    "ultrasound_ldm": "base/**/model_index.json",
    "ultrasound_classifier": "models/model.pt",
    "meddap_study": "study/evaluate/report.html",
}


@pytest.fixture(scope="module")
def adapter(records: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny base, which the adapter bundle's inference opens."""
    folder = tmp_path_factory.mktemp("trained")
    run(
        config_file=str(configs("uslora_adapter") / "train.yaml"), **small("uslora_adapter", folder, records, tiny_base)
    )
    return folder / "adapter"


# ------------------------------------------------------------------------------------------------- what a bundle holds
@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_passes_the_linter(name: str) -> None:
    assert lint_bundle(find(f"bundles/{name}")) == []


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_verified_by_monai(name: str) -> None:
    verify_metadata(meta_file=str(configs(name) / "metadata.json"), filepath=str(SCHEMA))


def test_the_schema_refuses_what_the_zoo_refuses(tmp_path: Path) -> None:
    whole = json.loads((configs("meddap_study") / "metadata.json").read_text())
    for change in (
        {"version": "1"},
        {"monai_version": 1.6},
        {"network_data_format": {}},
        {"eval_metrics": {"auc": "x"}},
    ):
        (tmp_path / "metadata.json").write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match="Failed validating"):
            verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


def test_our_schema_asks_for_all_that_the_published_one_does() -> None:
    ours = json.loads(SCHEMA.read_text())
    assert set(PUBLISHED["metadata"].split()) <= set(ours["required"])
    assert set(PUBLISHED["tensor"].split()) <= set(ours["$defs"]["tensors"]["additionalProperties"]["required"])


@pytest.mark.parametrize("name", NAMES)
def test_metadata_names_the_versions_that_are_pinned(name: str) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    meta = json.loads((configs(name) / "metadata.json").read_text())
    stated = {package: meta[f"{key}_version"] for key, package in VERSIONS.items()}
    stated |= meta["required_packages_version"] | meta.get("optional_packages_version", {})
    assert stated.pop("meddap-monai") == meddap_monai.__version__
    assert stated == {package: pins[package] for package in stated}


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_has_the_zoo_s_sections(name: str) -> None:
    text = (find(f"bundles/{name}") / "docs" / "README.md").read_text()
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    assert headings[0] == "Model Overview"
    assert [section for section in SECTIONS if section not in headings] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_override_of_a_bundle_is_checked_at_its_start(name: str) -> None:
    content = yaml.safe_load((configs(name) / "train.yaml").read_text())
    assert "meddap_monai.bundle.check_overrides" in json.dumps(content["initialize"])
    words = ["run", "--config_file", str(configs(name) / "train.yaml"), "--otput_dir", "x"]
    with pytest.raises(ConfigurationError, match="did you mean 'output_dir'"):
        check_overrides(words)


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_s_own_overlays_name_what_is_there(name: str) -> None:
    for overlay in ("multi_gpu_train.yaml", "evaluate.yaml"):
        if (configs(name) / overlay).exists():
            files = f"['{configs(name) / 'train.yaml'}','{configs(name) / overlay}']"
            check_overrides(["run", "--config_file", files])


# ----------------------------------------------------------------------------------------------- MONAI's contract
@pytest.mark.parametrize("kind", ["train", "inference"])
@pytest.mark.parametrize("name", TRAINING)
def test_monai_finds_every_property(
    name: str, kind: str, records: Path, tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    overrides = {"dataset_dir": str(records.parent), "device": "cpu", "bundle_root": str(tmp_path)}
    known = yaml.safe_load((configs(name) / f"{kind}.yaml").read_text())
    places = {"base": str(tiny_base), "adapter": str(adapter)}
    overrides |= {key: value for key, value in places.items() if key in known}
    workflow = create_workflow(
        config_file=str(configs(name) / f"{kind}.yaml"),
        workflow_type="train" if kind == "train" else "infer",
        **overrides,
    )
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["train", "inference", "evaluate", "multi_gpu_train"])
def test_create_workflow_opens_each_configuration(name: str, kind: str) -> None:
    """Opening is parsing and resolving; what a configuration initialises (process groups) is left out."""
    file = configs(name) / f"{kind}.yaml"
    if not file.exists():
        assert kind == "evaluate", f"{file} is missing"
        return
    alone = kind in ("train", "inference") or "network_def" in yaml.safe_load(file.read_text())
    files = [str(file)] if alone else [str(configs(name) / "train.yaml"), str(file)]
    workflow = create_workflow(config_file=files, workflow_type="train", initialize=[])
    assert "run" in workflow.parser
    assert workflow.get_meta_file().endswith("metadata.json")


def _sections_of(cls: type, prefix: str = "") -> list[str]:
    """Full ids of the sections (nested dataclasses) of a configuration class."""
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        for option in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(option):
                found += [f"{prefix}{name}", *_sections_of(option, f"{prefix}{name}#")]
    return found


def test_every_id_of_a_study_can_be_set_through_monai() -> None:
    """MONAI writes only below mappings that are there, so all sections are, also those that are off."""
    known = yaml.safe_load((configs("meddap_study") / "train.yaml").read_text())
    missing = [section for section in _sections_of(StudyConfig) if not isinstance(look_up(section, known), dict)]
    assert missing == []
    alone = read_study({name: known[name] for name in known["study"]})[0]
    off = (alone.unseen, alone.unlabelled, alone.cluster, alone.pretrain, alone.generate.classifier_guidance)
    assert off == (None,) * 5 and alone.adapt is not None
    given = {"unseen#source": "y", "cluster#filter#steps": 9, "pretrain#unet#steps": 8, "mix#search#seeds": 2}
    given |= {"generate#classifier_guidance#scale": 7.0}
    workflow = create_workflow(config_file=str(configs("meddap_study") / "train.yaml"), initialize=[], **given)
    study, _ = read_study(workflow.parser.get_parsed_content("study", instantiate=False))
    assert (str(study.unseen.source), study.cluster.filter.steps, study.pretrain.unet.steps) == ("y", 9, 8)
    assert (study.generate.classifier_guidance.scale, study.mix.search.seeds) == (7.0, 2)


# ---------------------------------------------------------------------------------------------------------- running it
def check_result(name: str, folder: Path) -> None:
    assert list(folder.glob(RESULTS[name])), sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, place) for name in TRAINING for place in ("bundle", "elsewhere")),
        ("meddap_study", "elsewhere"),
        pytest.param("meddap_study", "bundle", marks=pytest.mark.slow),
    ],
)
def test_it_runs_from_its_folder_and_from_elsewhere(
    name: str, place: str, records: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(find(f"bundles/{name}") if place == "bundle" else tmp_path / "elsewhere")
    file = "configs/train.yaml" if place == "bundle" else str(configs(name) / "train.yaml")
    overrides = small(name, tmp_path, records, tiny_base)
    if place == "bundle":
        run(config_file=file, **overrides)
    else:
        (tmp_path / "arguments.yaml").write_text(yaml.safe_dump({"config_file": file, **overrides}))
        run(args_file=str(tmp_path / "arguments.yaml"))
    check_result(name, tmp_path)


def command(name: str, overrides: dict[str, Any], *files: str) -> list[str]:
    listed = [str((configs(name) / file).relative_to(ROOT)) for file in ("train.yaml", *files)]
    words = ["-m", "monai.bundle", "run", "--config_file", str(listed)]
    return words + [f"--{key}={value}" for key, value in overrides.items()]


def execute(words: list[str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=560)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_command_line_from_the_repository_s_root(
    name: str, records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    done = execute([sys.executable, *command(name, small(name, tmp_path, records, tiny_base))])
    assert done.returncode == 0, done.stderr[-3000:]
    check_result(name, tmp_path)


def test_a_misspelled_override_stops_the_command_line(tmp_path: Path) -> None:
    done = execute([sys.executable, *command("meddap_study", {"genrate#steps": 3, "output_dir": str(tmp_path / "o")})])
    assert done.returncode != 0
    assert "did you mean 'generate'" in done.stderr
    assert not (tmp_path / "o").exists()


SEVERAL: dict[str, dict[str, Any]] = {
    "uslora_adapter": {"device": "cpu", "backend": "gloo"},
    "ultrasound_ldm": {"device": "cpu", "backend": "gloo"},
    "ultrasound_classifier": {"device": "cpu", "backend": "gloo"},
    "meddap_study": {"classify#device": "cpu", "generate#device": "cpu", "adapt#device": "cpu"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_run_it_together(name: str, records: Path, tiny_base: Path, tmp_path: Path) -> None:
    overrides = small(name, tmp_path, records, tiny_base) | SEVERAL[name]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = execute([*torchrun, *command(name, overrides, "multi_gpu_train.yaml")])
    assert done.returncode == 0, done.stderr[-4000:]
    check_result(name, tmp_path)


# ------------------------------------------------------------------------------------------------------ the classifier
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
def test_monai_tracks_the_classifier_s_training_in_mlflow(
    records: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path / 'runs.db'}"
    overrides = small("ultrasound_classifier", tmp_path, records, tiny_base)
    file = str(configs("ultrasound_classifier") / "train.yaml")
    run(config_file=file, tracking="mlflow", tracking_uri=place, experiment_name="ours", **overrides)
    client = mlflow.MlflowClient(place)
    (experiment,) = [found for found in client.search_experiments() if found.name == "ours"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert {"train_loss", "val_auc"} <= set(found.data.metrics)


def test_the_classifier_s_network_is_what_the_metadata_says() -> None:
    folder = configs("ultrasound_classifier")
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "metadata.json"),
        config_file=str(folder / "inference.yaml"),
        device="cpu",
    )


def test_the_classifier_is_exported_as_torchscript(tmp_path: Path) -> None:
    folder = configs("ultrasound_classifier")
    workflow = create_workflow(config_file=str(folder / "inference.yaml"), workflow_type="infer", initialize=[])
    network = workflow.network_def.eval()
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(folder / "metadata.json"),
        config_file=str(folder / "inference.yaml"),
        key_in_ckpt="model",
    )
    images = torch.rand(2, 1, 64, 64)
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    torch.testing.assert_close(exported(images), network(images))
