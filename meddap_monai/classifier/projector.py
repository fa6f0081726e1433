"""Embeddings for TensorBoard's projector, each file written whole (TensorBoard's own writer leaves parts behind)."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from meddap_monai import store


def write_projector(
    folder: Path,
    features: np.ndarray,
    labels: Sequence[Sequence[str]],
    header: Sequence[str],
    tag: str,
    pictures: np.ndarray | None = None,
) -> None:
    """Write the files that TensorBoard's projector reads, the configuration that names them last.

    Args:
        folder: of the event files; an earlier embedding there is replaced.
        features: ``(N, D)`` float.
        labels: N rows of text, one column per header.
        header: names of the columns.
        tag: name of the embedding.
        pictures: ``(N, H, W)`` float in 0..1, shown instead of dots.

    Raises:
        DiskFull: no space is left.
    """
    place = f"projector/{tag}"
    rows = ["\t".join(f"{value:.6g}" for value in row) for row in features]
    store.write_atomic(folder / place / "tensors.tsv", "\n".join(rows) + "\n")
    told = ["\t".join(" ".join(text.split()) for text in row) for row in (header, *labels)]
    store.write_atomic(folder / place / "metadata.tsv", "\n".join(told) + "\n")
    lines = [f'tensor_name: "{tag}"', f'tensor_path: "{place}/tensors.tsv"', f'metadata_path: "{place}/metadata.tsv"']
    if pictures is not None:
        store.write_atomic(folder / place / "sprite.png", sprite(pictures))
        height, width = pictures.shape[1:]
        size = f"single_image_dim: {width} single_image_dim: {height}"
        lines.append(f'sprite {{ image_path: "{place}/sprite.png" {size} }}')
    store.write_atomic(folder / "projector_config.pbtxt", "embeddings {\n  " + "\n  ".join(lines) + "\n}\n")


def sprite(pictures: np.ndarray) -> bytes:
    """Return pictures ``(N, H, W)`` float in 0..1 as one PNG, row by row in a square grid."""
    count, height, width = pictures.shape
    side = int(np.ceil(np.sqrt(count)))
    sheet = np.zeros((side * side, height, width), dtype=np.uint8)
    sheet[:count] = (pictures * 255).clip(0, 255)
    grid = sheet.reshape(side, side, height, width).transpose(0, 2, 1, 3).reshape(side * height, side * width)
    stream = io.BytesIO()
    Image.fromarray(grid).save(stream, "PNG")
    return stream.getvalue()
