"""What the model zoo's ``ci/verify_bundle.py`` checks (Project-MONAI/model-zoo, commit 17e7879c), on trained bundles.

Files, version and changelog, the format of the metadata, the network's input and output, the checkpoint in the
network of ``inference.yaml``, and the export as TorchScript. The zoo leaves latent diffusion bundles out of the last
one, its own as well (``exclude_verify_torchscript_list``), because such networks cannot be scripted.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.handlers import Checkpoint
from monai.bundle import ckpt_export, create_workflow, download, load, run, verify_metadata, verify_net_in_out

from meddap_monai.bundle.places import output_root, trained_base
from meddap_monai.core.resources import find
from meddap_monai.errors import ForeignOutput, StageError
from tests.test_bundles import SCHEMA, SMALL_LDM
from tools.zoo import pack

ROOT = find("bundles").parent
WIDER = SMALL_LDM["pretrain#autoencoder"] | {"latents": 16, "channels": [16, 64, 64]}
"""As many latents as the metadata says."""
ADAPT = {"steps": 1, "batch": 1, "samples_per_class": 0, "validation_every": 0}
SMALL: dict[str, dict[str, Any]] = {
    "uslora_adapter": {f"adapt#{key}": value for key, value in ADAPT.items()},
    "ultrasound_ldm": SMALL_LDM | {"pretrain#autoencoder": WIDER},
    "ultrasound_classifier": {"epochs": 1, "val_interval": 1, "batch": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def records(make_records: Any) -> Path:
    return make_records({"train": 2, "val": 1}, size=32)


@pytest.fixture(scope="module", params=list(SMALL))
def bundle(request: pytest.FixtureRequest, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a bundle, trained from its own folder without a word about where results go."""
    folder = tmp_path_factory.mktemp("zoo") / request.param
    shutil.copytree(find(f"bundles/{request.param}"), folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run(config_file="configs/train.yaml", dataset_dir=str(records.parent), device="cpu", **SMALL[request.param])
    finally:
        os.chdir(before)
    return folder


def network_of(bundle: Path) -> torch.nn.Module:
    file = str(bundle / "configs/inference.yaml")
    workflow = create_workflow(config_file=file, workflow_type="infer", bundle_root=str(bundle), initialize=[])
    return workflow.network_def.eval()


def test_the_zoo_accepts_a_trained_bundle(bundle: Path) -> None:
    for name in ("configs/metadata.json", "LICENSE", "models/model.pt", "configs/inference.yaml"):
        assert (bundle / name).is_file(), name
    meta = json.loads((bundle / "configs/metadata.json").read_text())
    assert meta["version"] in meta["changelog"]
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(SCHEMA))
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.yaml"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_its_checkpoint_is_that_of_the_network(bundle: Path) -> None:
    network, saved = network_of(bundle), torch.load(bundle / "models/model.pt", weights_only=True)
    assert set(saved) == set(network.state_dict())
    Checkpoint.load_objects(to_load={"": network}, checkpoint=str(bundle / "models/model.pt"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())
    if bundle.name != "ultrasound_classifier":  # the adapter, and the base, are in the network before the checkpoint is
        again = network_of(bundle).state_dict()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in again.items())


def test_the_classifier_is_exported_as_the_zoo_exports_it(bundle: Path) -> None:
    if bundle.name != "ultrasound_classifier":
        pytest.skip("latent diffusion bundles are left out of this by the zoo")
    ckpt_export(
        net_id="network_def",
        filepath=str(bundle / "models/verify_model.ts"),
        ckpt_file=str(bundle / "models/model.pt"),
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.yaml"),
        bundle_root=str(bundle),
    )
    network, images = network_of(bundle), torch.rand(2, 1, 64, 64)
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    exported = torch.jit.load(str(bundle / "models/verify_model.ts")).eval()
    torch.testing.assert_close(exported(images), network(images))


