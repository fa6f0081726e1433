"""A former name, kept until 1.0 (docs/architecture.md): use `meddap_monai.diffusion.adapters.adapter`."""

from meddap_monai.diffusion.adapters.adapter import load_adapter, read_weights

__all__ = ["load_adapter", "read_weights"]
