"""Dictionary versions of the transforms in `physics` and `policy`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform

from meddap_monai.core.printing import PrintsArguments
from meddap_monai.transforms.physics import RandAcousticShadow, RandHaze, RandPhysics, RandSpeckle, RandTimeGain
from meddap_monai.transforms.policy import RandConvexProbe, RandDynamicRange, RandMarks, RandUltrasoundAugment


class _RandPhysicsd(PrintsArguments, MapTransform, RandomizableTransform):
    """Dictionary version: one draw for all keys of an item."""

    backend = RandPhysics.backend
    inner: type[RandPhysics]

    def __init__(
        self, keys: KeysCollection, prob: float = 0.1, allow_missing_keys: bool = False, **kwargs: Any
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.transform = self.inner(prob=prob, **kwargs)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _RandPhysicsd:
        """Seed this transform and the one inside."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Return the items with each image changed by the same draw."""
        items = dict(data)
        self.transform.randomize()
        for key in self.key_iterator(items):
            items[key] = self.transform(items[key], randomize=False)
        return items


class RandSpeckled(_RandPhysicsd):
    """Dictionary version of `RandSpeckle`; keyword arguments are passed on."""

    inner = RandSpeckle


class RandTimeGaind(_RandPhysicsd):
    """Dictionary version of `RandTimeGain`; keyword arguments are passed on."""

    inner = RandTimeGain


class RandAcousticShadowd(_RandPhysicsd):
    """Dictionary version of `RandAcousticShadow`; keyword arguments are passed on."""

    inner = RandAcousticShadow


class RandHazed(_RandPhysicsd):
    """Dictionary version of `RandHaze`; keyword arguments are passed on."""

    inner = RandHaze


class RandUltrasoundAugmentd(_RandPhysicsd):
    """Dictionary version of `RandUltrasoundAugment`; keyword arguments are passed on."""

    inner = RandUltrasoundAugment

    def __init__(
        self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys, **kwargs)


class RandDynamicRanged(_RandPhysicsd):
    """Dictionary version of `RandDynamicRange`; keyword arguments are passed on."""

    inner = RandDynamicRange


class RandConvexProbed(_RandPhysicsd):
    """Dictionary version of `RandConvexProbe`; keyword arguments are passed on."""

    inner = RandConvexProbe


class RandMarksd(_RandPhysicsd):
    """Dictionary version of `RandMarks`; keyword arguments are passed on."""

    inner = RandMarks


RandSpeckleD = RandSpeckleDict = RandSpeckled
RandTimeGainD = RandTimeGainDict = RandTimeGaind
RandAcousticShadowD = RandAcousticShadowDict = RandAcousticShadowd
RandHazeD = RandHazeDict = RandHazed
RandUltrasoundAugmentD = RandUltrasoundAugmentDict = RandUltrasoundAugmentd
RandDynamicRangeD = RandDynamicRangeDict = RandDynamicRanged
RandConvexProbeD = RandConvexProbeDict = RandConvexProbed
RandMarksD = RandMarksDict = RandMarksd