def test_monai_loads_it_with_its_weights_from_the_archive(bundle: Path, tmp_path: Path) -> None:
    archive = pack(bundle, tmp_path / "dist")
    assert pack(bundle, tmp_path / "again").read_bytes() == archive.read_bytes()
    version = json.loads((bundle / "configs/metadata.json").read_text())["version"]
    assert archive.name == f"{bundle.name}_v{version}.zip"
    download(name=bundle.name, url=archive.as_uri(), bundle_dir=str(tmp_path / "there"))
    folder = tmp_path / "there" / bundle.name
    assert not [path for path in folder.rglob("*") if "checkpoint" in path.name or path.name == "tensorboard"]
    places = {"uslora_adapter": {"adapter": "adapter"}, "ultrasound_ldm": {"base": "pretrain/base"}}
    network = load(
        name=bundle.name,
        bundle_dir=str(tmp_path / "there"),
        workflow_type="inference",
        device="cpu",
        net_override={key: str(folder / "models" / place) for key, place in places.get(bundle.name, {}).items()},
    )
    saved = torch.load(bundle / "models/model.pt", weights_only=True)
    assert set(saved) == set(network.state_dict())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())


def test_an_archive_without_weights_or_over_another_is_refused(tmp_path: Path) -> None:
    shutil.copytree(find("bundles/ultrasound_classifier"), tmp_path / "ultrasound_classifier")
    with pytest.raises(StageError, match="model.pt: missing, expected the weights"):
        pack(tmp_path / "ultrasound_classifier", tmp_path)
    torch.save({}, tmp_path / "ultrasound_classifier" / "models" / "model.pt")
    pack(tmp_path / "ultrasound_classifier", tmp_path)
    with pytest.raises(ForeignOutput, match="exists already"):
        pack(tmp_path / "ultrasound_classifier", tmp_path)
    (tmp_path / "ultrasound_classifier" / "LICENSE").unlink()
    with pytest.raises(StageError, match="LICENSE"):
        pack(tmp_path / "ultrasound_classifier", tmp_path / "other")


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_every_network_takes_an_image_alone(bundle: Path, kind: str) -> None:
    settings = {key: value for key, value in SMALL[bundle.name].items() if key.startswith("pretrain")}
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / f"configs/{kind}.yaml"),
        device="cpu",
        n=2,
        bundle_root=str(bundle),
        **(settings if kind == "train" else {}),
    )


# ------------------------------------------------------------------------------------------------------ where it writes
def outputs(name: str) -> set[str]:
    """Every place in which a bundle's configurations write, started in the present folder."""
    found = set()
    for kind in ("train", "inference"):
        file = str(find(f"bundles/{name}") / "configs" / f"{kind}.yaml")
        parser = create_workflow(config_file=file, workflow_type="train", initialize=[]).parser
        found |= {str(parser.get_parsed_content(key)) for key in ("output_dir", "ckpt_dir") if key in parser}
    return {str(Path(place)) for place in found}


def test_outputs_of_two_bundles_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {name: outputs(name) for name in (*SMALL, "meddap_study")}
    for one, here in places.items():
        for other, there in places.items():
            for place in here if one != other else ():
                assert not any(Path(place).is_relative_to(held) for held in there), (one, other, place)
    assert places["uslora_adapter"] == {
        "runs/uslora_adapter/models/adapter", "runs/uslora_adapter/models", "runs/uslora_adapter/eval",
    }  # fmt: skip


def test_a_bundle_s_own_folder_takes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(find("bundles/uslora_adapter"), tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert (output_root("uslora_adapter"), output_root("ultrasound_ldm")) == (".", "runs/ultrasound_ldm")
    assert trained_base(tmp_path) == "embedded"


# ----------------------------------------------------------------------------------------------------- the last line
@pytest.mark.parametrize(
    ("overrides", "last"),
    [
        (["--otput_dir", "x"], "ConfigurationError: command line: unknown key 'otput_dir'; did you mean 'output_dir'?"),
        (["--dataset_dir", "nowhere"],
         "RecordsError: nowhere/records.jsonl: cannot be read (No such file or directory); give the records file of a "
         "stage"),
    ],
)  # fmt: skip
def test_the_sentence_that_helps_is_the_last_line(overrides: list[str], last: str, tmp_path: Path) -> None:
    file = str(find("bundles/uslora_adapter") / "configs/train.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", file, *overrides],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.rstrip().splitlines()[-1] == last
