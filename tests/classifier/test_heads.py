"""Classical heads on frozen features, the HOG sanity arm, features of any network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.heads import build_head
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records, write_records
from meddap_monai.encoders.features import Hog, Penultimate
from meddap_monai.encoders.registry import build_network


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("network", "head"),
    [("hog", "ridge"), ("efficientnet_lite0", "svc"), ("efficientnet_lite0", "mlp"), ("efficientnet_lite0", "ridge")],
)
def test_heads_train_store_no_pickle_and_load_to_equal_predictions(
    simulated_records: Path, tmp_path: Path, network: str, head: str
) -> None:
    config = ClassifyConfig(
        encoder=network, mode="probe", head=head, resolution=32, pictures=False, class_weights="balanced"
    )
    folder = classify(config, tmp_path / "model", records=simulated_records)
    torch.load(folder / "model.pt", weights_only=True)
    test = read_records(simulated_records, split="test")
    first, second = (load_classifier(folder).probabilities(test) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (24, 3)
    assert np.allclose(first.sum(axis=1), 1)


def test_classical_augmentation_adds_every_training_image_changed_once(simulated_records: Path, tmp_path: Path) -> None:
    rows = read_records(simulated_records, split="train")
    fitted = {}
    for name in ("none", "classical"):
        config = ClassifyConfig(mode="probe", head="svc", resolution=32, pictures=False, augmentation=name)
        folder = classify(config, tmp_path / name, records=simulated_records)
        fitted[name] = torch.load(folder / "model.pt", weights_only=True)["head"]
    plain, augmented = fitted["none"]["features"], fitted["classical"]["features"]
    assert augmented.shape == (2 * len(rows), plain.shape[1])
    assert torch.equal(augmented[: len(rows)], plain)
    assert not torch.isclose(augmented[len(rows) :], plain).all(dim=1).any()
    assert torch.equal(fitted["classical"]["labels"], fitted["none"]["labels"].repeat(2))


def test_hog_tells_simulated_classes_apart(simulated_records: Path, tmp_path: Path) -> None:
    """The sanity arm learns something: the simulated classes differ in shape."""
    from meddap_monai.statistics.metrics import macro_auc

    config = ClassifyConfig(
        encoder="hog", mode="probe", head="ridge", resolution=128, augmentation="none", pictures=False
    )
    folder = classify(config, tmp_path / "model", records=simulated_records)
    test = read_records(simulated_records, split="test")
    labels = np.array([row["label"] for row in test])
    assert macro_auc(load_classifier(folder).probabilities(test), labels) > 0.75


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("logistic", {"C": 10, "l1_ratio": 0.5, "solver": "saga"}),
        ("svc", {"C": 10, "kernel": "rbf", "gamma": "scale"}),
        ("mlp", {"hidden_layer_sizes": (256,) * 4, "alpha": 0.02, "learning_rate_init": 1e-3, "batch_size": 64}),
    ],
)
def test_settings_of_the_ort_thesis(head: str, settings: dict[str, object]) -> None:
    found = build_head(ClassifyConfig(head=head)).steps[-1][1].get_params()
    assert {name: found[name] for name in settings} == settings


def test_hog_has_the_published_number_of_features_at_any_size() -> None:
    assert Hog()(torch.rand(2, 1, 128, 128)).shape == (2, 1764)
    assert Hog()(torch.rand(2, 3, 64, 64)).shape == (2, 1764)


@pytest.mark.parametrize(("name", "width"), [("resnet10_tiny", 64), ("vit_tiny", 96), ("efficientnet_b0", 1280)])
def test_penultimate_features_feed_the_last_layer(name: str, width: int) -> None:
    network = build_network(name, classes=3, size=32).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        features = Penultimate(network)(images)
        assert features.shape == (2, width)
        last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        assert torch.allclose(last(features), network(images), atol=1e-5)


def test_a_source_of_weight_zero_is_not_fitted_at_all(simulated_records: Path, tmp_path: Path) -> None:
    """What the sanity arm relies on where the records it is given hold synthetic images too."""
    rows = read_records(simulated_records, full=True)
    made = [
        row | {"id": f"s-{row['id']}", "source": "synthetic", "patient": "synthetic", "synthetic": {"seed": 1}}
        for row in rows
        if row["split"] == "train"
    ]
    hybrid = tmp_path / "hybrid"
    hybrid.mkdir()
    write_records(hybrid / "records.jsonl", [*rows, *made[:10]])
    (hybrid / "stage.json").write_text((simulated_records.parent / "stage.json").read_text())
    config = ClassifyConfig(
        encoder="hog", mode="probe", head="ridge", resolution=64, pictures=False, synthetic_loss_weight=0.0
    )
    test = read_records(simulated_records, split="test")
    found = [
        load_classifier(classify(config, tmp_path / str(place), records=records)).probabilities(test)
        for place, records in enumerate((simulated_records, hybrid / "records.jsonl"))
    ]
    assert np.array_equal(*found)
