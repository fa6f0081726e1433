"""The training loop as a MONAI engine: one optimiser step per iteration, everything else is a handler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines import Trainer
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys

from meddap_monai.diffusion.adapting.batches import Batch, Batches
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.trainable import Trainable
from meddap_monai.diffusion.bases.conditioning import Conditioning
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.errors import NonFiniteLoss
from meddap_monai.training.checkpoint import Progress

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class AdapterTrainer(Trainer):
    """Train adapter parameters on cached latents.

    One epoch is the whole run; ``state.iteration`` counts optimiser steps, also across a resume. ``state.output`` is
    ``{"loss": ..., "gradient_norm": ...}``; ``state.progress`` is what a checkpoint stores.

    Args:
        config: of the run.
        unet: the network, with trainable layers or without (textual inversion).
        trainable: what is trained.
        optimizer: over ``trainable.groups``.
        batches: this process's batches.
        objective: noise, target and weights.
        prompts: gives the encoded prompts of a step; a closure that encodes anew while the text encoder learns.
        factor: pixels per latent.
        device: of the training.
        inferer: calls the network; MONAI's ``SimpleInferer`` by default.
    """

    def __init__(
        self,
        config: AdaptConfig,
        unet: torch.nn.Module,
        trainable: Trainable,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        objective: Objective,
        prompts: Callable[[], Conditioning],
        factor: int,
        device: torch.device,
        inferer: Inferer | None = None,
    ) -> None:
        super().__init__(device, max_epochs=1, data_loader=batches, epoch_length=config.steps, decollate=False)
        self.config, self.unet, self.trainable, self.optimizer = config, unet, trainable, optimizer
        self.objective, self.prompts, self.factor = objective, prompts, factor
        self.batches = batches
        self.inferer = inferer or SimpleInferer()
        self.state.progress = Progress()
        self.ema: dict[str, torch.Tensor] = trainable.copy() if config.ema else {}
        self.fp16 = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None

    # ------------------------------------------------------------------------------------------------------- step
    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        step = self.state.iteration - 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.config.rate(step)
        batch = batchdata.to(self.state.device)
        self.state.ids = batchdata.ids
        loss = self._with_less_memory(batch)
        self._check(loss, step, batchdata)
        norm = self._update()
        self.state.progress.step = step + 1
        return {CommonKeys.LOSS: float(loss), "gradient_norm": norm}

    def _with_less_memory(self, batch: Batch) -> torch.Tensor:
        """Run forward and backward; on running out of memory halve the images per pass and start the step again."""
        while True:
            progress = self.state.progress
            size = progress.micro_batch or -(-len(batch) // self.config.accumulate)
            try:
                return self._gradients(batch, size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.optimizer.zero_grad(set_to_none=True)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                progress.micro_batch = size // 2

    def _gradients(self, batch: Batch, size: int) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.state.device)
        for start in range(0, len(batch), size):
            part = batch.part(start, start + size)
            with self.cast():
                noisy, target = self.objective.diffuse(part.clean, part.noise, part.times)
                answer = self.answer(noisy, part.times, part.prompts)
            errors = self.objective.errors(answer, target)
            loss = (errors * self.objective.weight(part.times) * part.factors).sum() / len(batch)
            (loss if self.fp16 is None else self.fp16.scale(loss)).backward()
            total += loss.detach()
        return total

    def answer(self, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the network's prediction for noisy latents ``(N, C, h, w)`` at `times` with the prompts at `rows`."""
        words = self.prompts().take(rows)
        dtype = next(self.unet.parameters()).dtype
        arguments = words.to(noisy.device).to(dtype).arguments(noisy, self.factor)
        return self.inferer(noisy.to(dtype), self.unet, times, return_dict=False, **arguments)[0]

    def cast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context of the run."""
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.state.device.type, _TYPES[self.config.precision])

    def _check(self, loss: torch.Tensor, step: int, batch: Batch) -> None:
        finite = torch.isfinite(loss).to(torch.float32)
        if self.batches.world > 1:
            finite = torch.as_tensor(idist.all_reduce(finite, "MIN"))
        if not bool(finite):
            raise NonFiniteLoss(
                f"adapt: the loss is {float(loss)} at step {step + 1}, learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g}, images {', '.join(batch.ids[:8])}; expected a finite "
                "number. The last checkpoint is finite: lower adapt#learning_rate or use precision bf16 or fp32"
            )

    def _update(self) -> float:
        parameters = list(self.trainable.parameters.values())
        if self.batches.world > 1:
            self._share(parameters)
        if self.fp16 is not None:  # after sharing, so that every process sees an overflow of any
            self.fp16.unscale_(self.optimizer)
        limit = self.config.grad_clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if self.fp16 is None:
            self.optimizer.step()
        else:
            self.fp16.step(self.optimizer)
            self.fp16.update()
        with torch.no_grad():
            for name, mean in self.ema.items():
                mean.lerp_(self.trainable.parameters[name], 1 - self.config.ema)
        return float(norm)

    def _share(self, parameters: list[torch.nn.Parameter]) -> None:
        """Average the gradients over all processes in one message."""
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([parameter.grad.flatten() for parameter in with_gradient])  # type: ignore[union-attr]
        flat = torch.as_tensor(idist.all_reduce(flat)) / self.batches.world
        for parameter, part in zip(with_gradient, flat.split([p.numel() for p in with_gradient]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    # ------------------------------------------------------------------------------------------------------ values
    def values(self) -> dict[str, torch.Tensor]:
        """Return the weights that are validated and kept: the running mean where there is one."""
        return {name: tensor.clone() for name, tensor in self.ema.items()} if self.ema else self.trainable.copy()

    @contextlib.contextmanager
    def kept_values(self) -> Any:
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
