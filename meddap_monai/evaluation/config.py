"""How an evaluation is asked for."""

from dataclasses import dataclass
from typing import Annotated

from meddap_monai.core.constraints import Choice, Range, settings
from meddap_monai.statistics.weighted import METRICS


@dataclass(frozen=True)
@settings("evaluate")
class EvaluateConfig:
    """How the arms are judged.

    Attributes:
        question: what the report answers, as its headline.
        metric: the one metric of the verdict; the others are shown.
        confidence: of the intervals.
        level: of significance after Holm's correction.
        samples: bootstrap replicates over patients.
        exclude_seen: leave out of the unseen set what a classifier, the base or another guard has seen, equal or
            edited; counted in the report, listed in ``seen.csv``. Without it such an image stops the evaluation.
        hog: train the sanity arm (HOG and logistic regression on the real images) for every seed.
        generative: compute FID, KID, precision, recall and diversity of the synthetic images when they are given.
        features: extractor of these measures, see `meddap_monai.encoders.extractors`.
        embedding: "tsne" draws maps of the training, synthetic and unseen images in classifiers' features; "none".
        pictures: pictures per class and source in the report.
        title: of the page.
        command: the command that repeats the study, shown in the report.
        device: torch device.
        seed: of the bootstrap.
    """

    question: str = "Does training with synthetic images help the classifier?"
    metric: Annotated[str, Choice(METRICS)] = "auc"
    confidence: Annotated[float, Range(0.5, 0.999)] = 0.95
    level: Annotated[float, Range(1e-6, 0.5)] = 0.05
    samples: Annotated[int, Range(20, 1_000_000)] = 1000
    exclude_seen: bool = False
    hog: bool = True
    generative: bool = True
    features: str = "efficientnet_lite0"
    embedding: Annotated[str, Choice(("none", "tsne"))] = "none"
    pictures: Annotated[int, Range(0, 24)] = 6
    title: str = "Synthetic ultrasound for training: what it did"
    command: str = ""
    device: str = "cpu"
    seed: int = 0
