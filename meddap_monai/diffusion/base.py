"""A former name, kept until 1.0 (docs/architecture.md): use `meddap_monai.diffusion.bases.base`."""

from meddap_monai.diffusion.bases.base import load_base

__all__ = ["load_base"]
