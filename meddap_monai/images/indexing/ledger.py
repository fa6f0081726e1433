"""The outcome of an index run before it is written: which images stay, in which group and split, and what is rejected.

Everything lies in temporary tables beside the journal's, so that memory does not grow with the number of images.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.images.indexing.accept import THUMBNAIL
from meddap_monai.images.indexing.duplicates import BLOCK, Groups, near_duplicates
from meddap_monai.images.indexing.journal import Journal
from meddap_monai.images.reading.pseudonym import pseudonym

_FILL = """
DROP TABLE IF EXISTS accepted;
CREATE TEMP TABLE accepted (
    place INTEGER PRIMARY KEY, image INTEGER, id TEXT, class_name TEXT, sha256 TEXT, patient TEXT,
    split TEXT, reason TEXT);
INSERT INTO accepted
    SELECT NULL, image, id, class_name, sha256, patient, NULL, NULL FROM wanted JOIN images USING (name)
    ORDER BY place, frame;
CREATE INDEX accepted_picture ON accepted (sha256);
CREATE INDEX accepted_id ON accepted (id);
CREATE INDEX accepted_patient ON accepted (patient);
"""
_TORN = """
UPDATE accepted SET reason = 'the same picture occurs under several classes'
WHERE reason IS NULL AND sha256 IN (
    SELECT sha256 FROM accepted WHERE reason IS NULL GROUP BY sha256 HAVING count(DISTINCT class_name) > 1)
"""
_SAME = """
SELECT first.patient, copy.patient
FROM (SELECT min(place) AS place, sha256 FROM accepted WHERE reason IS NULL GROUP BY sha256 HAVING count(*) > 1) AS same
JOIN accepted AS first ON first.place = same.place
JOIN accepted AS copy ON copy.sha256 = same.sha256 AND copy.place > same.place
"""
_COPIES = """
UPDATE accepted SET reason = 'exact duplicate of ' || (
    SELECT id FROM accepted AS other WHERE other.sha256 = accepted.sha256 AND reason IS NULL ORDER BY place LIMIT 1)
WHERE reason IS NULL AND place > (
    SELECT min(place) FROM accepted AS other WHERE other.sha256 = accepted.sha256 AND reason IS NULL)
