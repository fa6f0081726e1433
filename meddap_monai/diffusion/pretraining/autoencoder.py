"""The autoencoder of a small base: a whitened patch PCA as the encoder, a trained decoder that gives speckle back.

On a small budget no trained encoder beat a linear one, so the encoder *is* the linear one: the first principal
components of 8 x 8 patches, softly whitened, written into the ordinary layers of diffusers' `AutoencoderKL`. It needs
no training, so latents are final before the first step, and the decoder can train beside the denoiser.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig

_SHIFT = 32.0
"""Offset that keeps values in the linear part of the last activation."""
_STAY_LINEAR = 64.0
"""Size of the constants that keep the last group normalisation of the encoder from depending on the image."""


@dataclass(frozen=True)
class PatchPCA:
    """A linear encoder of patches.

    Attributes:
        mean: (factor, factor) float32 mean patch, in [-1, 1].
        basis: (latents, factor, factor) float32; a latent is the inner product of a patch minus the mean with one.
    """

    mean: torch.Tensor
    basis: torch.Tensor

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return latents (B, latents, H/factor, W/factor) of grey images (B, 1, H, W) in [-1, 1]."""
        mean, basis = self.mean.to(images.device), self.basis.to(images.device)
        offset = -(basis * mean).sum(dim=(1, 2))
        return functional.conv2d(images, basis[:, None], offset, stride=basis.shape[-1])


def fit_patch_pca(pixels: np.ndarray, config: AutoencoderConfig) -> PatchPCA:
    """Fit the patch PCA on pictures.

    Args:
        pixels: (N, H, W) uint8, sides divisible by the factor.
        config: factor, latents and whitening.

    The component with the largest variance gets standard deviation 1, component c gets ``(s_c / s_0) ** whitening``.
    The sign of a component is fixed by its largest entry, so equal pictures give equal latents everywhere.
    """
    side = config.factor
    mean, covariance = _moments(pixels, side)
    values, vectors = np.linalg.eigh(covariance)
    deviation = np.sqrt(np.maximum(values[::-1][: config.latents], 1e-9))
    basis = vectors[:, ::-1][:, : config.latents].T
    largest = np.abs(basis).argmax(axis=1)
    basis *= np.sign(basis[np.arange(len(basis)), largest])[:, None]
    scale = (deviation / deviation[0]) ** config.whitening / deviation
    basis = (basis * scale[:, None]).reshape(-1, side, side)
    return PatchPCA(
        torch.tensor(mean.reshape(side, side), dtype=torch.float32), torch.tensor(basis, dtype=torch.float32)
    )


