"""How real training images are chosen: the configuration of the stage ``cluster``."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.core.constraints import Choice, Range, settings
from meddap_monai.selection.filtering.filter_config import FilterConfig

METHODS = ("kmeans", "coreset", "random")


@dataclass(frozen=True)
@settings("cluster")
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
        features: extractor, see `meddap_monai.encoders.extractors`, or "filter".
        filter: how images are decoded for the extractor, and the classifier behind "filter".
        seed: of k-means and of random choice.
    """

    method: Annotated[str, Choice(METHODS)] = "kmeans"
    k: Annotated[int, Range(0, 1000)] = 5
    choose_k: Annotated[str, Choice(("silhouette", "elbow"))] = "silhouette"
    largest_k: Annotated[int, Range(2, 100)] = 8
    nearest: Annotated[int, Range(1, 10**6)] = 25
    iterations: Annotated[int, Range(1, 10**4)] = 20
    min_similarity: Annotated[float, Range(-1.0, 1.0)] = -1.0
    max_deviation: Annotated[float, Range(0.0, 2.0)] = 2.0
    clusters: int = 0
    features: str = "efficientnet_lite0"
    filter: FilterConfig = field(default_factory=FilterConfig)
    seed: int = 0
