"""A frozen encoder: features of images, computed once for all who ask in this process."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import nn

from meddap_monai.encoders.features import Levels, Penultimate

TOGETHER = 16
"""Images at once. Always as many, so that an image's features do not depend on who stands beside it."""
KEPT = 50_000
"""Images whose features are kept, of all encoders together; at 1,280 features these are 256 MB."""
_known: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()


class FrozenEncoder(nn.Module):
    """Map images to the features of a network that is not trained; an image that was seen before costs a hash.

    Probes over several seeds and arms, and the evaluation after them, ask for the same images again and again.

    Args:
        network: from images in 0..1 to logits.
        features: what is taken of it, `Penultimate` or `Levels`.
    """

    def __init__(self, network: nn.Module, features: type[Penultimate] | type[Levels] = Penultimate) -> None:
        super().__init__()
        self.network, self.features = network, features
        self.eval().requires_grad_(False)
        self.identity = ""

    def train(self, mode: bool = True) -> FrozenEncoder:  # noqa: ARG002 - it never trains
        """Stay in evaluation mode."""
        return super().train(False)

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Load other weights, and forget who this encoder was."""
        self.identity = ""
        return super().load_state_dict(*args, **kwargs)  # type: ignore[arg-type]

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features ``(B, D)`` float32 of images ``(B, C, H, W)`` float in 0..1, on the images' device."""
        self.identity = self.identity or self._identity()
        keys = [(self.identity, _hash(image)) for image in images]
        missing = [place for place, key in enumerate(keys) if key not in _known]
        found = dict(zip(missing, self._extract(images[missing]), strict=True)) if missing else {}
        rows = [found[place] if place in found else _known[key] for place, key in enumerate(keys)]
        for key, row in zip(keys, rows, strict=True):
            _known[key] = row
            _known.move_to_end(key)
        while len(_known) > KEPT:
            _known.popitem(last=False)
        return torch.stack(rows).to(images.device)

    def _extract(self, images: torch.Tensor) -> list[torch.Tensor]:
        rows: list[torch.Tensor] = []
        for part in images.split(TOGETHER):
            filled = torch.cat([part, part.new_zeros(TOGETHER - len(part), *part.shape[1:])])
            features = self.features(self.network)(filled.contiguous(memory_format=torch.channels_last))
            rows += features[: len(part)].float().cpu().unbind()
        return rows

    def _identity(self) -> str:
        """Hash of all but the last linear layer, on which no feature depends; it may be new and at random."""
        linears = [(name, part) for name, part in self.network.named_modules() if isinstance(part, nn.Linear)]
        last, layer = linears[-1] if linears else ("", None)
        told = repr(self.network).replace(repr(layer), "")
        digest = hashlib.sha256(f"{self.features.__name__} {told}".encode())
        for name, tensor in self.network.state_dict().items():
            if not linears or name.rpartition(".")[0] != last:
                digest.update(name.encode())
                digest.update(_bytes(tensor))
        return digest.hexdigest()


def _hash(image: torch.Tensor) -> str:
    return hashlib.sha256(repr(tuple(image.shape)).encode() + _bytes(image)).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