def _moments(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the patches of pictures, from a few pictures at a time."""
    count, high, wide = pixels.shape
    patches = count * (high // side) * (wide // side)

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, count, 64):
            part = pixels[start : start + 64].reshape(-1, high // side, side, wide // side, side)
            yield part.transpose(0, 1, 3, 2, 4).reshape(-1, side * side).astype(np.float64) / 127.5 - 1.0

    mean = np.sum([part.sum(axis=0) for part in parts()], axis=0) / patches
    scatter = np.zeros((side * side, side * side))
    for part in parts():
        scatter += (part - mean).T @ (part - mean)
    return mean, scatter / (patches - 1)


def build_autoencoder(config: AutoencoderConfig, resolution: int, pca: PatchPCA | None) -> Any:
    """Make the `AutoencoderKL`; with `pca` its encoder is that map exactly, its decoder starts at random.

    Args:
        config: shape.
        resolution: side of the pictures in pixels.
        pca: for encoder "patch_pca".
    """
    from diffusers import AutoencoderKL

    levels = len(config.channels)
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latents,
        norm_num_groups=config.groups,
        mid_block_add_attention=config.attention,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=resolution,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        out = vae.decoder.conv_out
        out.weight.copy_(out.weight[:1].expand_as(out.weight))
        out.bias.copy_(out.bias[:1].expand_as(out.bias))
        if pca is not None:
            _write_linear_encoder(vae.encoder, pca, config)
    return vae


def _write_linear_encoder(encoder: Any, pca: PatchPCA, config: AutoencoderConfig) -> None:
    """Write the linear map into the encoder's convolutions; every residual branch is silenced."""
    blocks: list[Any] = list(encoder.modules())
    for module in blocks:
        if module.__class__.__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _identity(module.conv_shortcut)
    _identity(encoder.conv_in)
    encoder.conv_in.weight[0, :, 1, 1] = 1.0 / encoder.conv_in.in_channels
    levels = len(config.channels) - 1
    for level in range(levels - 1):
        _space_to_depth(encoder.down_blocks[level].downsamplers[0].conv, 4**level)
    channels_of_latents, mirrors = _latent_channels(config)
    last = encoder.down_blocks[levels - 1].downsamplers[0].conv
    _project(last, pca, levels, channels_of_latents)
    last.weight[mirrors] = -last.weight[channels_of_latents]
    last.bias[mirrors] = -last.bias[channels_of_latents]
    _make_norm_linear(encoder, config, channels_of_latents)


def _identity(convolution: Any) -> None:
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    middle = convolution.kernel_size[0] // 2
    for channel in range(min(convolution.in_channels, convolution.out_channels)):
        convolution.weight[channel, channel, middle, middle] = 1.0


def _space_to_depth(convolution: Any, channels: int) -> None:
    """Turn a stride-2 convolution into "four pixels become four channels"; its taps 0 and 1 are the 2 x 2 patch."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    for channel in range(channels):
        for row in (0, 1):
            for column in (0, 1):
                convolution.weight[channel * 4 + row * 2 + column, channel, row, column] = 1.0


def _latent_channels(config: AutoencoderConfig) -> tuple[list[int], list[int]]:
    """Return the channels of each latent and of its negative in the last layers.

    They are spread over the groups; places 0 and 1 of a group stay free for the constants. With its negative beside
    every latent the mean of a group is zero, whatever the image.
    """
    size = config.channels[-1] // config.groups
    places = [
        (group * size + place, group * size + place + 1)
        for place in range(2, size - 1, 2)
        for group in range(config.groups)
    ]
    channels_of_latents = places[: config.latents]
    return [home for home, _ in channels_of_latents], [mirror for _, mirror in channels_of_latents]


def _project(convolution: Any, pca: PatchPCA, levels: int, channels_of_latents: list[int]) -> None:
    """Map the last 2 x 2 patch of gathered channels onto the components."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    half = 2 ** (levels - 1)
    for channel in range(4 ** (levels - 1)):
        codes = [(channel // 4 ** (levels - 2 - level)) % 4 for level in range(levels - 1)]
        top = sum((code // 2) << level for level, code in enumerate(codes))
        left = sum((code % 2) << level for level, code in enumerate(codes))
        for row in (0, 1):
            for column in (0, 1):
                convolution.weight[channels_of_latents, channel, row, column] = pca.basis[
                    :, top + half * row, left + half * column
                ]
    convolution.bias[channels_of_latents] = -(pca.basis * pca.mean).sum(dim=(1, 2))


def _make_norm_linear(encoder: Any, config: AutoencoderConfig, channels_of_latents: list[int]) -> None:
    """Make the last normalisation and activation linear: two large constants per group fix its statistics."""
    size = config.channels[-1] // config.groups
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    encoder.conv_out.bias[config.latents :] = -30.0
    encoder.conv_norm_out.weight.fill_(_STAY_LINEAR * (2.0 / size) ** 0.5)
    encoder.conv_norm_out.bias.fill_(_SHIFT)
    for latent, home in enumerate(channels_of_latents):
        encoder.conv_out.weight[latent, home, 1, 1] = 1.0
        encoder.conv_out.bias[latent] = -_SHIFT
    constants = encoder.mid_block.resnets[0].conv2.bias
    for group in range(config.groups):
        constants[group * size] = _STAY_LINEAR
        constants[group * size + 1] = -_STAY_LINEAR
