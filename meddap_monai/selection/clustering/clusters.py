"""Clusters of feature vectors, class by class: k-means (Repetto and de Leon 2023), coreset, random choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.selection.clustering.config import ClusterConfig


@dataclass(frozen=True)
class Cluster:
    """One cluster of a class.

    Attributes:
        class_name: of its images.
        number: rank within the class, 0 is the most alike.
        rows: the images nearest to the centroid, nearest first.
        size: images in the whole cluster.
        similarity: mean pairwise cosine similarity of `rows`.
        deviation: standard deviation of it.
        passes: whether it meets the configured limits.
    """

    class_name: str
    number: int
    rows: list[int]
    size: int
    similarity: float
    deviation: float
    passes: bool


def find_clusters(
    config: ClusterConfig, values: np.ndarray, training: Sequence[Record], classes: Sequence[str]
) -> tuple[list[Cluster], dict[str, dict[str, list[float]]]]:
    """Cluster each class on its own.

    Args:
        config: method and numbers.
        values: (M, D) float32 of unit length.
        training: M records.
        classes: names in the order of labels.

    Returns:
        The clusters, by class and rank; and per class the ``k``, ``silhouette`` and ``inertia`` that were tried.
    """
    found: list[Cluster] = []
    tried: dict[str, dict[str, list[float]]] = {}
    for name in classes:
        rows = np.array([row for row, record in enumerate(training) if record["class_name"] == name])
        if not len(rows):
            continue
        seed = derive_seed(config.seed, "cluster", name) % 2**32
        if config.method == "kmeans":
            parts, tried[name] = _kmeans_parts(config, values[rows], seed)
        else:
            count = min(len(rows), max(config.k, 1) * config.nearest)
            pick = coreset(values[rows], count) if config.method == "coreset" else _random(len(rows), count, seed)
            parts = [(pick, len(rows))]
        found += _ranked(config, name, [(rows[part], size) for part, size in parts], values)
    return found, tried


def _kmeans_parts(
    config: ClusterConfig, values: np.ndarray, seed: int
) -> tuple[list[tuple[np.ndarray, int]], dict[str, list[float]]]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    tried: dict[str, list[float]] = {"k": [], "silhouette": [], "inertia": []}
    options = [config.k] if config.k else range(2, config.largest_k + 1)
    fits = {}
    most = len(np.unique(values, axis=0))  # equal images cannot be told apart
    for k in [min(option, most) for option in options if option <= most or config.k]:
        fit = KMeans(k, max_iter=config.iterations, n_init=4, random_state=seed).fit(values)
        usable = 1 < len(np.unique(fit.labels_)) < len(values)
        fits[k] = fit
        tried["k"].append(k)
        tried["silhouette"].append(round(float(silhouette_score(values, fit.labels_)), 6) if usable else 0.0)
        tried["inertia"].append(round(float(fit.inertia_), 6))
    if not fits:
        fits[1] = KMeans(1, n_init=1, random_state=seed).fit(values)
        tried = {"k": [1], "silhouette": [0.0], "inertia": [round(float(fits[1].inertia_), 6)]}
    best = fits[best_k(tried, config.choose_k)]
    distance = best.transform(values)
    parts = []
    for number in np.unique(best.labels_):
        own = np.flatnonzero(best.labels_ == number)
        parts.append((own[np.argsort(distance[own, number], kind="stable")][: config.nearest], len(own)))
    return parts, tried


def best_k(tried: dict[str, list[float]], how: str) -> int:
    """Return the k with the largest silhouette, or at the elbow of the inertia.

    The elbow is the point farthest below the straight line between the first and the last inertia.

    Args:
        tried: equally long lists ``k``, ``silhouette``, ``inertia``.
        how: "silhouette" or "elbow".
    """
    if how == "silhouette" or len(tried["k"]) < 3:
        return int(tried["k"][int(np.argmax(tried["silhouette"]))])
    inertia = np.array(tried["inertia"])
    line = np.interp(tried["k"], [tried["k"][0], tried["k"][-1]], [inertia[0], inertia[-1]])
    return int(tried["k"][int(np.argmax(line - inertia))])


def coreset(values: np.ndarray, count: int) -> np.ndarray:
    """Return (count,) rows chosen farthest-first, starting from the one nearest to the mean (Sener and Savarese 2018).

    Args:
        values: (M, D) float32.
        count: how many, at most M.
    """
    chosen = [int(np.argmin(((values - values.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = ((values - values[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((values - values[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen)


def _random(size: int, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])


def _ranked(config: ClusterConfig, name: str, parts: list[tuple[np.ndarray, int]], values: np.ndarray) -> list[Cluster]:
    """Order clusters by mean cosine similarity, the smaller deviation first where equal, and apply the limits."""
    measured = []
    for rows, size in parts:
        mean, deviation = pairwise_similarity(values[rows])
        measured.append((-round(mean, 6), round(deviation, 6), int(rows[0]), rows, size))
    clusters = []
    for number, (minus_mean, deviation, _, rows, size) in enumerate(sorted(measured, key=lambda item: item[:3])):
        passes = -minus_mean >= config.min_similarity and deviation <= config.max_deviation
        passes = passes and (config.clusters == 0 or number < config.clusters)
        clusters.append(Cluster(name, number, rows.tolist(), size, -minus_mean, deviation, passes))
    return clusters


def pairwise_similarity(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the cosine similarity of all pairs; (1, 0) for a single image.

    Args:
        values: (n, D) float32 of unit length.
    """
    if len(values) < 2:
        return 1.0, 0.0
    product = values @ values.T
    pairs = product[np.triu_indices(len(values), 1)]
    return float(pairs.mean()), float(pairs.std())
