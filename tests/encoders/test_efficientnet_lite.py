"""EfficientNet-Lite against the shapes and numbers of its definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from meddap_monai.encoders.efficientnet_lite import ConvNorm, EfficientNetLite, from_published


@pytest.mark.parametrize(("depth", "parameters", "blocks"), [(1.0, 3_371_008, 16), (1.1, 4135680, 21)])
def test_has_the_published_size(depth, parameters, blocks):
    network = EfficientNetLite(depth)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.blocks) == blocks


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("side", [15, 16])
def test_pads_an_odd_pixel_below_and_to_the_right(side, kernel, stride):
    layer = ConvNorm(1, 1, kernel, stride, active=False).eval()
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    out = -(-side // stride)
    total = max(0, (out - 1) * stride + kernel - side)
    padded = nn.ZeroPad2d((total // 2, total - total // 2) * 2)(image)
    expected = functional.conv2d(padded, layer.conv.weight, stride=stride) / (1 + 1e-3) ** 0.5
    assert layer(image).shape == (1, 1, out, out)
    assert torch.allclose(layer(image), expected, atol=1e-6)


def test_published_names_cover_every_tensor_once():
    own = EfficientNetLite().state_dict()
    published = {"_conv_stem.weight": own["stem.conv.weight"], "_fc.weight": torch.zeros(1000, 1280)}
    assert list(from_published(published)) == ["stem.conv.weight"]


def test_hooks_see_every_convolution():
    """Grad-CAM listens at the last one."""
    network, seen = EfficientNetLite().eval(), set()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    network(torch.rand(1, 3, 32, 32))
    assert seen == {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
