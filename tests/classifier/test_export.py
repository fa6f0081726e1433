"""Classifiers as one file: the answers of the original, its card, no trace of this machine, refusals."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meddap_monai
from meddap_monai.classifier.config import CANDIDATES, ClassifyConfig
from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.export import CARD, WRITERS, export_classifier
from meddap_monai.classifier.fitting import fit_scorer
from meddap_monai.classifier.heads import Head, build_extractor, initial_network
from meddap_monai.classifier.scoring import MODEL, load_classifier, write_model
from meddap_monai.core.records import read_records
from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import ConfigurationError, StageError
from meddap_monai.store import sha256_file

CLASSES = ["benign", "malignant", "normal"]
LACKING = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
WITH_ONNX = pytest.mark.skipif(bool(LACKING), reason=f"needs the extra `onnx` (no {', '.join(LACKING)})")


def trained(folder: Path, what: str) -> Path:
    """A classifier of 32 px whose answers differ from image to image: a network, or a head on one."""
    folder.mkdir()
    if what not in CANDIDATES:
        encoder = what if what in ("vit_tiny", "efficientnet_lite0") else "resnet10_tiny"
        views = 4 if what == "four views" else 1
        mode = "finetune" if encoder == "efficientnet_lite0" else "scratch"  # its random weights say one thing of all
        config = ClassifyConfig(encoder=encoder, mode=mode, resolution=32, fit="stretch", views=views)
        write_model(folder, config, CLASSES, 0.7, network=initial_network(config, 3).state_dict())
        return folder
    weights = folder / "weights.pt"
    torch.save(build_network("resnet10_tiny", 3, 1, 32).network.state_dict(), weights)
    config = ClassifyConfig(encoder="resnet10_tiny", mode="probe", weights=weights, head=what, resolution=32)
    extractor = build_extractor(config, 3)
    with torch.inference_mode():
        features = extractor(torch.rand(30, 1, 32, 32, generator=torch.Generator().manual_seed(0))).numpy()
    scorer, _ = fit_scorer(what, config, features, np.arange(30) % 3, np.ones(30))
    write_model(folder, config, CLASSES, 1.3, head=Head(extractor, scorer).parts())
    return folder


def read_torchscript(path: Path) -> tuple[Callable[[torch.Tensor], np.ndarray], str]:
    notes = {CARD: ""}
    loaded = torch.jit.load(path, _extra_files=notes)
    return lambda images: loaded(images).numpy(), notes[CARD]


def read_onnx(path: Path) -> tuple[Callable[[torch.Tensor], np.ndarray], str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    assert (asked.name, asked.type, asked.shape[1:]) == ("images", "tensor(float)", [1, 32, 32])
    card = session.get_modelmeta().custom_metadata_map[CARD]
    return lambda images: session.run(["probabilities"], {"images": images.numpy()})[0], card


READERS: dict[str, Any] = {".ts": read_torchscript, ".onnx": read_onnx}
NETWORKS = ["resnet10_tiny", "four views", *CANDIDATES]
CASES = [
    *[(".ts", what) for what in (*NETWORKS, "efficientnet_lite0", "vit_tiny")],
    *[pytest.param(".onnx", what, marks=WITH_ONNX) for what in ("resnet10_tiny", "svc", "boosting")],
    *[
        pytest.param(".onnx", what, marks=[WITH_ONNX, pytest.mark.slow])
        for what in ("four views", "ridge", "logistic", "mlp", "efficientnet_lite0", "vit_tiny")
    ],
]


@pytest.mark.parametrize(("suffix", "what"), CASES)
def test_a_file_answers_as_the_classifier_it_came_from(
    suffix: str, what: str, simulated_records: Path, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "model", what)
    path = export_classifier(folder, tmp_path / f"out{suffix}")
    model = load_classifier(folder)
    rows = read_records(simulated_records, split="test")
    wanted = model.probabilities(rows, calibrated=True)
    answers, card = READERS[suffix](path)
    found = answers(to_float(model.pixels(rows)))
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 1e-5
    assert np.ptp(wanted, axis=0).max() > 1e-3, "images differ in their answers, or the comparison would say nothing"
    told = json.loads(card)
    assert told["classes"] == CLASSES
    assert told["input"]["shape"] == ["batch", 1, 32, 32]
    assert told["model_sha256"] == sha256_file(folder / MODEL)
    assert (told["fit"], told["temperature"]) == (model.config.fit, model.temperature)


@pytest.mark.parametrize("suffix", [".ts", pytest.param(".onnx", marks=WITH_ONNX)])
def test_the_command_writes_equal_bytes_that_name_no_place_of_this_machine(suffix: str, tmp_path: Path) -> None:
    folder = trained(tmp_path / "model", "svc")
    files = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path in files:
        words = ["-m", "meddap_monai.cli", "export", "--model", str(folder), "--output", str(path)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip() == str(path)
    assert files[0].read_bytes() == files[1].read_bytes()
    contents = [files[0].read_bytes()]
    if suffix == ".ts":
        with zipfile.ZipFile(files[0]) as archive:
            contents += [archive.read(name) for name in archive.namelist()]
    for place in (Path(meddap_monai.__file__).parent, Path(torch.__file__).parent, tmp_path):
        assert not any(str(place).encode() in content for content in contents), place


def test_answers_that_differ_are_said_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network: Any, _example: Any, _card: Any, path: Path) -> Callable[[torch.Tensor], np.ndarray]:
        path.write_bytes(b"half of it")
        return lambda images: network(images).numpy() + (2e-5 if len(images) == 5 else 0)

    monkeypatch.setitem(WRITERS, ".off", write)
    folder = trained(tmp_path / "model", "resnet10_tiny")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StageError, match=r"out.off differs from .* by 2e-05 in a probability, expected at most 1e-05"):
        export_classifier(folder, tmp_path / "out.off")
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "model", "resnet10_tiny")
    with pytest.raises(ConfigurationError, match=r"ends in '.pth', expected one of .onnx, .ts"):
        export_classifier(folder, tmp_path / "out.pth")
    (tmp_path / "hog").mkdir()
    config = ClassifyConfig(encoder="hog", mode="probe", resolution=32)
    features = np.random.default_rng(0).random((6, 1764))
    scorer, _ = fit_scorer("ridge", config, features, np.arange(6) % 3, np.ones(6))
    write_model(tmp_path / "hog", config, CLASSES, 1.0, head=Head(build_extractor(config, 3), scorer).parts())
    with pytest.raises(ConfigurationError, match="stands on HOG features"):
        export_classifier(tmp_path / "hog", tmp_path / "out.ts")
    with pytest.raises(StageError, match="does not exist; classifiers below it"):
        export_classifier(tmp_path, tmp_path / "out.ts")
