"""A former name, kept until 1.0 (docs/architecture.md): use `meddap_monai.images.reading.plain`."""

from meddap_monai.images.reading.plain import read_plain

__all__ = ["read_plain"]
