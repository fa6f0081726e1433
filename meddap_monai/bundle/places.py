"""Where a bundle writes: into its own folder when started there, else into a folder of its own name."""

import json
from pathlib import Path

from meddap_monai.core.resources import find


def output_root(name: str) -> str:
    """Return the default ``bundle_root``: "." in the bundle's own folder or a copy of it, else ``runs/<name>``.

    So two bundles that are started in one place never write the same file.

    Args:
        name: of the bundle's folder, such as "uslora_adapter".
    """
    here, own = Path("configs/metadata.json"), find(f"bundles/{name}") / "configs" / "metadata.json"
    if here.is_file() and _title(here) == _title(own):
        return "."
    return f"runs/{name}"


def trained_base(folder: str | Path) -> str:
    """Return the base that a training wrote below a folder, else "embedded"."""
    base = Path(folder) / "base"
    return str(base) if (base / "model_index.json").is_file() else "embedded"


def _title(file: Path) -> object:
    return json.loads(file.read_text(encoding="utf-8")).get("name")
