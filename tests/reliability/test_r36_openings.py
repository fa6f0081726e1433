"""R36: nothing but images is opened as an image: formats by name, no program, no link out, no pipe or device."""

import ast
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image
from torch import nn

import meddap_monai
from meddap_monai import store
from meddap_monai.classifier.data import read_framed
from meddap_monai.classifier.inference import read_frames
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapters.file import read_tensors
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.encoders.registry import build_network, find_encoder
from meddap_monai.encoders.weights import load_pretrained
from meddap_monai.errors import ConfigurationError, MeddapError, UnreadableImage
from meddap_monai.images.reading.opening import image_size, image_text, open_image
from meddap_monai.images.reading.plain import is_marked_synthetic, read_plain
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.selection.filtering.frozen_features import build_extractor

PICTURE = (np.arange(48 * 64) % 251).astype(np.uint8).reshape(48, 64)
OPENERS: dict[str, Callable[[Path], object]] = {
    "open_image": open_image,
    "image_size": image_size,
    "image_text": image_text,
    "read_plain": read_plain,
    "is_marked_synthetic": is_marked_synthetic,
    "read_framed": lambda path: read_framed({"image": str(path)}, 8),
    "infer": lambda path: read_frames(path, InferConfig()),
    "reader": lambda path: UltrasoundReader().read(path),
}


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "named pipe": os.mkfifo,
    "directory": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": a_socket,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", OPENERS)
def test_what_is_no_regular_file_is_refused_at_once(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    IRREGULAR[kind](Path("x.png"))
    with pytest.raises(UnreadableImage, match=r"x.png: (cannot be read as an image: )?(is a|cannot be opened)"):
        OPENERS[name](Path("x.png"))


MODELS: dict[str, Callable[[Path], object]] = {
    "model.pt": lambda path: load_classifier(path.parent),
    "weights.pt": lambda path: load_pretrained(nn.Linear(2, 2), path),
    "weights.safetensors": lambda path: load_pretrained(nn.Linear(2, 2), path),
    "adapter.safetensors": read_tensors,
    "records.jsonl": read_records,
    "resnet10_tiny.safetensors": lambda path: build_extractor(f"resnet10_tiny:{path}", 1, 64, "cpu"),
    "hashed.bin": store.sha256_file,
    "config.json": lambda path: find_encoder(f"transformers:{path.parent}"),
    "program.pt": lambda path: find_encoder(f"torchscript:{path}#00"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", MODELS)
def test_a_pipe_as_a_model_or_document_hangs_nothing(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(MeddapError, match="named pipe|regular file"):
        MODELS[name](tmp_path / name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "generation_config.json"])
def test_a_pipe_inside_of_a_folder_of_transformers_hangs_nothing(name: str, tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(hidden_size=12, num_hidden_layers=1)).save_pretrained(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigurationError, match="named pipe"):
        build_network(f"transformers:{tmp_path}", 3, 1, 32, pretrained=True)


@pytest.mark.timeout(60)
def test_a_pipe_inside_of_a_base_hangs_nothing(tmp_path: Path) -> None:
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    os.mkfifo(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(MeddapError, match="named pipe"):
        load_base(tmp_path)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n0 0 moveto 64 48 lineto stroke\nshowpage\n"


@pytest.mark.parametrize("name", OPENERS)
def test_no_program_is_started(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "x.png").write_bytes(EPS)
    if name == "is_marked_synthetic":
        assert not is_marked_synthetic(tmp_path / "x.png")
    else:
        with pytest.raises(UnreadableImage, match="x.png: "):
            OPENERS[name](tmp_path / "x.png")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PPM", "ICO", "TGA", "PDF", "JPEG2000"])
def test_other_formats_are_refused_whatever_their_name(format: str, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "x.png", format)
    with pytest.raises(UnreadableImage, match="x.png: cannot be read as an image: expected PNG, JPEG, TIFF, BMP"):
        open_image(tmp_path / "x.png")


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A records folder with a picture, links to it and links that lead outside."""
    for name in ("records/images", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("records/images/own.png", "other/secret.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    (tmp_path / "records/images/inside.png").symlink_to("own.png")
    (tmp_path / "records/images/out.png").symlink_to("../../other/secret.png")
    (tmp_path / "records/through").symlink_to("../other")
    (tmp_path / "moved").symlink_to("records")
    return tmp_path / "records"


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("images/own.png", True),
        ("images/inside.png", True),
        ("images/out.png", False),
        ("through/secret.png", False),
        ("../other/secret.png", True),  # the records say so themselves, as kept.jsonl does of the images of generate
    ],
)
def test_links_stay_in_the_folder_of_the_records(
    name: str, fine: bool, linked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (linked, linked.parent / "moved"):
        if fine:
            assert np.array_equal(np.asarray(open_image(folder / name, folder=folder)), PICTURE)
        else:
            with pytest.raises(UnreadableImage, match="is a link that leaves the folder .* MEDDAP_ALLOW_LINKS=1"):
                open_image(folder / name, folder=folder)
    monkeypatch.setenv("MEDDAP_ALLOW_LINKS", "1")
    assert np.array_equal(np.asarray(open_image(linked / name, folder=linked)), PICTURE)


def test_a_link_of_the_file_itself_needs_no_folder(linked: Path) -> None:
    with pytest.raises(UnreadableImage, match="is a link that leaves the folder"):
        open_image(linked / "images" / "out.png")


def calls(name: str, owner: str = "") -> list[tuple[Path, ast.Call]]:
    found = []
    for module in Path(meddap_monai.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == (f"{owner}.{name}" if owner else name):
                found.append((module, node))
    return found


def test_there_is_one_opening_of_images_and_it_names_its_formats() -> None:
    ((module, call),) = calls("open", "Image")
    assert module.name == "raster.py" and [word.arg for word in call.keywords] == ["formats"]


KNOWN = ("place", "io.BytesIO(content)")
"""What was made a regular file's path, or its bytes, before: a program's are hashed, and those very bytes are run."""


@pytest.mark.parametrize(
    ("owner", "name"), [("torch", "load"), ("torch.jit", "load"), ("", "load_file"), ("", "safe_open")]
)
def test_weights_are_opened_from_regular_files_only(owner: str, name: str) -> None:
    for module, call in calls(name, owner):
        place = ast.unparse(call.args[0])
        assert "regular_file(" in place or place in KNOWN, f"{module}:{call.lineno} opens {place}"
