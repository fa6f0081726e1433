"""A frozen encoder: features that depend on the image alone, computed once."""

import torch
from torch import nn

from meddap_monai.encoders import frozen
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.registry import build_network


class Counting(nn.Module):
    """A classifier that counts the images it sees."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.last = nn.Linear(4, 2)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.last((images * self.scale).flatten(1))


def test_an_image_is_looked_at_once_and_by_every_encoder_for_itself() -> None:
    network, images = Counting(), torch.rand(3, 1, 2, 2)
    first = FrozenEncoder(network)(images)
    assert torch.equal(first, images.flatten(1)) and network.seen == frozen.TOGETHER
    again = FrozenEncoder(network)(images[[2, 0]])
    assert torch.equal(again, first[[2, 0]]) and network.seen == frozen.TOGETHER
    other = Counting(scale=2.0)
    FrozenEncoder(other)(images)
    assert other.seen == frozen.TOGETHER, "other weights are another encoder"


def test_features_are_those_of_the_network_whoever_stands_beside() -> None:
    network = build_network("efficientnet_lite0", 3, pretrained=True).eval()
    images = torch.rand(5, 1, 32, 32)
    found = FrozenEncoder(network)(images)
    frozen._known.clear()
    assert torch.equal(FrozenEncoder(network)(images[3:]), found[3:])
    with torch.inference_mode():
        assert torch.allclose(found, Penultimate(network)(images), atol=1e-4)


def test_loaded_weights_make_another_encoder_and_it_never_trains() -> None:
    encoder, images = FrozenEncoder(build_network("resnet10_tiny", 2)), torch.rand(2, 1, 32, 32)
    first = encoder(images)
    other = FrozenEncoder(build_network("resnet10_tiny", 2))
    encoder.load_state_dict(other.state_dict())
    assert not torch.allclose(encoder(images), first)
    assert not encoder.train().training and not any(one.requires_grad for one in encoder.parameters())


def test_the_oldest_features_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(frozen, "KEPT", 2)
    network, images = Counting(scale=3.0), torch.rand(3, 1, 2, 2)
    FrozenEncoder(network)(images)
    assert len(frozen._known) == 2
    FrozenEncoder(network)(images[2:])
    assert network.seen == frozen.TOGETHER
    FrozenEncoder(network)(images[:1])
    assert network.seen == 2 * frozen.TOGETHER
