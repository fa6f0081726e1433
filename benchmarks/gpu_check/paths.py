"""Every code path that a GPU takes, each held against the same work on the CPU, within a stated bound.

Bounds: losses and weights as shares, pictures as mean absolute difference in grey levels. They are loose enough for
TF32, which cuDNN's convolutions use by default, and for the embedded base in bfloat16, which rounds its latents
coarsely (docs/performance.md); a wrong device, type or order of random numbers is far outside of them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events
from PIL import Image
from safetensors.torch import load_file

from benchmarks.gpu_check.material import apart, base, few, judged, simulated
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier, predict_logits, single_pass_loader
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.generation.config import ClassifierGuidance, GenerateConfig, LatentClassifierConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.transforms.diffusion import RandDiffusionAugmentd
from meddap_monai.transforms.online import DiffusionPrepareBatch, OnlineGenerator
from tests.pretrain_material import SMALL
from tests.record_material import CLASSES
from tests.reliability.forked import read_logs, run_pair

if TYPE_CHECKING:
    from benchmarks.gpu_check.run import Job

LOSS = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.15}
GREY_LEVELS = {"fp32": 2.0, "fp16": 4.0, "bf16": 16.0}
_CPU = "cpu"


# ------------------------------------------------------------------------------------------------------------- adapt
class Losses:
    """An ignite handler that keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def attach(self, engine: Any) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda one: self.values.append(one.state.output["loss"]))


def adapter(job: Job, precision: str, optimizer: str = "adamw", method: str = "uslora") -> dict[str, Any]:
    """Train an adapter for some steps on the device, and in float32 on the CPU; compare the losses step by step."""
    if optimizer == "adamw8bit" and (job.device == _CPU or importlib.util.find_spec("bitsandbytes") is None):
        return {"skipped": "needs a GPU and bitsandbytes"}
    if precision == "fp16" and job.device == _CPU:
        return {"skipped": "float16 needs a GPU"}
    records, start = few(job), base(job)
    config = AdaptConfig(
        method=method, steps=2 if job.toy else 8, batch=4, learning_rate=1e-3, validation_every=2, samples_per_class=1,
        sample_steps=2, checkpoint_every=4, precision=precision, optimizer=optimizer, device=job.device, ema=0.9,
        clip_skip=0,
    )  # fmt: skip
    plain = dataclasses.replace(config, device=_CPU, precision="fp32", optimizer="adamw")
    losses = {}
    for name, one in {"device": config, "cpu": plain}.items():
        kept = Losses()
        adapt(one, job.folder / name, records=records, base=start, handlers=[kept])
        losses[name] = np.array(kept.values)
    difference = float(np.abs(losses["device"] / losses["cpu"] - 1).max())
    return {"steps": config.steps} | judged({"loss": (difference, LOSS[precision])})


# ---------------------------------------------------------------------------------------------------------- generate
def generated(job: Job, precision: str, modes: tuple[str, ...] = ("text",)) -> dict[str, Any]:
    """Generate from words, and from images, on the device, and in float32 on the CPU from the same seeds."""
    if precision == "fp16" and job.device == _CPU:
        return {"skipped": "float16 needs a GPU"}
    records, start, found = few(job), base(job), {}
    for mode in modes:
        config = GenerateConfig(
            mode=mode, counts=2, steps=2 if job.toy else 15, strength=0.9, near_copies=True, precision=precision,
            device=job.device, batch=4,
        )  # fmt: skip
        plain = dataclasses.replace(config, device=_CPU, precision="fp32")
        made, wanted = (
            generate(one, job.folder / f"{mode}-{name}", records=records, base=start)
            for name, one in {"device": config, "cpu": plain}.items()
        )
        found[mode] = (apart(made, wanted), GREY_LEVELS[precision])
    return judged(found)


def guided(job: Job) -> dict[str, Any]:
    """Classifier guidance in latent space: trained and asked on the device, asked again on the CPU."""
    records, start = few(job), base(job)
    training = LatentClassifierConfig(channels=(16, 16), heads=2, steps=5 if job.toy else 40, batch=4)
    config = GenerateConfig(
        counts=2, steps=2 if job.toy else 15, device=job.device, batch=4,
        classifier_guidance=ClassifierGuidance(scale=2.0, training=training),
    )  # fmt: skip
    made = generate(config, job.folder / "device", records=records, base=start)
    trained = ClassifierGuidance(scale=2.0, classifier=job.folder / "device" / "classifier")
    plain = dataclasses.replace(config, device=_CPU, classifier_guidance=trained)
    wanted = generate(plain, job.folder / "cpu", records=records, base=start)
    return judged({"pictures": (apart(made, wanted), GREY_LEVELS["fp32"])})


