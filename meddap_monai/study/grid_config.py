"""What a grid of experiments crosses with what: the configuration of `meddap grid`."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.constraints import Choice, Range, here, settings
from meddap_monai.encoders.places import without_place
from meddap_monai.engines.config import EngineConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.arms import TRAINED_ARMS
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.selection.mixing.config import MixConfig


@dataclass(frozen=True)
@settings("grid")
class GridConfig:
    """What is crossed with what.

    Attributes:
        arms: names of `meddap_monai.evaluation.arms.TRAINED_ARMS`.
        encoders: names of encoders.
        fractions: shares of the real training groups, 1 is all; smaller ones are inside larger ones. The synthetic
            images of a draw were learnt from all of its training images: at smaller shares the arms with synthetic
            images answer what happens when only that share can be used as real images.
        classify: everything else of the classifiers.
        mix: how much synthetic.
        evaluate: how they are judged.
        engine: where cells are trained; see `EngineConfig`.
    """

    arms: tuple[Annotated[str, Choice(TRAINED_ARMS)], ...] = (
        "real",
        "real_ultrasound",
        "real_synthetic",
        "real_synthetic_ultrasound",
    )
    encoders: tuple[str, ...] = ("efficientnet_lite0",)
    fractions: tuple[Annotated[float, Range(0.01, 1.0)], ...] = (1.0,)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if len(set(map(without_place, self.encoders))) < len(self.encoders):
            raise ConfigurationError(
                f"{here('encoders')}: got {', '.join(map(without_place, self.encoders))}, expected each name once; "
                "rename one of the folders"
            )
