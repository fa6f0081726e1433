"""Classical heads on frozen features, the HOG sanity arm, features of any network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.fitting import build_model
from meddap_monai.classifier.head_training import gather_examples
from meddap_monai.classifier.heads import build_extractor
from meddap_monai.classifier.material import read_material
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders.features import Hog, Penultimate
from meddap_monai.encoders.registry import ENCODERS, build_network
from meddap_monai.errors import StageError
from meddap_monai.statistics.metrics import all_metrics
from meddap_monai.store import sha256_file
from tests.record_material import as_synthetic, write_like


@pytest.mark.filterwarnings("ignore:classify. .* limit of iterations")
@pytest.mark.parametrize(
    ("network", "head"),
    [
        ("hog", "ridge"),
        ("efficientnet_lite0", "ridge"),
        ("efficientnet_lite0", "logistic"),
        ("efficientnet_lite0", "svc"),
        ("efficientnet_lite0", "mlp"),
        ("efficientnet_lite0", "boosting"),
    ],
)
def test_heads_train_store_no_pickle_and_load_to_equal_predictions(
    simulated_records: Path, tmp_path: Path, network: str, head: str
) -> None:
    config = ClassifyConfig(
        encoder=network, mode="probe", head=head, resolution=32, pictures=False, class_weights="balanced"
    )
    folder = classify(config, tmp_path / "model", records=simulated_records)
    stored = torch.load(folder / "model.pt", weights_only=True)["head"]
    assert {type(value) for value in stored["scorer"].values()} == {torch.Tensor}
    test = read_records(simulated_records, split="test")
    first, second = (load_classifier(folder).probabilities(test) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (24, 3)
    assert np.allclose(first.sum(axis=1), 1)
    results = json.loads((folder / "metrics.json").read_text())
    held_out = read_records(simulated_records, split="val")
    again = all_metrics(load_classifier(folder).probabilities(held_out), np.array([row["label"] for row in held_out]))
    assert again["brier"] == pytest.approx(results["validation"]["brier"], abs=1e-6), "loaded is what was measured"


def test_classical_augmentation_adds_every_training_image_changed_once(simulated_records: Path) -> None:
    material = read_material(simulated_records)
    plain, augmented = (
        gather_examples(build_extractor(config, 3), config, material)
        for name in ("none", "classical")
        for config in [ClassifyConfig(mode="probe", head="svc", resolution=32, augmentation=name)]
    )
    count, width = plain.features.shape
    assert count == len(read_records(simulated_records, split="train"))
    assert augmented.features.shape == (2 * count, width)
    assert np.array_equal(augmented.features[:count], plain.features)
    assert not np.isclose(augmented.features[count:], plain.features).all(axis=1).any()
    assert np.array_equal(augmented.labels, np.tile(plain.labels, 2))
    assert np.array_equal(augmented.judged(), np.arange(count)), "changed images train and are never judged"


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
        ("logistic", {"C": 10, "l1_ratio": 0.5, "solver": "saga", "max_iter": 300, "tol": 1e-4}),
        ("svc", {"C": 10, "kernel": "rbf", "gamma": "scale", "max_iter": 1000, "tol": 0.01}),
        (
            "mlp",
            {
                "hidden_layer_sizes": (256,) * 4,
                "alpha": 0.02,
                "learning_rate_init": 1e-3,
                "batch_size": 64,
                "max_iter": 300,
            },
        ),
    ],
)
def test_settings_of_the_ort_thesis(head: str, settings: dict[str, object]) -> None:
    found = build_model(head, ClassifyConfig(head=head)).get_params()
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
    made = [as_synthetic(row) for row in rows if row["split"] == "train"]
    hybrid = write_like(simulated_records, tmp_path / "hybrid", [*rows, *made[:10]])
    config = ClassifyConfig(
        encoder="hog", mode="probe", head="ridge", resolution=64, pictures=False, synthetic_loss_weight=0.0
    )
    test = read_records(simulated_records, split="test")
    found = [
        load_classifier(classify(config, tmp_path / str(place), records=records)).probabilities(test)
        for place, records in enumerate((simulated_records, hybrid))
    ]
    assert np.array_equal(*found)


def test_a_head_of_before_is_refused_with_what_to_do(simulated_records: Path, tmp_path: Path) -> None:
    config = ClassifyConfig(encoder="hog", mode="probe", head="svc", resolution=64, pictures=False)
    folder = classify(config, tmp_path / "model", records=simulated_records)
    document = torch.load(folder / "model.pt", weights_only=True)
    document["head"] = {"features": torch.zeros(2, 3), "labels": torch.zeros(2), "extractor": {}}
    torch.save(document, folder / "model.pt")
    with pytest.raises(StageError, match="stored by an earlier version of this package.*run classify again"):
        load_classifier(folder)


def test_metrics_say_which_weights_a_head_stands_on(simulated_records: Path, tmp_path: Path) -> None:
    weights = tmp_path / "somebody.pt"
    torch.save(build_network("resnet10_tiny", classes=3, size=32).network.state_dict(), weights)
    said = []
    for encoder, file in (("hog", None), ("efficientnet_lite0", None), ("resnet10_tiny", weights)):
        config = ClassifyConfig(
            encoder=encoder, mode="probe", head="ridge", resolution=32, weights=file, pictures=False
        )
        folder = classify(config, tmp_path / encoder, records=simulated_records)
        said.append(json.loads((folder / "metrics.json").read_text())["features_of"])
    assert said == [
        "hog (has no weights)",
        f"efficientnet_lite0 with its own weights, {ENCODERS['efficientnet_lite0'].weights.sha256[:12]}",
        f"resnet10_tiny with the weights {sha256_file(weights)}.pt",
    ]