def online(job: Job) -> dict[str, Any]:
    """The generator inside a MONAI engine, for whole batches on the device, and as a transform of single items."""
    from monai.engines import SupervisedTrainer

    records, start, side = read_records(few(job)), base(job), 32 if job.toy else 128
    items = [
        {"image": torch.from_numpy(np.asarray(Image.open(row["image"]), np.float32)[None] / 255), "label": row["label"]}
        for row in records
    ]
    settings = {"steps": 2, "guidance": 1.0}
    made = {device: OnlineGenerator(CLASSES, base=start, device=device, **settings) for device in {job.device, _CPU}}  # ty: the generator of the CPU is what the other one is held against
    difference = np.abs(made[job.device].draw(0, 5).astype(int) - made[_CPU].draw(0, 5)).mean()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, len(CLASSES))).to(job.device)
    trainer = SupervisedTrainer(
        device=torch.device(job.device),
        max_epochs=1,
        train_data_loader=torch.utils.data.DataLoader(items, batch_size=4),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=torch.nn.CrossEntropyLoss(),
        prepare_batch=DiffusionPrepareBatch(made[job.device], black_white=(0, 1), transposed=False, prob=1.0),
        amp=job.device != _CPU,
    )
    trainer.run()
    transform = RandDiffusionAugmentd(
        "image", generator=made[job.device], prob=1.0, black_white=(0, 1), transposed=False
    )
    item = {"image": items[0]["image"].to(job.device), "label": 1}
    replaced = transform(item)["image"]
    assert replaced.device == item["image"].device and not torch.equal(replaced, item["image"])
    assert trainer.state.iteration == math.ceil(len(items) / 4)
    return judged({"pictures": (float(difference), GREY_LEVELS["fp32"])})


# ---------------------------------------------------------------------------------------------------------- classify
def classifier(job: Job, precision: str) -> dict[str, Any]:
    """Train a classifier with mixed precision; its answers on the device and on the CPU must agree."""
    if precision == "fp16" and job.device == _CPU:
        return {"skipped": "float16 needs a GPU"}
    records = few(job) if job.toy else simulated(job, {"train": 40, "val": 12, "test": 20}, 64)
    config = ClassifyConfig(
        encoder="resnet10_tiny" if job.toy else "resnet10", mode="scratch", resolution=32 if job.toy else 64,
        steps=4 if job.toy else 150, batch=8, validation_every=50, precision=precision, device=job.device, ema=0.9,
        patience=0, mixup=0.2,
    )  # fmt: skip
    classify(config, job.folder / "classify", records=records)
    rows = [row for row in read_records(records, full=True) if row["split"] == "test"]
    answers = {}
    for device in (job.device, _CPU):
        model = load_classifier(job.folder / "classify", device)
        answers[device] = predict_logits(model.network, single_pass_loader(rows, model.config), model.config)
    right = float((answers[job.device].argmax(1) == [row["label"] for row in rows]).mean())
    assert job.toy or right > 0.6, f"{right:.0%} of the test images are right, expected more than 60 %"
    difference = float(np.abs(answers[job.device] - answers[_CPU]).max())
    scale = max(1.0, float(np.abs(answers[_CPU]).max()))
    return {"right": right} | judged({"logits": (difference / scale, 0.02)})


def judging(job: Job) -> dict[str, Any]:
    """Frozen features, a probe and the filter's own networks: what `select` and `evaluate` compute on the device."""
    from meddap_monai.selection.filtering.crossfit import Networks, train_fold

    records, size = few(job), 32 if job.toy else 128
    rows = [row for row in read_records(records, full=True) if row["split"] == "train"]
    stack = np.stack([np.asarray(Image.open(row["image"]))[None] for row in rows])
    start = base(job)
    name = "vae" if start == "embedded" else f"vae:{start}"
    found: dict[str, tuple[float, float]] = {}
    features = {}
    for device in (job.device, _CPU):
        features[device] = build_extractor(name, 1, size, device).extract(stack)[0]
    scale = float(np.abs(features[_CPU]).max())
    found["features"] = (float(np.abs(features[job.device] - features[_CPU]).max()) / scale, 0.03)
    answers = {}
    for device in (job.device, _CPU):
        config = FilterConfig(
            encoder="resnet10_tiny", mode="scratch", steps=3, batch=4, resolution=size, device=device, views=2
        )
        networks = [train_fold(config, rows, stack, len(CLASSES), seed) for seed in (0, 1)]
        answers[device] = Networks(networks, config).predict(rows, stack).logits
    scale = max(1.0, float(np.abs(answers[_CPU]).max()))
    found["filter"] = (float(np.abs(answers[job.device] - answers[_CPU]).max()) / scale, 0.1)
    return judged(found)


