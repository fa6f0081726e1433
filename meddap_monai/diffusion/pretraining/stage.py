"""Stage ``pretrain``: records in, an own latent diffusion base out, in the ordinary Stable Diffusion layout.

HistoDiffusion's idea (Ye et al., MICCAI 2023) as a product feature: pre-train once on much data without labels, steer
later with little. Phases, each with its own checkpoint: text encoder, autoencoder, UNet, and the decoder
once more, on what the UNet draws.
"""

from __future__ import annotations

from pathlib import Path

import torch

from meddap_monai import store
from meddap_monai.core.distributed import Ranks, join_ranks
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.export import export_base
from meddap_monai.diffusion.pretraining.job import PretrainJob


def pretrain(config: PretrainConfig, output: Path, *, records: Path, overwrite: bool = False) -> Path:
    """Train a base from scratch and write it as a Stable Diffusion folder.

    Args:
        config: see `PretrainConfig`.
        output: stage folder; the base goes to ``output/base``, checkpoints to ``output/phases``.
        records: records file; only split ``train`` is seen.
        overwrite: replace a folder of another configuration.

    Returns:
        ``output/base``.

    Raises:
        RecordsError: no record in split train.
        ConfigurationError: a class that the prompt tables do not caption, a GPU that is not there.
        NonFiniteLoss, Interrupted, DiskFull, ForeignOutput, FolderInUse: see `errors`.
        StageError: another process has ended.

    Under ``torchrun`` every process calls this. They divide the UNet's batches; the other phases are the first one's,
    which also writes.
    """
    output, records = Path(output), Path(records)
    with join_ranks(gpu=config.device == "cuda" and torch.cuda.is_available()) as ranks:
        if ranks.rank == 0:
            _lead(config, output, records, ranks, overwrite)
        else:
            _follow(config, output, records, ranks)
    return output / "base"


def _lead(config: PretrainConfig, output: Path, records: Path, ranks: Ranks, overwrite: bool) -> None:
    """First process: hold the folder, train, write."""
    with store.open_stage(output, "pretrain", config, {"records": records}, overwrite) as stage:
        ranks.share(stage.done)
        if not stage.done:
            job = PretrainJob(config, output, records, ranks)
            job.train()
            export_base(job)
            counts = {"in": len(job.everything), "out": len(job.training), "rejected": 0, "views": len(job.views.ids)}
            stage.finish(counts, classes=sorted({r["class_name"] for r in job.training}))
    ranks.share()


def _follow(config: PretrainConfig, output: Path, records: Path, ranks: Ranks) -> None:
    """Other processes: wait until the folder is open, train along, wait until the base is written."""
    if not ranks.share():
        PretrainJob(config, output, records, ranks).train()
    ranks.share()