"""
_REJECTS = """
SELECT item_of(name), files.error FROM wanted JOIN files USING (name) WHERE files.error != ''
UNION ALL SELECT id, reason FROM accepted WHERE reason IS NOT NULL ORDER BY 1, 2
"""
_PLACES = """
SELECT item_of(name), '', path_in(task) FROM wanted JOIN files USING (name) WHERE files.error != ''
UNION ALL SELECT id, frame, path_in(task) FROM wanted JOIN images USING (name) ORDER BY 1, 2, 3
"""


class Ledger:
    """Accepted images and rejected items of a run."""

    def __init__(self, journal: Journal) -> None:
        self.database = journal.database
        self.database.executescript(_FILL)

    def count(self) -> int:
        """Return the number of images that stay."""
        return int(self.database.execute("SELECT count(*) FROM accepted WHERE reason IS NULL").fetchone()[0])

    def drop_other_classes(self, classes: tuple[str, ...]) -> None:
        """Reject what is of none of the classes."""
        places = ", ".join("?" * len(classes))
        self.database.execute(
            f"UPDATE accepted SET reason = ? WHERE class_name NOT IN ({places})",
            (f"its class is none of {', '.join(classes)}", *classes),
        )

    def drop_duplicates(self, groups: Groups) -> int:
        """Reject copies and pictures under several classes; join the patients of copies; return how many."""
        torn = self.database.execute(_TORN).rowcount
        for pair in self.database.execute(_SAME):
            groups.join(*pair)
        return torn + self.database.execute(_COPIES).rowcount

    def join_near_duplicates(self, groups: Groups, correlation: float) -> int:
        """Join the patients of almost equal pictures; return how many pairs there are."""
        pairs, starts = 0, self._block_starts()
        for first, second in near_duplicates(lambda block: self._thumbnails(starts, block), correlation):
            groups.join(first, second)
            pairs += 1
        return pairs

    def _block_starts(self) -> list[int]:
        """Return the place of the first image of each block, so that none is counted off from the beginning."""
        query = (
            "SELECT place FROM (SELECT place, row_number() OVER (ORDER BY place) AS n FROM accepted "
            "WHERE reason IS NULL) WHERE n % ? = 1"
        )
        return [place for (place,) in self.database.execute(query, (BLOCK,))]

    def _thumbnails(self, starts: list[int], block: int) -> tuple[list[str], np.ndarray]:
        """Patients and thumbnails (N, S, S) uint8 of a block of images; N is 0 behind the last."""
        found = self.database.execute(
            "SELECT part.patient, thumbnail FROM (SELECT place, image, patient FROM accepted WHERE reason IS NULL "
            "AND place >= ? ORDER BY place LIMIT ?) AS part JOIN images USING (image) ORDER BY place",
            (starts[block], BLOCK) if block < len(starts) else (0, 0),
        ).fetchall()
        flat = np.frombuffer(b"".join(small for _, small in found), np.uint8)
        return [patient for patient, _ in found], flat.reshape(-1, THUMBNAIL, THUMBNAIL)

    def name_groups(self, groups: Groups) -> None:
        """Give the images of joined patients their common name."""
        names = groups.names()
        self.database.create_function("group_of", 1, lambda name: names.get(name, name))
        self.database.execute("UPDATE accepted SET patient = group_of(patient)")

    def classes(self) -> list[str]:
        """Return the class names that stay, sorted."""
        found = self.database.execute("SELECT DISTINCT class_name FROM accepted WHERE reason IS NULL")
        return sorted(name for (name,) in found)

    def assign(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take the splits of ``{"id", "split"}``; reject what gets none."""
        for record in records:
            self.database.execute("UPDATE accepted SET split = ? WHERE id = ?", (record["split"], record["id"]))
        self.database.execute(
            "UPDATE accepted SET reason = 'not drawn: its group exceeds the number per class' "
            "WHERE reason IS NULL AND split IS NULL"
        )

    def missing_files(self, folder: Path) -> Iterator[str]:
        """Yield the files of images that stay, but whose PNG is not in the folder."""
        found = self.database.execute(
            "SELECT name, accepted.id FROM accepted JOIN images USING (image) WHERE reason IS NULL"
        )
        return (name for name, identity in found if not (folder / f"{identity}.png").exists())

    def is_kept(self, identity: str) -> bool:
        """Tell whether an id is that of an image that stays."""
        query = "SELECT 1 FROM accepted WHERE id = ? AND reason IS NULL"
        return self.database.execute(query, (identity,)).fetchone() is not None

    def records(self, classes: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the records of what stays, by id."""
        query = (
            "SELECT accepted.id, accepted.class_name, accepted.patient, split, accepted.sha256, meta "
            "FROM accepted JOIN images USING (image) WHERE reason IS NULL ORDER BY accepted.id"
        )
        for identity, class_name, patient, split, digest, meta in self.database.execute(query):
            yield {
                "id": identity,
                "image": f"images/{identity}.png",
                "label": classes.index(class_name),
                "class_name": class_name,
                "patient": patient,
                "split": split,
                "source": "real",
                "sha256": digest,
                "meta": json.loads(meta),
            }

    def splits(self) -> dict[str, int]:
        """Return "split/class name" -> number of images."""
        query = "SELECT split || '/' || class_name, count(*) FROM accepted WHERE reason IS NULL GROUP BY 1 ORDER BY 1"
        return dict(self.database.execute(query))

    def count_not_deidentified(self) -> dict[str, int]:
        """Return the numbers of images that were taken whole, and of those whose region is a guess."""
        query = (
            "SELECT count(*) FROM accepted JOIN images USING (image) "
            "WHERE reason IS NULL AND json_extract(meta, '$.deidentified') = ?"
        )
        names = {"not_deidentified": 0, "deidentification_unknown": "unknown"}
        return {name: int(self.database.execute(query, (value,)).fetchone()[0]) for name, value in names.items()}

    def write_lists(self, folder: Path, key: bytes) -> int:
        """Write ``rejects.csv`` and ``private/sources.csv``; only the latter names source paths. Return the rejects."""
        self.database.create_function("item_of", 1, lambda name: pseudonym(json.loads(name), key, "item", 12))
        self.database.create_function("path_in", 1, _path_in)
        _write_table(folder / "private" / "sources.csv", ("item", "frame", "source"), self.database.execute(_PLACES))
        return _write_table(folder / "rejects.csv", ("item", "reason"), self.database.execute(_REJECTS), 0o644)


class Members(Mapping[str, list[dict[str, Any]]]):
    """Patient or group -> what a split has to know of its images; read when asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self.database = ledger.database

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the groups."""
        query = "SELECT DISTINCT patient FROM accepted WHERE reason IS NULL"
        return (name for (name,) in self.database.execute(query))

    def __len__(self) -> int:
        """Return the number of groups."""
        query = "SELECT count(DISTINCT patient) FROM accepted WHERE reason IS NULL"
        return int(self.database.execute(query).fetchone()[0])

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        """Return id and class name of the images of a group."""
        query = "SELECT id, class_name FROM accepted WHERE patient = ? AND reason IS NULL ORDER BY place"
        found = self.database.execute(query, (name,)).fetchall()
        return [{"id": identity, "class_name": class_name} for identity, class_name in found]


def _path_in(task: str) -> str:
    path: str = json.loads(task)["path"]
    return path.encode("utf-8", "backslashreplace").decode()


def _write_table(path: Path, head: tuple[str, ...], rows: Iterable[tuple[Any, ...]], mode: int = 0o600) -> int:
    with store.atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            return store.write_rows(stream, head, rows)
