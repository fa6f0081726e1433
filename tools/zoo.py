"""Pack a trained bundle as the model zoo hosts it: ``<name>_v<version>.zip`` with one folder ``<name>``.

    python -m tools.zoo bundles/ultrasound_classifier --output dist

The bundle is first held against what the zoo asks for (`tools.bundle_lint`, weights in ``models/model.pt``). Each YAML
goes along as JSON too, because ``monai.bundle.load`` builds the network from ``inference.json`` alone. Checkpoints,
logs and results of runs stay here. Equal bundles give equal bytes.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from meddap_monai import store
from meddap_monai.core.ids import read_yaml
from meddap_monai.errors import ForeignOutput, MeddapError, StageError
from tools.bundle_lint import lint_bundle

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The day that every file of the archive carries."""
_LEFT = {"tensorboard", "__pycache__", "eval", "runs"}
_LIMIT = 25_000_000
"""Bytes beyond which the zoo wants a file hosted elsewhere."""


def pack(bundle: Path | str, output: Path | str) -> Path:
    """Write the archive; return its path.

    Args:
        bundle: folder of a bundle after its training.
        output: folder for the archive.

    Raises:
        StageError: the bundle has no weights, or the linter finds something.
        ForeignOutput: the archive exists.
    """
    bundle = Path(bundle).resolve()
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        raise StageError(
            f"{weights}: missing, expected the weights of a trained bundle; run its configs/train.yaml there"
        )
    found = lint_bundle(bundle)
    if found:
        raise StageError(f"{bundle}: {'; '.join(found)}")
    version = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    archive = Path(output) / f"{bundle.name}_v{version}.zip"
    if archive.exists():
        raise ForeignOutput(f"{archive}: exists already; raise the version in configs/metadata.json or take it away")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in sorted(_members(bundle)):
            packed.writestr(zipfile.ZipInfo(f"{bundle.name}/{name}", _EPOCH), data, zipfile.ZIP_DEFLATED)
    archive.parent.mkdir(parents=True, exist_ok=True)
    return store.write_atomic(archive, stream.getvalue())


def _members(bundle: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_dir() or hidden or _LEFT & set(name.parts) or path.name.startswith("checkpoint"):
            continue
        yield name.as_posix(), store.regular_file(path).read_bytes()
        if name.parts[0] == "configs" and path.suffix == ".yaml":
            yield name.with_suffix(".json").as_posix(), json.dumps(read_yaml(path), indent=2).encode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack what the command line names and say where it lies and which files the zoo wants hosted elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, default=Path("dist"))
    options = parser.parse_args(arguments)
    try:
        archive = pack(options.bundle, options.output)
    except MeddapError as error:
        parser.exit(2, f"{error}\n")
    with zipfile.ZipFile(archive) as packed:
        large = [item.filename for item in packed.infolist() if item.file_size > _LIMIT]
    print(archive, *(f"above 25 MB, name it in large_files.yml: {name}" for name in large), sep="\n")


if __name__ == "__main__":
    main()
