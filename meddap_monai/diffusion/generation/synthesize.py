"""From a folder of ultrasound files to a folder of synthetic DICOM images that say what they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai.core.configuration import build
from meddap_monai.diffusion.bases.base import EMBEDDED, Base
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index


def synthesize_folder(
    source: Path | str,
    output: Path | str,
    *,
    index_keys: Mapping[str, Any] | None = None,
    generate_keys: Mapping[str, Any] | None = None,
    base: str | Path | Base = EMBEDDED,
    adapters: Sequence[Path | str] = (),
    overwrite: bool = False,
) -> Path:
    """Index a folder, generate for its classes, and write DICOM files marked as synthetic.

    All readable images of the folder count as training images: they give the classes, the counts of `ratio`, and the
    sources of the modes image and inpaint.

    Args:
        source: DICOM, PNG, NIfTI ... files, by default in one folder per class.
        output: gets ``index/`` and ``generate/``, whose ``dicom/`` is the result.
        index_keys: keys of ``IndexConfig`` besides `source`.
        generate_keys: keys of ``GenerateConfig`` besides `dicom`.
        base: see ``open_base``.
        adapters: adapter folders or files.
        overwrite: replace an output of another configuration instead of refusing it.

    Returns:
        The folder of DICOM files.

    Raises:
        ConfigurationError: before anything is read, for an unknown key or a wrong value.
    """
    wanted = build(IndexConfig, {"split": "train"} | dict(index_keys or {}) | {"source": str(source)}, "index")
    config = build(GenerateConfig, dict(generate_keys or {}) | {"dicom": True}, "generate")
    records = index(wanted, Path(output) / "index", overwrite=overwrite)
    generated = generate(
        config, Path(output) / "generate", records=records, base=base, adapters=adapters, overwrite=overwrite
    )
    return generated.parent / "dicom"
