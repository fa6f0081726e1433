"""The MONAI engines of a classifier: one training step, a supervised trainer and a supervised evaluator."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.metrics import EpochMetric, Loss
from monai.engines import IterationEvents, SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import FocalLoss
from torch import nn

from meddap_monai.classifier.augment import augment
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.optimization import train_mode
from meddap_monai.core.devices import PRECISIONS
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import ConfigurationError
from meddap_monai.statistics.metrics import macro_auc
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import schedule, set_rate
from meddap_monai.training.step_trainer import within_memory


class Criterion(nn.Module):
    """Loss per image: softmax cross-entropy or focal loss against soft targets, with class weights.

    Args:
        config: `loss`, `focal_gamma`, `label_smoothing`.
        class_weights: ``(classes,)`` or None.
    """

    def __init__(self, config: ClassifyConfig, class_weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = config.label_smoothing
        self.loss: nn.Module
        if config.loss == "focal":
            self.loss = FocalLoss(gamma=config.focal_gamma, weight=class_weights, use_softmax=True, reduction="none")
        else:
            self.loss = nn.CrossEntropyLoss(weight=class_weights, reduction="none")

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return ``(B,)`` losses of logits ``(B, classes)`` against target probabilities ``(B, classes)``."""
        if self.smoothing:
            targets = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        loss = self.loss(logits.float(), targets)
        return loss.sum(dim=1) if loss.ndim == 2 else loss


def balanced_weights(labels: Sequence[int], classes: int) -> torch.Tensor:
    """Return ``(classes,)`` weights inverse to the class frequency, mean 1 over the images (scikit-learn's rule)."""
    counts = np.bincount(labels, minlength=classes).clip(min=1)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)


