"""How an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.statistics.weighted import METRICS


@dataclass(frozen=True)
class EvaluateConfig:
    """How the arms are judged.

    Attributes:
        question: what the report answers, as its headline.
        metric: the one metric of the verdict; the others are shown.
        confidence: of the intervals.
        level: of significance after Holm's correction.
        samples: bootstrap replicates over patients.
        hog: train the sanity arm (HOG and logistic regression on the real images) for every seed.
        generative: compute FID, KID, precision, recall and diversity of the synthetic images when they are given.
        embedding: "tsne" draws maps of the training, synthetic and unseen images in classifiers' features; "none".
        pictures: pictures per class and source in the report.
        title: of the page.
        command: the command that repeats the study, shown in the report.
        device: torch device.
        seed: of the bootstrap.
    """

    question: str = "Does training with synthetic images help the classifier?"
    metric: str = "auc"
    confidence: float = 0.95
    level: float = 0.05
    samples: int = 1000
    hog: bool = True
    generative: bool = True
    embedding: str = "none"
    pictures: int = 6
    title: str = "Synthetic ultrasound for training: what it did"
    command: str = ""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.metric, METRICS, "evaluate#metric")
        check_choice(self.embedding, ("none", "tsne"), "evaluate#embedding")
        check_range(self.confidence, 0.5, 0.999, "evaluate#confidence")
        check_range(self.level, 1e-6, 0.5, "evaluate#level")
        check_range(self.samples, 20, 1_000_000, "evaluate#samples")
        check_range(self.pictures, 0, 24, "evaluate#pictures")