# ---------------------------------------------------------------------------------------------------------- pretrain
def pretrained(job: Job) -> dict[str, Any]:
    """Pre-train a small base on the device and on the CPU; compare what its UNet learnt."""
    records, weights = simulated(job, {"train": 3, "val": 1}, 32), {}
    for device in (job.device, _CPU):
        config = dataclasses.replace(SMALL, device=device)
        made = pretrain(config, job.folder / f"pretrain-{device}", records=records)
        weights[device] = {
            part: torch.cat([value.float().flatten() for value in load_file(file).values()])
            for part in ("unet", "vae", "text_encoder")
            for file in (made / part).glob("*.safetensors")
        }
    found = {
        part: (float((weights[job.device][part] - value).norm() / value.norm()), 0.05)
        for part, value in weights[_CPU].items()
    }
    return judged(found)


# --------------------------------------------------------------------------------------------------------- processes
def together(job: Job) -> dict[str, Any]:
    """Two processes adapt, generate and classify as one does; with one GPU they share it."""
    records, start, side = few(job), base(job), 32
    adapting = AdaptConfig(
        steps=2, batch=4, validation_every=2, samples_per_class=0, device=job.device, learning_rate=1e-3
    )
    drawing = GenerateConfig(counts=2, steps=2, device=job.device, batch=2, shard_size=2)
    learning = ClassifyConfig(
        encoder="resnet10_tiny", mode="scratch", resolution=side, steps=4, batch=8, device=job.device, pictures=False
    )

    def everything(folder: Path) -> None:
        made = adapt(adapting, folder / "adapt", records=records, base=start)
        generate(drawing, folder / "generate", records=records, base=start, adapters=[made])
        classify(learning, folder / "classify", records=records)

    (job.folder / "two").mkdir()
    codes = run_pair(lambda: everything(job.folder / "two"), job.folder)
    assert codes == [0, 0], f"exit statuses {codes}: {[log[-600:] for log in read_logs(job.folder)]}"
    everything(job.folder / "one")
    kept = [load_file(job.folder / name / "adapt" / "adapter.safetensors") for name in ("one", "two")]
    change = max(float((kept[0][key] - value).abs().max()) for key, value in kept[1].items())
    files = [job.folder / name / "generate" / "generated.jsonl" for name in ("one", "two")]
    gpus = torch.cuda.device_count() if job.device != _CPU else 0
    told = {"gpus": gpus, "backend": "nccl" if gpus > 1 else "gloo"}
    learnt = [json.loads((job.folder / name / "classify/metrics.json").read_text())["steps"] for name in ("one", "two")]
    assert learnt == [learning.steps] * 2
    return told | judged({"adapter": (change, 2e-3), "pictures": (apart(*files), GREY_LEVELS["fp32"])})


PARTS: dict[str, tuple[float, Callable[[Job], dict[str, Any]]]] = {
    "adapt_fp32": (10.0, partial(adapter, precision="fp32")),
    "adapt_fp16": (10.0, partial(adapter, precision="fp16")),
    "adapt_bf16": (10.0, partial(adapter, precision="bf16")),
    "adapt_8bit": (10.0, partial(adapter, precision="bf16", optimizer="adamw8bit")),
    "adapt_words": (10.0, partial(adapter, precision="fp32", method="textual_inversion")),
    "adapt_text_encoder": (10.0, partial(adapter, precision="fp32", method="fulora")),
    "generate_fp32": (15.0, partial(generated, precision="fp32", modes=("text", "image", "inpaint"))),
    "generate_fp16": (10.0, partial(generated, precision="fp16")),
    "generate_bf16": (10.0, partial(generated, precision="bf16")),
    "guidance": (15.0, guided),
    "online": (10.0, online),
    "classify_fp32": (15.0, partial(classifier, precision="fp32")),
    "classify_fp16": (15.0, partial(classifier, precision="fp16")),
    "classify_bf16": (15.0, partial(classifier, precision="bf16")),
    "judging": (10.0, judging),
    "pretrain": (15.0, pretrained),
    "processes": (20.0, together),
}
"""Name -> seconds that it is given at least, and what it does."""
