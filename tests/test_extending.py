"""The blocks of docs/extending.md, run as a reader would: each adds its own thing, and the stages use it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import LoadImage
from PIL import Image
from safetensors.torch import save_file
from shown import ROOT, blocks
from sklearn.metrics import log_loss

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders.registry import ENCODERS, build_network
from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.reading.plain import FORMATS, is_marked_synthetic, read_plain
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.selection.filtering.crossfit import FilterPredictions
from meddap_monai.selection.filtering.decisions import decide
from meddap_monai.selection.filtering.rules import RULES, Evidence, RuleConfig
from meddap_monai.statistics.weighted import METRICS, weighted_metrics

REGISTRIES = {"RULES": RULES, "ENCODERS": ENCODERS, "FORMATS": FORMATS, "METRICS": METRICS}


@pytest.fixture
def run_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Run the page's block that fills a registry; afterwards the registries are as before."""
    before = {name: dict(registry) for name, registry in REGISTRIES.items()}
    monkeypatch.syspath_prepend(tmp_path)

    def run(registry: str, section: str = "") -> None:
        filled = f"\n{registry}[" + (f'"{section}"' if section else "")
        (block,) = [text for text in blocks(ROOT / "docs" / "extending.md", "python") if filled in text]
        (tmp_path / f"own_{registry.lower()}.py").write_text(block)
        importlib.import_module(f"own_{registry.lower()}")

    yield run
    for name, registry in REGISTRIES.items():
        registry.clear()
        registry.update(before[name])
        sys.modules.pop(f"own_{name.lower()}", None)


def test_every_block_of_the_page_is_run_here() -> None:
    assert len(blocks(ROOT / "docs" / "extending.md", "python")) == len(REGISTRIES) + 1  # two of them fill ENCODERS


def test_a_rule_of_selection(run_block: Callable[[str], None]) -> None:
    with pytest.raises(ConfigurationError, match="select#rules#use"):
        RuleConfig(use=("spread",))
    run_block("RULES")
    logits = np.zeros((2, 1, 3, 2), np.float32)  # two networks, one view, three images, two classes
    logits[:, 0, 0] = [3.0, 0.0]  # both see class 0
    logits[:, 0, 1] = [[3.0, 0.0], [0.0, 3.0]]  # they contradict each other
    judged = FilterPredictions(logits, np.ones((2, 3, 1), np.float32))
    labels = np.zeros(3, int)
    evidence = Evidence(labels, judged, judged.features, labels, judged, judged.features, np.array([0, 1, 0]), 1.0)
    decision = decide(evidence, RuleConfig(use=("spread",)), None)
    assert decision.kept.tolist() == [True, False, True] and decision.reasons[1] == ["spread"]
    likely = 1 / (1 + np.exp(-3.0))
    assert decision.scores["spread"] == pytest.approx([0.0, likely - 0.5, 0.0])


def test_a_network(run_block: Callable[..., None], make_records: Callable[..., Path], tmp_path: Path) -> None:
    run_block("ENCODERS", "convolutions")
    config = ClassifyConfig(encoder="convolutions", mode="scratch", steps=2, batch=4, pictures=False)
    folder = classify(config, tmp_path / "model", records=make_records({"train": 4, "val": 2}))
    network = load_classifier(folder).network
    assert network(torch.zeros(2, 1, 128, 128)).shape == (2, 3)


def test_an_encoder(run_block: Callable[..., None], tmp_path: Path) -> None:
    run_block("ENCODERS", "clinic_resnet")
    assert build_network("clinic_resnet", classes=3)(torch.zeros(1, 1, 64, 64)).shape == (1, 3)
    published = ENCODERS["resnet10_tiny"].build(3, 1, 64).state_dict()
    save_file({f"backbone.{name}": tensor for name, tensor in published.items()}, tmp_path / "weights.safetensors")
    network = build_network("clinic_resnet", classes=3, weights=tmp_path / "weights.safetensors")
    inner = network.network.state_dict()
    assert set(inner) == set(published) and all(torch.equal(inner[name], published[name]) for name in published)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = network.network.eval()((images - 0.45) / 0.22)
        torch.testing.assert_close(network.eval()(images), expected)


def test_a_reader(run_block: Callable[[str], None], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    path = tmp_path / "source" / "benign" / "a.pgm"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path)
    with pytest.raises(UnreadableImage, match="is none of PNG, JPEG, TIFF, BMP, NIfTI"):
        read_plain(path)
    run_block("FORMATS")
    assert np.array_equal(read_plain(path)[0], pixels[None, None])
    assert np.array_equal(LoadImage(reader=UltrasoundReader, image_only=True)(path)[0], pixels)
    assert UltrasoundReader().verify_suffix(path) and not is_marked_synthetic(path)
    config = IndexConfig(source=str(path.parents[1]), split="train", workers=0)
    (record,) = read_records(index(config, tmp_path / "index"))
    assert np.array_equal(np.asarray(Image.open(record["image"])), pixels)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnreadableImage, match="no whole PGM"):
        read_plain(path)
    path.write_bytes(path.read_bytes() + b"\0SyntheticData")
    assert is_marked_synthetic(path)


def test_a_metric(run_block: Callable[[str], None]) -> None:
    with pytest.raises(ConfigurationError, match="evaluate#metric"):
        EvaluateConfig(metric="log_loss")
    run_block("METRICS")
    assert EvaluateConfig(metric="log_loss").metric == "log_loss"
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.full(3, 5.0), 40), rng.permutation(np.arange(40) % 3)
    weights = rng.integers(1, 4, (5, 40)).astype(float)
    found = weighted_metrics(probabilities, labels, weights)["log_loss"]
    expected = [log_loss(labels, probabilities, sample_weight=row) / np.log(2) for row in weights]
    assert found == pytest.approx(expected)
