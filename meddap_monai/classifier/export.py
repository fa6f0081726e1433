"""A trained classifier as one file for other programs, ONNX or TorchScript: compared with the original, then kept."""

import importlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai import __version__, store
from meddap_monai.classifier.heads import Head
from meddap_monai.classifier.scoring import MODEL, Classifier, load_classifier, views_of
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.errors import ConfigurationError, MissingPackage, StageError

TOLERANCE = 1e-5
"""Largest difference of a probability between the file and the classifier."""
CARD = "meddap.json"
"""Name, in a file, of the description that `card_of` returns."""
Answers = Callable[[torch.Tensor], np.ndarray]
"""Images to probabilities, as a written file gives them."""


class Exported(nn.Module):
    """All of a classifier behind its decoding: images in 0..1 to calibrated probabilities.

    Args:
        model: the classifier.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network, self.views, self.temperature = model.network, model.config.views, model.temperature
        if isinstance(model.network, Head) and isinstance(model.network.extractor, FrozenEncoder):
            # a frozen encoder remembers images, which no file can
            self.network = Head(Penultimate(model.network.extractor.network), model.network.scorer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, K)`` float32 probabilities of images ``(B, C, size, size)`` float32 in 0..1."""
        logits = torch.stack([self.network(view).double() for view in views_of(images, self.views)]).mean(dim=0)
        return torch.softmax(logits / self.temperature, dim=1).float()


def export_classifier(folder: Path | str, output: Path | str) -> Path:
    """Write a classifier as ``.onnx`` or TorchScript (``.ts``); nothing is written when its answers differ.

    Args:
        folder: of ``classify``.
        output: the file; its suffix says the format.

    Returns:
        `output`.

    Raises:
        ConfigurationError: another suffix, or HOG features, which no network computes.
        MissingPackage: ``.onnx`` without the extra ``onnx``.
        StageError: no classifier, one that the format cannot express, or answers that differ by more than `TOLERANCE`.
    """
    folder, output = Path(folder), Path(output)
    if output.suffix not in WRITERS:
        raise ConfigurationError(f"export: {output} ends in {output.suffix!r}, expected one of {', '.join(WRITERS)}")
    model = load_classifier(folder)
    if model.config.encoder == "hog":
        raise ConfigurationError(
            f"export: {folder} stands on HOG features, which scikit-image computes; export a classifier of a network"
        )
    network = Exported(model).eval().requires_grad_(False)
    card = card_of(model, store.sha256_file(folder / MODEL))
    with store.atomic_path(output) as temporary:
        try:
            answers = WRITERS[output.suffix](network, _images(model, 2), card, temporary)
        except (RuntimeError, ValueError, TypeError) as error:
            raise StageError(
                f"export: {model.config.encoder} cannot be written as {output.suffix} ({error})"
            ) from error
        difference = max(_difference(network, answers, _images(model, count)) for count in (1, 2, 5))
        if not difference <= TOLERANCE:
            raise StageError(
                f"export: {output.name} differs from {folder} by {difference:.2g} in a probability, expected at most "
                f"{TOLERANCE:g}; nothing was written. Export in the other format, or with another version of torch"
            )
    return output


def card_of(model: Classifier, sha256: str) -> dict[str, Any]:
    """Return what a program must know to use an exported classifier: its input, its output, its classes."""
    config = model.config
    return {
        "input": {
            "name": "images",
            "type": "float32",
            "shape": ["batch", config.channels, config.resolution, config.resolution],
            "range": [0, 1],
            "preparation": f"cut a DICOM to its ultrasound region; {'grey' if config.channels == 1 else 'RGB'}, 8 bit; "
            f"fit into a square by {config.fit!r}, bilinear with antialiasing; divide by 255",
        },
        "output": {"name": "probabilities", "type": "float32", "shape": ["batch", len(model.classes)]},
        "inside": "normalisation, views, calibration by one temperature, softmax",
        "classes": model.classes,
        "fit": config.fit,
        "views": config.views,
        "temperature": model.temperature,
        "encoder": config.encoder,
        "model_sha256": sha256,
        "meddap_monai": __version__,
        "use": "research only, not for diagnosis",
    }


def _images(model: Classifier, count: int) -> torch.Tensor:
    """Return made-up pictures ``(count, C, size, size)`` in 0..1: noise of several grains; of five, one is black."""
    source = torch.Generator().manual_seed(count)
    config = model.config
    found = []
    for number in range(count):
        side = max(2, config.resolution >> number)
        grains = torch.rand(1, config.channels, side, side, generator=source)
        found.append(nn.functional.interpolate(grains, size=(config.resolution,) * 2, mode="bilinear"))
    images = torch.cat(found)
    images[4:] = 0.0
    return (images * 255).round() / 255


@torch.inference_mode()
def _difference(network: nn.Module, answers: Answers, images: torch.Tensor) -> float:
    return float(np.abs(network(images).numpy() - answers(images)).max())


def _write_torchscript(network: nn.Module, example: torch.Tensor, card: dict[str, Any], path: Path) -> Answers:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole, which is what was asked for
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        with torch.no_grad():
            traced = torch.jit.trace(network, example, check_trace=False)
        whole = io.BytesIO()
        torch.jit.save(traced, whole, _extra_files={CARD: json.dumps(card, indent=1)})
        path.write_bytes(_without_debugging(whole))
        loaded = torch.jit.load(store.regular_file(path), map_location="cpu")
    return lambda images: loaded(images).numpy()


def _without_debugging(archive: io.BytesIO) -> bytes:
    """Return a TorchScript archive without what it notes about source files and their places on this machine."""
    kept = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(kept, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return kept.getvalue()


def _write_onnx(network: nn.Module, example: torch.Tensor, card: dict[str, Any], path: Path) -> Answers:
    try:
        runtime = importlib.import_module("onnxruntime")
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
    except ImportError as error:
        raise MissingPackage(f"export: .onnx needs a package ({error}); pip install meddap-monai[onnx]") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about torch's own code
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    document = program.model_proto  # type: ignore[union-attr]
    _without_traces(document.graph)
    for function in document.functions:
        _without_traces(function)
    entry = document.metadata_props.add()
    entry.key, entry.value = CARD, json.dumps(card, indent=1)
    path.write_bytes(document.SerializeToString(deterministic=True))
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]


def _without_traces(graph: Any) -> None:
    """Remove what the exporter notes about source files and their places on this machine."""
    for part in (graph, *graph.node, *graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for named in (*getattr(graph, "input", ()), *getattr(graph, "output", ()), *getattr(graph, "initializer", ())):
        if not isinstance(named, str):
            named.ClearField("metadata_props")


WRITERS: dict[str, Callable[[nn.Module, torch.Tensor, dict[str, Any], Path], Answers]] = {
    ".onnx": _write_onnx,
    ".ts": _write_torchscript,
}
"""Formats by the suffix of their files."""
