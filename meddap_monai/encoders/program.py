"""TorchScript files: programs, which run only when the user states the SHA-256 of the very file they trust."""

import hashlib
import io

import torch
from torch import nn

from meddap_monai import store
from meddap_monai.encoders.networks import Builder
from meddap_monai.encoders.places import split_place
from meddap_monai.errors import ConfigurationError


class Program(nn.Module):
    """A TorchScript program with a linear layer on its output.

    Args:
        program: maps images to features.
        width: numbers per image that it gives.
        classes: number of logits.
        sha256: of its file.
    """

    def __init__(self, program: nn.Module, width: int, classes: int, sha256: str) -> None:
        super().__init__()
        self.program, self.sha256 = program, sha256
        self.classifier = nn.Linear(width, classes)

    def extra_repr(self) -> str:
        """Say which program it is, since its code is no part of its tensors."""
        return self.sha256

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.program(images).flatten(1))


def from_torchscript(place: str) -> Builder:
    """Return the builder around a TorchScript file; its weights are those of the file.

    Args:
        place: ``<file>#<sha256>``.

    Raises:
        ConfigurationError: no SHA-256 or another one is stated (the file is then not opened as a program), or the file
            cannot be read.
    """
    file, stated = split_place(place)
    try:
        content = store.regular_file(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"encoder 'torchscript:{file}': cannot be read ({error})") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if stated != sha256:
        raise ConfigurationError(
            f"encoder 'torchscript:{file}': a TorchScript file is a program and runs only when its SHA-256 is stated; "
            f"got {stated or 'none'}; if you trust this very file, give torchscript:{file}#{sha256}"
        )

    def build(classes: int, channels: int, size: int) -> nn.Module:
        images = torch.zeros(2, channels, size, size)
        try:
            program = torch.jit.load(io.BytesIO(content), map_location="cpu")
            with torch.no_grad():
                features = program.eval()(images)
            width = features.flatten(1).shape[1]
        except (RuntimeError, AttributeError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"encoder 'torchscript:{file}': does not map images {tuple(images.shape)} to one tensor of features "
                f"({str(error).strip().splitlines()[-1]}); try channels 3, or the resolution it was written for"
            ) from error
        return Program(program, width, classes, sha256)

    return build
