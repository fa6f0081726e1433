"""Several outputs of `generate` as one, where one adapter per class, or the tasks of a job array, made them apart."""

from collections.abc import Sequence
from pathlib import Path

from meddap_monai import store
from meddap_monai.core.records import class_names, iter_records, write_records
from meddap_monai.errors import RecordsError


def join_generated(output: Path, parts: Sequence[Path], overwrite: bool = False) -> Path:
    """Write one ``generated.jsonl`` over the images of several outputs; the images stay where they are.

    Args:
        output: folder of the result.
        parts: ``generated.jsonl`` files, or the folders that hold them.
        overwrite: replace a join of other parts.

    Raises:
        RecordsError: no part, parts of different classes, or an id that occurs twice (equal seeds in two tasks).
    """
    files = [part / "generated.jsonl" if part.is_dir() else part for part in map(Path, parts)]
    if not files:
        raise RecordsError("join: got no part, expected at least one output of generate")
    classes = class_names(files[0])
    for file in files[1:]:
        if class_names(file) != classes:
            raise RecordsError(f"{file}: its classes are {class_names(file)}, expected {classes} as in {files[0]}")
    inputs = {str(number): file for number, file in enumerate(files)}
    with store.open_stage(output, "generate", {"joined": len(files)}, inputs, overwrite) as stage:
        if not stage.done:
            count = write_records(
                output / "generated.jsonl", (record for file in files for record in iter_records(file))
            )
            stage.finish({"in": count, "out": count, "rejected": 0}, classes=classes)
    return output / "generated.jsonl"
