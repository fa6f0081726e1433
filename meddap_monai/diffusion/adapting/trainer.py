"""The training loop of adapters: one optimizer step on cached latents; everything else is a handler."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from meddap_monai.core.devices import PRECISIONS
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.diffusion.adapting.batches import Batch, Batches
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.losses import Loss
from meddap_monai.diffusion.adapting.trainable import Trainable
from meddap_monai.diffusion.bases.conditioning import Conditioning
from meddap_monai.training.ema import update_average
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import schedule, set_rate
from meddap_monai.training.step_trainer import StepTrainer, within_memory


class AdapterTrainer(StepTrainer):
    """Train adapter parameters on cached latents.

    ``state.iteration`` counts optimizer steps, also across a resume. ``state.output`` holds ``loss``,
    ``gradient_norm`` and ``learning_rate``, numbered
    when there are several parameter groups; ``state.ids`` are the images of the step.

    Args:
        config: of the run.
        unet: the network, with trainable layers or without (textual inversion).
        trainable: what is trained.
        optimizer: over ``trainable.groups``.
        batches: this process's batches.
        loss: what is minimised.
        prompts: gives the encoded prompts of a step; a closure that encodes anew while the text encoder learns.
        factor: pixels per latent.
        device: of the training.
        inferer: calls the network, as MONAI's do; without one it is called directly.
        ranks: the processes that divide every step.
    """

    def __init__(
        self,
        config: AdaptConfig,
        unet: torch.nn.Module,
        trainable: Trainable,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        loss: Loss,
        prompts: Callable[[], Conditioning],
        factor: int,
        device: torch.device,
        inferer: Callable[..., Any] | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        super().__init__(self.step, config.steps, device)
        self.config, self.unet, self.trainable, self.optimizer = config, unet, trainable, optimizer
        self.loss, self.prompts, self.factor = loss, prompts, factor
        self.batches, self.ranks = batches, ranks
        self.inferer = inferer or _call
        self.micro_batch = 0
        self.ema: dict[str, torch.Tensor] = trainable.copy() if config.ema else {}
        self.fp16 = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None

    def step(self, number: int) -> dict[str, Any]:
        """Do step `number` (0 is the first)."""
        config = self.config
        set_rate(self.optimizer, schedule(config.schedule, number, config.steps, config.warmup))
        batch = self.batches.step(number).to(self.state.device)
        self.state.ids = batch.ids
        size = self.micro_batch or -(-len(batch) // config.accumulate)
        loss = within_memory(lambda images: self._gradients(batch, images), size, self._shrink_micro_batch)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        check_finite(loss, "adapt", number + 1, rates[0], batch.ids, self.ranks)
        output = {"loss": float(loss), "gradient_norm": self._update()}
        if len(rates) == 1:
            return output | {"learning_rate": rates[0]}
        return output | {f"learning_rate_{group}": rate for group, rate in enumerate(rates)}

    def _shrink_micro_batch(self, size: int) -> None:
        self.micro_batch = size

    def _gradients(self, batch: Batch, size: int) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.state.device)
        for start in range(0, len(batch), size):
            part = batch.part(start, start + size)
            with self.cast():
                errors = self.loss(self, part)
            loss = (errors * part.factors).sum() / len(batch)
            (loss if self.fp16 is None else self.fp16.scale(loss)).backward()
            total += loss.detach()
        return total

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the network's prediction for noisy latents ``(N, C, h, w)`` at `times` with the prompts at `rows`."""
        words = self.prompts().take(rows)
        dtype = next(self.unet.parameters()).dtype
        arguments = words.to(noisy.device).to(dtype).arguments(noisy, self.factor)
        return self.inferer(noisy.to(dtype), self.unet, times, return_dict=False, **arguments)[0]

    def cast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context of the run; what is cast without gradients is not kept for later."""
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.state.device.type, PRECISIONS[self.config.precision], cache_enabled=False)

    def _update(self) -> float:
        parameters = list(self.trainable.parameters.values())
        self.ranks.average([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.fp16 is not None:  # after sharing, so that every process sees an overflow of any
            self.fp16.unscale_(self.optimizer)
        limit = self.config.grad_clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
        if self.fp16 is None:
            self.optimizer.step()
        else:
            self.fp16.step(self.optimizer)
            self.fp16.update()
        if self.ema:
            update_average(self.ema.values(), (self.trainable.parameters[name] for name in self.ema), self.config.ema)
        return float(norm)

    # ------------------------------------------------------------------------------------------------------ values
    def values(self) -> dict[str, torch.Tensor]:
        """Return the weights that are validated and kept: the running mean where there is one."""
        return {name: tensor.clone() for name, tensor in self.ema.items()} if self.ema else self.trainable.copy()

    @contextlib.contextmanager
    def kept_values(self) -> Iterator[None]:
        """Run with `values` in place of the weights under training."""
        if not self.ema:
            yield
            return
        own = self.trainable.copy()
        self.trainable.assign(self.ema)
        try:
            yield
        finally:
            self.trainable.assign(own)


def _call(inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    return network(inputs, *args, **kwargs)


class AdapterState:
    """What a checkpoint keeps of an `AdapterTrainer` besides its optimizer: weights, their mean, images that fit."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything."""
        trainer = self.trainer
        scaler = trainer.fp16.state_dict() if trainer.fp16 is not None else {}
        kept = {"parameters": trainer.trainable.copy(), "ema": dict(trainer.ema)}
        return kept | {"micro_batch": trainer.micro_batch, "scaler": scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put everything into the trainer."""
        trainer = self.trainer
        trainer.trainable.assign(state["parameters"])
        trainer.ema = {name: tensor.to(trainer.state.device) for name, tensor in state["ema"].items()}
        trainer.micro_batch = state["micro_batch"]
        if trainer.fp16 is not None and state["scaler"]:
            trainer.fp16.load_state_dict(state["scaler"])
