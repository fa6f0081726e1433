"""Find what travels with the package: bundles, configurations, prompt tables, the embedded base, schemas."""

from pathlib import Path

from meddap_monai.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]


def find(name: str) -> Path:
    """Return the path of a file or folder by its name inside the package or the checkout.

    Args:
        name: e.g. ``"configs/demo.yaml"``, ``"bundles/meddap_study"``, ``"data/base"``, ``"schemas/record.json"``.

    Raises:
        ConfigurationError: neither the installed package nor the checkout holds it.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        path = root / name
        if path.exists():
            return path
    raise ConfigurationError(
        f"{name}: not in the installed package, and not in a checkout; reinstall meddap-monai, or give a path"
    )
