"""What moves the weights of a classifier: the optimizer, its rates by depth, frozen layers, a moving average."""

from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.encoders.layers import layers
from meddap_monai.training.ema import update_average


def build_optimizer(config: ClassifyConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a configuration, and freeze the network's first layers where it asks for it.

    A parameter group per layer carries the ``factor`` on the learning rate (Howard and Ruder 2018).
    """
    found = layers(network)
    groups: list[dict[str, Any]] = []
    for depth, parameters in enumerate(found):
        before = len(found) - 2 - depth
        factor = 1.0 if before < 0 else config.encoder_rate * config.layer_decay**before
        if depth < config.freeze and before >= 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
        else:
            groups.append({"params": parameters, "factor": factor})
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, **options)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, **options)


def train_mode(network: nn.Module) -> None:
    """Set a network to training, but for the batch statistics of its frozen layers."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


class MovingAverage:
    """Handler: after every step, pull a copy of a network towards it (`update_average`); it is what is judged and kept.

    Args:
        network: that is trained.
        average: its copy; batch statistics are copied as they are.
        decay: of the average.
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        self.network, self.average, self.decay = network, average, decay

    def attach(self, engine: Any) -> None:
        """Attach to a trainer, before what validates."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._pull)

    def _pull(self, engine: Any) -> None:
        step = engine.state.iteration - 1
        update_average(self.average.parameters(), self.network.parameters(), self.decay, step)
        for mean, value in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(value)
