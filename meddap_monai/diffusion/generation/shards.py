"""The shards: sample, mark, write, commit, wherever they are made; the batch is halved when memory runs out."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from meddap_monai import store
from meddap_monai.core.devices import PRECISIONS, is_out_of_memory
from meddap_monai.core.distributed import Ranks
from meddap_monai.core.progress import progress, say
from meddap_monai.core.records import Record, iter_records, write_records
from meddap_monai.diffusion.adapters.file import adapter_path
from meddap_monai.diffusion.bases.base import EMBEDDED, Base
from meddap_monai.diffusion.generation import marking, plan
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.defaults import weights_of
from meddap_monai.diffusion.generation.nearness import NearnessCheck, refuse_near
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.generation.source_images import SourceImages
from meddap_monai.engines.engine import current_engine, needs_gpus
from meddap_monai.engines.task import Check, never
from meddap_monai.errors import StageError
from meddap_monai.images.provenance import training_images
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.images.writing.write import write_synthetic_png

SHARD_RECORDS = "records.jsonl"
PLAN = "plan.csv"
TASK = "meddap_monai.diffusion.generation.stage:open_shards"


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

    def plain(self) -> dict[str, Any]:
        """Return what another process needs to make the same request: plain data, of files their absolute paths."""
        base = str(self.base.folder.absolute()) if self.base.folder and self.base.name != EMBEDDED else self.base.name
        return {
            "config": store.plain(self.config),
            "output": str(self.output.absolute()),
            "records": str(self.records.absolute()),
            "base": base,
            "adapters": [str(Path(path).absolute()) for path in self.adapters],
            "inputs": self.inputs,
        }

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
    """Makes shards with one opened base.

    Attributes:
        request: see `Request`.
        sampler: base with fused adapters.
        check: raises between two steps where the work has to stop.
        batch: images sampled together; halved when memory runs out, never raised again; 0: as configured.
        sliced: whether images are decoded one by one, which the first shortage of memory brings about.
    """

    request: Request
    sampler: ImageSampler
    check: Check = never
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

    def work(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Make a shard that is not there yet: the unit of an engine.

        Args:
            item: ``shard``, its number, and ``rows``, those of the plan, each as the list of its columns.

        Returns:
            ``batch``, the batch size in use, and ``seconds``.
        """
        number, rows = item["shard"], [plan.PlanRow(*row) for row in item["rows"]]
        started = time.monotonic()
        try:
            if not store.shard_done(self.request.output, number):
                self.make(number, rows)
        except (OSError, StageError):
            if not store.shard_done(self.request.output, number):  # else another worker was faster, with equal bytes
                raise
        return {"batch": self.batch, "seconds": time.monotonic() - started}

    def make(self, number: int, rows: Sequence[plan.PlanRow]) -> None:
        """Make one shard and commit it.

        A shard is begun again with half the batch when memory runs out, so that one batch size holds for all its
        images and re-running it with that size gives the same bytes.
        """
        while True:
            try:
                with store.commit_shard(self.request.output, number) as folder:
                    self._fill(folder, number, rows)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._back_off():
                    raise

    def _fill(self, folder: Path, number: int, rows: Sequence[plan.PlanRow]) -> None:
        """Sample a shard; files are written by a second thread while the next batch is computed."""
        records: list[Record] = []
        with ThreadPoolExecutor(max_workers=1) as writer:
            writing = []
            for batch in plan.batches(rows, self.batch):
                images = self.sampler.sample(batch, self._sources.load(batch), self.check)
                writing.append(writer.submit(self._write, folder, number, batch, images))
            for task in writing:
                records += task.result()
        if not self.request.config.near_copies:
            refuse_near(record["synthetic"] for record in records)
        write_records(folder / SHARD_RECORDS, records)

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


class Made(NamedTuple):
    """What making shards came to: the batch size at the end, and the seconds of all workers together."""

    batch: int
    seconds: float


def make_shards(job: Request, ranks: Ranks, rows: int, check: Check, opened: ShardMaker | None) -> Made:
    """Let the engine make every shard of this process that is not committed yet.

    Args:
        job: see `Request`.
        ranks: who divides the shards.
        rows: of the plan.
        check: raises where the work has to stop.
        opened: what makes shards in this process, for an engine that works here.
    """
    size, hidden, batch, seconds = job.config.shard_size, ranks.rank > 0, job.config.batch, 0.0
    done = {number for number in store.shards_done(job.output) if ranks.owns(number)}
    total = sum(min(size, rows - start) for number, start in enumerate(range(0, rows, size)) if ranks.owns(number))
    began = sum(min(size, rows - number * size) for number in done)
    items = (
        {"shard": number, "rows": [astuple(row) for row in part]}
        for number, part in plan.shards(plan.read_plan(job.output / PLAN), size)
        if ranks.owns(number) and number not in done
    )
    left = [number for number in range(-(-rows // size)) if ranks.owns(number) and number not in done]
    made = current_engine().map(
        TASK,
        items,
        job.plain(),
        gpus=needs_gpus(job.config.device),
        check=check,
        twice=True,
        here=opened.work if opened else None,
    )
    with (
        progress(total=total, initial=began, desc="generate", unit="image", disable=hidden) as bar,
        _curves(job.output, hidden) as curves,
    ):
        for place, found in made:
            batch, number = min(batch, found["batch"]), left[place]
            images = min(size, rows - number * size)
            seconds += found["seconds"]
            bar.update(images)
            if not hidden:
                curves.add_scalar("generate/images_per_second", images / found["seconds"], number)
                curves.add_images("generate/latest", _latest(job.output, number), number, dataformats="NHWC")
    if not current_engine().in_process:
        store.sweep(job.output)  # what lost workers left
    return Made(batch, seconds)


def _latest(output: Path, number: int) -> np.ndarray:
    """Return the first images of a shard, at most 8 of one size, ``(N, H, W, 3) uint8``."""
    records = itertools.islice(iter_records(store.shard_path(output, number) / SHARD_RECORDS), 8)
    pictures = [np.asarray(open_recorded(record).convert("RGB")) for record in records]
    return np.stack([picture for picture in pictures if picture.shape == pictures[0].shape])


def _curves(output: Path, hidden: bool) -> Any:
    """Return a TensorBoard writer as a context; none for all processes but the first."""
    if hidden:
        return contextlib.nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(output / "tensorboard"))
