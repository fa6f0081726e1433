"""Grad-CAM of networks that write in place, and of one whose answer is known."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from meddap_monai.classifier.diagnostics import class_activation, curves_figure, last_convolution, subsample_rows


def network_that_looks_for_light() -> nn.Module:
    """A bright patch raises the logit of class 1; like SqueezeNet it activates in place behind its convolution."""
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(convolution.weight, 1.0)
    last = nn.Linear(1, 2, bias=False)
    last.weight.data = torch.tensor([[-1.0], [1.0]])
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def test_the_map_is_high_where_the_network_looked_and_the_network_is_left_as_it_was() -> None:
    network = network_that_looks_for_light()
    images = torch.zeros(1, 1, 16, 16)
    images[..., :6, :6] = 1.0
    layer = last_convolution(network)
    assert layer == "0"
    (found,) = class_activation(network, images, [1], layer)
    assert found.shape == (16, 16)
    assert found[1:5, 1:5].min() > 0.7 > 0.3 > found[10:, 10:].max()
    assert network[1].inplace
    assert np.isfinite(found).all()


def test_a_network_that_was_drawn_does_not_stay_in_memory() -> None:
    """A study draws dozens of them in one process."""
    network = network_that_looks_for_light()
    class_activation(network, torch.rand(1, 1, 16, 16), [1], "0")
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


@pytest.mark.filterwarnings("error")
def test_images_of_one_class_have_no_curves() -> None:
    figure = curves_figure(np.full((4, 2), 0.5), np.zeros(4, int), ["benign", "malignant"])
    assert all(axes.get_legend() is None for axes in figure.axes)


def test_the_projector_shows_synthetic_images_behind_many_real_ones() -> None:
    rows = [{"source": "real"}] * 900 + [{"source": "synthetic"}] * 600
    shown = subsample_rows(rows, 500)
    assert len(shown) == 500
    assert sum(row["source"] == "synthetic" for row in shown) == 200
    assert subsample_rows(rows[:3], 500) == rows[:3]
