"""One process's share of the shards: sample, mark, write, commit; with the batch halved when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddap_monai import store
from meddap_monai.core.devices import PRECISIONS, is_out_of_memory
from meddap_monai.core.distributed import Ranks
from meddap_monai.core.progress import progress, say
from meddap_monai.core.records import Record, iter_records, write_records
from meddap_monai.diffusion.adapters.file import adapter_path
from meddap_monai.diffusion.bases.base import Base
from meddap_monai.diffusion.generation import marking, plan
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.defaults import weights_of
from meddap_monai.diffusion.generation.nearness import NearnessCheck, refuse_near
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.generation.source_images import SourceImages
from meddap_monai.images.provenance import training_images
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.images.writing.write import write_synthetic_png

SHARD_RECORDS = "records.jsonl"
PLAN = "plan.csv"


@dataclass(frozen=True)
class Request:
    """What one call of ``generate`` was given, with the hashes of its inputs.

    Attributes:
        config: how many of what, and how.
        output: folder of the stage.
        records: records file of the real images.
        base: the opened base.
        adapters: folders or files.
        inputs: name of an input -> hash of its content; the paths play no part.
    """

    config: GenerateConfig
    output: Path
    records: Path
    base: Base
    adapters: tuple[Path | str, ...]
    inputs: dict[str, str]

    @property
    def run_id(self) -> str:
        """Ten hexadecimal digits that name the run in the ids of its images."""
        return store.hash_configuration([self.config, self.inputs])[:10]

    def origin(self) -> dict[str, Any]:
        """Return what every image's record says about base and adapters."""
        weights = weights_of(self.config, self.adapters)
        adapters = [
            {"name": Path(path).name, "sha256": self.inputs[f"adapter_{number}"], "weight": weight}
            for number, (path, weight) in enumerate(zip(self.adapters, weights, strict=True))
        ]
        origin: dict[str, Any] = {
            "base": Path(self.base.name).name,
            "base_sha256": self.inputs["base"],
            "adapters": adapters,
        }
        guidance = self.config.classifier_guidance
        if guidance is not None:
            kept = {name: getattr(guidance, name) for name in ("scale", "start", "end", "variant")}
            origin["classifier_guidance"] = kept | {"sha256": self.inputs.get("classifier", "trained in this run")}
        return origin