class TrainingStep:
    """One optimizer step; given to MONAI's `SupervisedTrainer` as ``iteration_update``.

    All randomness (dropout, augmentation, mixup) derives from the run seed and the step number, so a resumed run needs
    no generator state. When memory runs out the batch is cut in halves whose gradients add up to the whole batch's.

    Args:
        config: the run.
        criterion: loss per image.
        classes: number of classes.
        ranks: the processes that divide every step.
    """

    def __init__(
        self, config: ClassifyConfig, criterion: Criterion, classes: int, ranks: Ranks = SINGLE_PROCESS
    ) -> None:
        self.config, self.criterion, self.classes, self.ranks = config, criterion, classes, ranks
        self.chunk = config.batch
        self.halvings = 0

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch; return ``loss``, ``loss_real``, ``loss_synthetic`` (NaN where absent) and ``lr``."""
        config, step = self.config, engine.state.iteration
        device = engine.state.device
        images, targets = self._prepare(batch, step, device)
        synthetic = batch["synthetic"].to(device).bool()
        factors = torch.where(synthetic, config.synthetic_loss_weight, config.real_loss_weight)
        rate = config.learning_rate * schedule(config.schedule, step - 1, config.steps)
        set_rate(engine.optimizer, rate)
        losses = within_memory(
            lambda size: self._update(engine, images, targets, factors, step, size),
            min(self.chunk, len(images)),
            lambda size: self._shrink_chunk(size, engine),
        )
        total = check_finite((losses * factors).mean(), "classify", step, rate, batch["id"], self.ranks)
        output = {
            "loss": float(total),
            "loss_real": _mean(losses[~synthetic]),
            "loss_synthetic": _mean(losses[synthetic]),
            "learning_rate": rate,
        }
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _prepare(self, batch: dict[str, Any], step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        images = to_float(batch["image"].to(device, non_blocking=True))
        changed = augment(images, config, step, self.ranks)
        if config.augmentation_of != "all":
            wanted = batch["synthetic"] == int(config.augmentation_of == "synthetic")
            changed = torch.where(wanted.to(device).view(-1, 1, 1, 1), changed, images)
        images = changed.contiguous(memory_format=torch.channels_last)
        targets = nn.functional.one_hot(batch["label"], self.classes).float().to(device)
        if config.mixup:
            images, targets = self._mix(images, targets, step)
        return images, targets

    def _mix(self, images: torch.Tensor, targets: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(derive_seed(self.config.seed, "classify/mixup", step))
        share = torch.tensor(rng.beta(self.config.mixup, self.config.mixup, len(images)), dtype=torch.float32)
        other = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        share = share.to(images.device)
        mixed = share.view(-1, 1, 1, 1) * images + (1 - share.view(-1, 1, 1, 1)) * images[other]
        return mixed, share.view(-1, 1) * targets + (1 - share.view(-1, 1)) * targets[other]

    def _shrink_chunk(self, size: int, engine: Any) -> None:
        self.chunk = size
        self.halvings += 1
        engine.logger.warning("memory ran out: going on with %d images at a time", size)

    def _update(
        self,
        engine: Any,
        images: torch.Tensor,
        targets: torch.Tensor,
        factors: torch.Tensor,
        step: int,
        size: int,
    ) -> torch.Tensor:
        torch.manual_seed(derive_seed(self.config.seed, "classify/step", step))
        train_mode(engine.network)
        engine.optimizer.zero_grad(set_to_none=True)
        collected = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            with torch.autocast(
                images.device.type, PRECISIONS[self.config.precision], enabled=self.config.precision != "fp32"
            ):
                losses = self.criterion(engine.inferer(images[part], engine.network), targets[part])
            share = (losses * factors[part]).sum() / len(images)
            (engine.scaler.scale(share) if engine.scaler is not None else share).backward()
            collected.append(losses.detach())
        if engine.scaler is not None:
            engine.scaler.step(engine.optimizer)
            engine.scaler.update()
        else:
            engine.optimizer.step()
        return torch.cat(collected)


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


class ScalerState:
    """The gradient scaler of a MONAI trainer for a checkpoint; the trainer makes it anew when it starts."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.scaler: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state; empty without mixed precision."""
        return self.scaler.state_dict() if self.scaler is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep a state until the trainer starts."""
        self.kept = state

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Any) -> None:
        self.scaler = engine.scaler
        if self.scaler is not None and self.kept:
            self.scaler.load_state_dict(self.kept)


def distribute_network(network: nn.Module, ranks: Ranks, compiled: bool = False) -> nn.Module:
    """Wrap a network so that gradients are averaged over the processes; optionally compile it.

    MONAI's ViT holds a parameter that classification does not use, so unused ones are looked for.
    """
    if ranks.size > 1:
        network = nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
    return torch.compile(network) if compiled else network  # type: ignore[return-value]


def measure(evaluator: SupervisedEvaluator) -> dict[str, float]:
    """Run an evaluator and return its metrics."""
    evaluator.run()
    evaluator.state.epoch = 0
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


def auc_then_loss(values: dict[str, float]) -> tuple[float, ...]:
    """Return what is compared between validations: the AUC (0 where not defined), then the lower loss."""
    auc = values["val_auc"] if math.isfinite(values["val_auc"]) else 0.0
    return auc, -values["val_loss"]


def build_trainer(
    config: ClassifyConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    step: TrainingStep,
    handlers: Sequence[Any],
    first_step: int = 0,
) -> SupervisedTrainer:
    """Return MONAI's trainer, set to go on after `first_step` steps; one Ignite epoch is the whole run."""
    device = torch.device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigurationError("precision: fp16 needs a GPU; use bf16 or fp32")
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=1,
        epoch_length=config.steps,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=step.criterion,
        inferer=SimpleInferer(),
        iteration_update=step,
        train_handlers=list(handlers),
        amp=config.precision == "fp16",
        decollate=False,
    )
    trainer.state.iteration = first_step
    return trainer


def build_evaluator(
    config: ClassifyConfig, network: nn.Module, loader: Any, handlers: Sequence[Any] = ()
) -> SupervisedEvaluator:
    """Return MONAI's evaluator with the key metric ``val_auc`` (macro, classes present) and ``val_loss``."""

    def prepare(batch: dict[str, Any], device: Any, non_blocking: bool, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = to_float(batch["image"].to(device, non_blocking=non_blocking))
        return images.contiguous(memory_format=torch.channels_last), batch["label"].to(device)

    def scores(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return output["pred"].float(), output["label"]

    def auc(logits: torch.Tensor, labels: torch.Tensor) -> float:
        return macro_auc(torch.softmax(logits, dim=1).cpu().numpy(), labels.cpu().numpy())

    return SupervisedEvaluator(
        device=torch.device(config.device),
        val_data_loader=loader,
        network=network,
        prepare_batch=prepare,
        inferer=SimpleInferer(),
        key_val_metric={"val_auc": EpochMetric(auc, output_transform=scores, check_compute_fn=False)},
        additional_metrics={"val_loss": Loss(nn.CrossEntropyLoss(), output_transform=scores)},
        val_handlers=list(handlers) or None,
        decollate=False,
    )
