"""Stage ``pretrain``: records in, an own latent diffusion base out, in the ordinary Stable Diffusion layout.

HistoDiffusion's idea (Ye et al., MICCAI 2023) as a product feature: pre-train once on much data without labels, steer
later with little. Phases, each with its own checkpoint: text encoder, autoencoder, UNet, and the decoder
once more, on what the UNet draws.
"""

from pathlib import Path

from meddap_monai.core.devices import choose_device
from meddap_monai.core.distributed import join_ranks, open_stage
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
    device, inputs = choose_device(config.device, "pretrain#device"), {"records": records}
    with (
        join_ranks(gpu=device.type == "cuda") as ranks,
        open_stage(ranks, output, "pretrain", config, inputs, overwrite) as stage,
    ):
        if not stage.done:
            job = PretrainJob(config, output, records, ranks)
            job.train()
            if ranks.rank == 0:
                export_base(job)
                counts = {"in": len(job.everything), "out": len(job.training), "rejected": 0}
                classes = sorted({record["class_name"] for record in job.training})
                stage.finish(counts | {"views": len(job.views.ids)}, classes=classes)
    return output / "base"
