"""How real training images are chosen: the configuration of the stage ``cluster``."""

from __future__ import annotations

from dataclasses import dataclass, field

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.selection.filtering.crossfit import FilterConfig

METHODS = ("kmeans", "coreset", "random")


@dataclass(frozen=True)
class ClusterConfig:
    """How real training images are chosen.

    Attributes:
        method: "kmeans", "coreset" or "random".
        k: clusters per class; 0 chooses it.
        choose_k: how: "silhouette" (largest) or "elbow" (largest bend of the inertia).
        largest_k: most clusters tried when choosing.
        nearest: images kept per cluster (for coreset and random: `k` times as many per class).
        iterations: of k-means.
        min_similarity: clusters whose mean pairwise cosine similarity is below are left out.
        max_deviation: clusters whose deviation of it is above are left out.
        clusters: best clusters kept per class; 0 keeps all that pass.
        features: extractor, see `frozen_features.extract`.
        filter: the classifier behind the extractor "filter".
        seed: of k-means and of random choice.
    """

    method: str = "kmeans"
    k: int = 5
    choose_k: str = "silhouette"
    largest_k: int = 8
    nearest: int = 25
    iterations: int = 20
    min_similarity: float = -1.0
    max_deviation: float = 2.0
    clusters: int = 0
    features: str = "filter"
    filter: FilterConfig = field(default_factory=FilterConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        check_choice(self.method, METHODS, "cluster#method")
        check_choice(self.choose_k, ("silhouette", "elbow"), "cluster#choose_k")
        check_range(self.k, 0, 1000, "cluster#k")
        check_range(self.largest_k, 2, 100, "cluster#largest_k")
        check_range(self.nearest, 1, 10**6, "cluster#nearest")
        check_range(self.iterations, 1, 10**4, "cluster#iterations")
        check_range(self.min_similarity, -1.0, 1.0, "cluster#min_similarity")
        check_range(self.max_deviation, 0.0, 2.0, "cluster#max_deviation")
