"""How synthetic images are judged: the configuration of the stage ``select``."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.core.constraints import Range, settings
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RuleConfig


@dataclass(frozen=True)
@settings("select")
class SelectConfig:
    """How synthetic images are judged.

    Attributes:
        rules: which rules, and their thresholds.
        filter: the classifier behind the rules.
        copies: the copy check.
        features: extractor for the centroid rule and the guards, see `meddap_monai.encoders.extractors`; "filter" takes
            the filter's own.
        threads: images decoded at once.
        pictures: write figures and TensorBoard.
        seed: of folds, weights and batches.
    """

    rules: RuleConfig = field(default_factory=RuleConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    copies: CopyConfig = field(default_factory=CopyConfig)
    features: str = "filter"
    threads: Annotated[int, Range(1, 256)] = 1
    pictures: bool = True
    seed: int = 0
