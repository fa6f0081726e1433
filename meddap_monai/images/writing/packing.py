"""Records and their images as WebDataset shards, for those who train elsewhere: plain tar files of numbered samples.

A sample is ``<id>.png``, the bytes of the image as they are, with their mark as synthetic; ``<id>.cls``, its label; and
``<id>.json``, its record without the place of the file. The format is that of the `webdataset` library, its basic
conventions: files of one sample stand together and share their name up to the first dot.
"""

import contextlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.progress import progress
from meddap_monai.core.records import class_names, iter_records
from meddap_monai.engines.engine import current_engine
from meddap_monai.engines.task import Check, Work
from meddap_monai.errors import ForeignOutput, RecordsError
from meddap_monai.images.reading.recorded import open_recorded

TASK = "meddap_monai.images.writing.packing:open_packer"
PACK = "pack.json"


def pack(records: Path | str, output: Path | str, images: int = 1000, split: str = "") -> Path:
    """Write ``<output>/<number>.tar`` and ``pack.json``: classes, counts, and name and SHA-256 of every shard.

    Equal records give equal bytes, whoever packs them. A run that was interrupted goes on.

    Args:
        records: records file.
        output: folder of this pack.
        images: of one shard.
        split: only this split; empty: all.

    Returns:
        ``<output>/pack.json``.

    Raises:
        ForeignOutput: the folder holds another pack, or something else.
        RecordsError: no record is asked for, or a record is broken.
        ChangedImage: an image is not the one its record was written for.
    """
    records, output = Path(records), Path(output)
    asked = {"records": store.sha256_file(records), "images": images, "split": split}
    with store.lock_folder(output), store.InterruptFlag() as flag:
        _claim(output, asked)
        store.sweep(output)
        chosen = (one for one in iter_records(records) if split in ("", one["split"]))
        chunks = iter(lambda: list(itertools.islice(chosen, images)), [])
        items = ({"shard": str(output.absolute() / f"{n:06d}.tar"), "records": part} for n, part in enumerate(chunks))
        shards: dict[int, dict[str, Any]] = {}
        check = lambda: flag.raise_if_set("the finished shards are kept")  # noqa: E731
        with progress(desc="pack", unit="shard") as bar:
            for number, found in current_engine().map(TASK, items, None, check=check, twice=True):
                shards[number] = found
                bar.update()
        if not shards:
            raise RecordsError(f"{records}: no record{f' in split {split}' if split else ''}; nothing to pack")
        listed = [shards[number] for number in sorted(shards)]
        total = sum(shard["images"] for shard in listed)
        document = {"asked": asked, "classes": class_names(records), "images": total, "shards": listed}
        return store.write_json(output / PACK, document)


def _claim(output: Path, asked: Mapping[str, Any]) -> None:
    """Take the folder for this pack; raise when it holds another one, or something else."""
    path = output / PACK
    if path.is_file():
        if store.read_json(path).get("asked") != asked:
            raise ForeignOutput(f"{output}: holds another pack; choose another output folder")
    elif others := [entry.name for entry in output.iterdir() if not entry.name.startswith(".")]:
        raise ForeignOutput(f"{output}: holds {others[0]!r}, which is no pack; choose an empty folder")
    store.write_json(path, {"asked": asked})


@contextlib.contextmanager
def open_packer(_settings: Any, _check: Check) -> Iterator[Work]:
    """Open what writes one shard: the task of an engine."""
    yield _pack_shard


def _pack_shard(item: Mapping[str, Any]) -> dict[str, Any]:
    path, records = Path(item["shard"]), item["records"]
    if not path.is_file():
        with store.atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for record in records:
                for name, content in _sample(record):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return {"name": path.name, "images": len(records), "sha256": store.sha256_file(path)}


def _sample(record: Mapping[str, Any]) -> Sequence[tuple[str, bytes]]:
    """Return names and contents of the files of one sample."""
    open_recorded(record)  # the pixels are those of the record
    image = Path(record["image"])
    told = {name: value for name, value in record.items() if name != "image"}
    name = record["id"].replace(".", "_")
    return [
        (f"{name}{image.suffix}", store.regular_file(image).read_bytes()),
        (f"{name}.cls", str(record["label"]).encode()),
        (f"{name}.json", json.dumps(told, sort_keys=True, ensure_ascii=False).encode()),
    ]
