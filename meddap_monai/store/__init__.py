"""The only room that writes results: atomic files, the lock of an output folder, ``stage.json`` and shards.

Needs the standard library only, so that a process that just takes a lock starts fast. The promises are those of
``docs/contracts.md``: no partial file ever stands under a final name, one writer per folder, a finished stage is
skipped, an unfinished one goes on, a folder of another configuration is refused.
"""

from meddap_monai.store.documents import parse_json, read_json, read_text
from meddap_monai.store.files import (
    atomic_folder,
    atomic_path,
    commit_shard,
    disk_full,
    disk_full_errors,
    hash_configuration,
    plain,
    sha256_file,
    sha256_text,
    shard_done,
    shard_path,
    shards_done,
    sweep,
    write_atomic,
    write_json,
)
from meddap_monai.store.process import InterruptFlag, lock_folder
from meddap_monai.store.regular import ALLOW_LINKS, file_kind, links_out, name_text, regular_file
from meddap_monai.store.stage import (
    COST,
    STAGES,
    Stage,
    check_inputs,
    open_stage,
    read_cost,
    read_stage,
    this_machine,
    versions,
)
from meddap_monai.store.tables import csv_text, read_csv, write_rows

__all__ = [
    "ALLOW_LINKS",
    "COST",
    "STAGES",
    "InterruptFlag",
    "Stage",
    "atomic_folder",
    "atomic_path",
    "check_inputs",
    "commit_shard",
    "csv_text",
    "disk_full",
    "file_kind",
    "hash_configuration",
    "links_out",
    "lock_folder",
    "name_text",
    "disk_full_errors",
    "open_stage",
    "parse_json",
    "plain",
    "read_cost",
    "read_csv",
    "read_json",
    "read_stage",
    "read_text",
    "regular_file",
    "sha256_file",
    "sha256_text",
    "shard_done",
    "shard_path",
    "shards_done",
    "sweep",
    "this_machine",
    "versions",
    "write_atomic",
    "write_json",
    "write_rows",
]
