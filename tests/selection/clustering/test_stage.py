"""Choosing real images: clusters, their ranking, and the baselines."""

import json
from pathlib import Path

import numpy as np
import pytest

from meddap_monai.core.records import class_names, read_records
from meddap_monai.errors import ConfigurationError, EmptyClass
from meddap_monai.selection.clustering.clusters import best_k, coreset, find_clusters, pairwise_similarity
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.clustering.stage import cluster
from meddap_monai.selection.filtering.filter_config import FilterConfig

SMALL = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=2, steps=8, batch=12)


def blobs(centres: list[tuple[float, float]], each: int, spread: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = np.concatenate([np.array(c) + spread * rng.standard_normal((each, 2)) for c in centres])
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def records_of(count: int) -> list[dict]:
    return [{"class_name": "benign", "id": str(n), "label": 0} for n in range(count)]


@pytest.mark.parametrize("how", ["silhouette", "elbow"])
def test_k_is_found(how: str) -> None:
    values = blobs([(1, 0), (0, 1), (-1, 0.3)], 20)
    found, tried = find_clusters(ClusterConfig(k=0, choose_k=how, largest_k=6), values, records_of(60), ["benign"])
    assert len(found) == 3 and sorted(one.size for one in found) == [20, 20, 20]
    assert tried["benign"]["k"] == [2, 3, 4, 5, 6]


def test_clusters_hold_the_images_nearest_to_their_centroid_and_are_ranked_by_similarity() -> None:
    tight, loose = blobs([(1, 0)], 30, 0.005), blobs([(0, 1)], 30, 0.15)
    values = np.concatenate([loose, tight])
    found, _ = find_clusters(ClusterConfig(k=2, nearest=10), values, records_of(60), ["benign"])
    assert [one.number for one in found] == [0, 1]
    assert found[0].similarity > found[1].similarity and min(found[0].rows) >= 30
    centre = tight.mean(axis=0)
    expected = 30 + np.argsort(((tight - centre) ** 2).sum(axis=1), kind="stable")[:10]
    assert sorted(found[0].rows) == sorted(expected.tolist())


@pytest.mark.parametrize(
    "limits, kept",
    [({}, 2), ({"min_similarity": 0.999}, 1), ({"max_deviation": 0.001}, 1), ({"clusters": 1}, 1)],
)
def test_limits(limits: dict, kept: int) -> None:
    values = np.concatenate([blobs([(1, 0)], 30, 0.005), blobs([(0, 1)], 30, 0.15)])
    found, _ = find_clusters(ClusterConfig(k=2, nearest=10, **limits), values, records_of(60), ["benign"])
    assert sum(one.passes for one in found) == kept


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [0, 5])
def test_equal_images_make_one_cluster(k: int) -> None:
    values = np.repeat(np.eye(2, dtype=np.float32)[:1], 8, axis=0)
    found, _ = find_clusters(ClusterConfig(k=k), values, records_of(8), ["benign"])
    assert [(one.size, sorted(one.rows)) for one in found] == [(8, list(range(8)))]


def test_coreset_covers_every_blob_before_it_repeats_one() -> None:
    values = blobs([(1, 0), (0, 1), (-1, 0), (0, -1)], 25)
    assert len({int(row) // 25 for row in coreset(values, 4)}) == 4


def test_pairwise_similarity_by_hand() -> None:
    values = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    mean, deviation = pairwise_similarity(values)
    assert mean == pytest.approx(1 / 3) and deviation == pytest.approx(np.std([0, 1, 0]))


def test_elbow_by_hand() -> None:
    assert best_k({"k": [2, 3, 4, 5], "silhouette": [0, 0, 0, 1], "inertia": [10, 3, 2.5, 2]}, "elbow") == 3


@pytest.mark.parametrize("method", ["kmeans", "coreset", "random"])
def test_stage(tmp_path: Path, simulated_records: Path, method: str) -> None:
    config = ClusterConfig(method=method, k=2, nearest=3, filter=SMALL)
    chosen = cluster(config, tmp_path / "out", records=simulated_records)
    records = read_records(chosen)
    assert {record["split"] for record in records} == {"train"}
    assert {record["class_name"] for record in records} == {"benign", "malignant", "normal"}
    assert all(sum(r["class_name"] == name for r in records) <= 6 for name in ("benign", "malignant", "normal"))
    document = json.loads((chosen.parent / "clusters.json").read_text())
    for one in document["clusters"]:
        assert [r["id"] for r in read_records(chosen.parent / one["records"])] == sorted(one["ids"])
        assert class_names(chosen.parent / one["records"]) == ["benign", "malignant", "normal"]
    assert (chosen.parent / "figures" / "clusters.png").is_file()
    before = chosen.read_bytes()
    cluster(ClusterConfig(method=method, k=2, nearest=3, filter=SMALL), tmp_path / "again", records=simulated_records)
    assert (tmp_path / "again" / "chosen.jsonl").read_bytes() == before


def test_no_cluster_left_is_an_error(tmp_path: Path, simulated_records: Path) -> None:
    config = ClusterConfig(method="random", nearest=3, min_similarity=1.0, filter=SMALL)
    with pytest.raises(EmptyClass, match="class 'benign': no cluster meets the limits .* lower cluster#min_similarity"):
        cluster(config, tmp_path / "out", records=simulated_records)


def test_unknown_method() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'kmeans'"):
        ClusterConfig(method="kmean")