@dataclass
class ShardMaker:
    """Makes the shards of one process.

    Attributes:
        request: see `Request`.
        sampler: base with fused adapters.
        ranks: who divides the shards.
        flag: ends the work between two steps once a signal has arrived.
        batch: images sampled together; halved when memory runs out, never raised again; 0: as configured.
        sliced: whether images are decoded one by one, which the first shortage of memory brings about.
    """

    request: Request
    sampler: ImageSampler
    ranks: Ranks
    flag: store.InterruptFlag
    batch: int = 0
    sliced: bool = False

    def __post_init__(self) -> None:
        """Collect what every shard needs from the real records."""
        self.batch = self.batch or self.request.config.batch
        if self.sliced:
            self.sampler.save_memory()
        self._sources = SourceImages.find(iter_records(self.request.records), self.request.config)
        self._grey = _wants_grey(self.request)
        self._nearness = _nearness(self.request, self.sampler.size)

    def run(self) -> int:
        """Make every shard of this process that is not committed yet; return the batch size in use at the end."""
        config, output = self.request.config, self.request.output
        total = sum(1 for row in plan.read_plan(output / PLAN) if self.ranks.owns(row.row // config.shard_size))
        hidden = self.ranks.rank > 0
        with (
            progress(total=total, desc="generate", unit="image", disable=hidden) as bar,
            _curves(output, hidden) as curves,
        ):
            for number, rows in plan.shards(plan.read_plan(output / PLAN), config.shard_size):
                if not self.ranks.owns(number):
                    continue
                if store.shard_done(output, number):
                    bar.update(len(rows))
                    bar.initial += len(rows)
                    continue
                started = time.monotonic()
                images = self.make(number, rows)
                bar.update(len(rows))
                curves.add_scalar("generate/images_per_second", len(rows) / (time.monotonic() - started), number)
                curves.add_images("generate/latest", np.stack(images[:8]), number, dataformats="NHWC")
        return self.batch

    def make(self, number: int, rows: Sequence[plan.PlanRow]) -> list[np.ndarray]:
        """Make one shard and commit it; return its images ``(H, W, 3) uint8``.

        A shard is begun again with half the batch when memory runs out, so that one batch size holds for all its
        images and re-running it with that size gives the same bytes.
        """
        while True:
            try:
                with store.commit_shard(self.request.output, number) as folder:
                    return self._fill(folder, number, rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._back_off():
                    raise

    def _fill(self, folder: Path, number: int, rows: Sequence[plan.PlanRow]) -> list[np.ndarray]:
        """Sample a shard; files are written by a second thread while the next batch is computed."""
        records: list[Record] = []
        shown: list[np.ndarray] = []
        with ThreadPoolExecutor(max_workers=1) as writer:
            writing = []
            for batch in plan.batches(rows, self.batch):
                images = self.sampler.sample(batch, self._sources.load(batch), self._check_signal)
                shown += list(images[: max(0, 8 - len(shown))]) if _fits(shown, images) else []
                writing.append(writer.submit(self._write, folder, number, batch, images))
            for task in writing:
                records += task.result()
        if not self.request.config.near_copies:
            refuse_near(record["synthetic"] for record in records)
        write_records(folder / SHARD_RECORDS, records)
        return shown

    def _write(self, folder: Path, number: int, rows: Sequence[plan.PlanRow], images: np.ndarray) -> list[Record]:
        made = self.request.origin() | {
            "shard": number,
            "batch": self.batch,
            "dtype": str(PRECISIONS[self.request.config.precision]).removeprefix("torch."),
            "device": device_name(self.sampler.device),
            "threads": torch.get_num_threads(),
            "sliced": self.sliced,
        }
        records = []
        pictures = [marking.grey_of(image) if self._grey else image for image in images]
        nearness = self._nearness(pictures, [row.mode for row in rows])
        for row, pixels, near in zip(rows, pictures, nearness, strict=True):
            synthetic = marking.synthetic_field(row, made | near)
            name = f"{self.request.run_id}-{row.row:07d}"
            write_synthetic_png(folder / f"{name}.png", pixels, synthetic)
            records.append(marking.record_of(row, name, pixels, self._sources.patient(row), synthetic))
        return records

    def _check_signal(self) -> None:
        self.flag.raise_if_set(f"the finished shards of {self.request.output} are kept, the begun one is made again")

    def _back_off(self) -> bool:
        """Use less memory from now on; False when that is not possible."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self.sliced and self.sampler.save_memory():
            self.sliced = True
            return True
        if self.batch == 1:
            return False
        self.batch //= 2
        say(f"generate: out of memory; going on with batches of {self.batch}")
        return True


def device_name(device: torch.device) -> str:
    """Return "cpu" or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _fits(shown: list[np.ndarray], images: np.ndarray) -> bool:
    return not shown or shown[0].shape == images[0].shape


def _wants_grey(request: Request) -> bool:
    """Return the configured choice, else whether the first real training image is grey."""
    if request.config.grey is not None:
        return request.config.grey
    for record in iter_records(request.records):
        if record["split"] == "train" and record["source"] == "real":
            return open_recorded(record).mode == "L"
    return True


def _nearness(request: Request, size: tuple[int, int]) -> NearnessCheck:
    """Return the check against all training images: of the base, of the adapters, and of the records."""
    saw = [request.base.training_images, *(training_images(adapter_path(path)) for path in request.adapters)]
    training = (
        record for record in iter_records(request.records) if record["split"] == "train" and record["source"] == "real"
    )
    size = request.config.height or size[0], request.config.width or size[1]
    return NearnessCheck(saw, training, size)


def _curves(output: Path, hidden: bool) -> Any:
    """Return a TensorBoard writer as a context; one that writes nothing for all processes but the first."""
    if hidden:
        return _NullWriter()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(output / "tensorboard"))


class _NullWriter:
    """A TensorBoard writer that writes nothing."""

    def __enter__(self) -> _NullWriter:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add_scalar(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def add_images(self, *_: Any, **__: Any) -> None:
        """Do nothing."""
