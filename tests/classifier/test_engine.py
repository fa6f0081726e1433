"""What one training step optimises: losses against torch's own, weights of classes and sources, mixup."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.engine import (
    Criterion,
    TrainingStep,
    balanced_weights,
    build_trainer,
)
from meddap_monai.classifier.optimization import MovingAverage, build_optimizer, train_mode
from meddap_monai.classifier.stage import initial_network
from meddap_monai.encoders.layers import layers

CONFIG = ClassifyConfig(
    augmentation="none",
    label_smoothing=0.0,
    encoder="vit_tiny",
    mode="scratch",
    resolution=16,
    batch=8,
    steps=1,
    optimizer="sgd",
    learning_rate=0.1,
)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-2.0, 1.0, 3.0]])
LABELS = torch.tensor([0, 2, 1])
TARGETS = nn.functional.one_hot(LABELS, 3).float()


def test_cross_entropy_with_smoothing_and_class_weights_is_torchs() -> None:
    plain = nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)(LOGITS, LABELS)
    assert torch.allclose(Criterion(replace(CONFIG, label_smoothing=0.1))(LOGITS, TARGETS), plain)
    weights = balanced_weights([0, 0, 0, 1, 2, 2], 3)
    assert torch.allclose(weights, torch.tensor([2 / 3, 2.0, 1.0]))
    weighted = nn.CrossEntropyLoss(reduction="none", weight=weights)(LOGITS, LABELS)
    assert torch.allclose(Criterion(CONFIG, weights)(LOGITS, TARGETS), weighted)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_is_that_of_the_paper(gamma: float) -> None:
    chance = LOGITS.softmax(dim=1)[range(3), LABELS]
    expected = (1 - chance) ** gamma * -chance.log()
    found = Criterion(replace(CONFIG, loss="focal", focal_gamma=gamma))(LOGITS, TARGETS)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_source_without_weight_teaches_nothing() -> None:
    """A batch half synthetic at weight 0 and half real at weight 2 is a batch of the real half."""
    batch = {
        "image": torch.randint(0, 255, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        "label": torch.arange(8) % 3,
        "synthetic": torch.tensor([0, 1] * 4),
        "id": [str(i) for i in range(8)],
    }
    half = {name: values[::2] for name, values in batch.items()}
    both = _after_one_step(replace(CONFIG, synthetic_loss_weight=0.0, real_loss_weight=2.0), batch)
    for first, second in zip(both, _after_one_step(CONFIG, half), strict=True):
        assert torch.allclose(first, second, atol=1e-6)


def _after_one_step(config: ClassifyConfig, batch: dict[str, Any]) -> list[torch.Tensor]:
    network = initial_network(config, 3)
    step = TrainingStep(config, Criterion(config), 3)
    build_trainer(config, network, build_optimizer(config, network), [batch], step, []).run()
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_mixup_mixes_images_and_targets_alike_and_by_the_step() -> None:
    step = TrainingStep(replace(CONFIG, mixup=0.4), Criterion(CONFIG), 8)
    targets = torch.eye(8)
    images = targets.view(8, 8, 1, 1).clone()
    mixed, mixed_targets = step._mix(images, targets, 3)
    assert torch.allclose(mixed[..., 0, 0], mixed_targets), "each image is mixed as its target is"
    assert torch.allclose(mixed_targets.sum(dim=1), torch.ones(8))
    assert not torch.equal(mixed_targets, targets)
    assert torch.equal(step._mix(images, targets, 3)[1], mixed_targets)
    assert not torch.equal(step._mix(images, targets, 4)[1], mixed_targets)


def test_rates_fall_from_the_last_layer_to_the_first_and_frozen_layers_stay() -> None:
    config = replace(CONFIG, encoder_rate=0.5, layer_decay=0.1, freeze=2)
    network = initial_network(config, 3)
    found = layers(network)
    groups = build_optimizer(config, network).param_groups
    assert [group["factor"] for group in groups] == pytest.approx([0.5e-3, 0.5e-2, 0.5e-1, 0.5, 1.0][-len(groups) :])
    assert len(groups) == len(found) - 2
    assert [one.requires_grad for layer in found[:2] for one in layer] == [False] * sum(map(len, found[:2]))


def test_batch_statistics_of_frozen_layers_do_not_move() -> None:
    config = replace(CONFIG, encoder="resnet10_tiny", freeze=2)
    network = initial_network(config, 3)
    build_optimizer(config, network)
    train_mode(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module.training for module in norms] == [module.weight.requires_grad for module in norms]
    assert not norms[0].training and norms[-1].training


def test_the_moving_average_follows_the_weights_and_copies_the_statistics() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = copy.deepcopy(network)
    before = average[0].weight.item()
    trainer = Engine(lambda *_: nn.init.constant_(network[0].weight, before + 1) and network[1].running_mean.fill_(7.0))
    MovingAverage(network, average, 0.9).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert average[0].weight.item() == pytest.approx(before + 0.9, abs=1e-6), "a young average follows faster: 1/10"
    assert average[1].running_mean.item() == 7.0
