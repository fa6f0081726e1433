"""A blinded reading: which images a reader sees, what is asked, and what was answered.

After Repetto and de Leon (2023): a radiologist looks at real and synthetic images, mixed, and says of each whether it
is real, whether it could come from a person, whether it is malformed, whether the finding can be identified, and which
class it shows. All readers get the same images in an order of their own; nothing sent to the reader tells where an
image comes from.
"""

import functools
import io
import json
import random
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image

from meddap_monai import store
from meddap_monai.core.constraints import Range, settings
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import ConfigurationError, ForeignOutput, RecordsError
from meddap_monai.images.framing import frame
from meddap_monai.images.reading.opening import image_size
from meddap_monai.images.reading.recorded import open_recorded

QUESTIONS = {
    "real": "Is this a real image?",
    "person": "Could it come from a person?",
    "malformed": "Is anything malformed?",
    "finding": "Can the finding be identified?",
}
"""Name of the question -> what the reader is asked."""
UNSURE = "unsure"
ANSWERS = ("yes", "no", UNSURE)
CLASS = "reader_class"
"""The last question: which class the reader sees; the answers are the classes of the reading and `UNSURE`."""
CLASS_QUESTION = "Which class does it show?"
LONGEST_TEXT = 2000
_READER = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True)
@settings("review")
class ReadingConfig:
    """What is read.

    Attributes:
        images: how many, half of them synthetic, classes evenly.
        seed: of the draw; readers of one folder share it.
    """

    images: Annotated[int, Range(2, 10_000)] = 60
    seed: int = 0


def draw_items(config: ReadingConfig, real: Sequence[Record], synthetic: Sequence[Record]) -> list[Record]:
    """Draw the images of a reading, half real and half synthetic, classes evenly, at most one real image a patient.

    Args:
        config: number and seed.
        real: full real records.
        synthetic: full synthetic records.

    Raises:
        RecordsError: there are not enough images.
    """
    half = config.images // 2
    items = _draw(real, config.images - half, config.seed, "real") + _draw(synthetic, half, config.seed, "synthetic")
    return sorted(items, key=lambda record: derive_seed(config.seed, "review/order", record["id"]))


def _draw(records: Sequence[Record], count: int, seed: int, source: str) -> list[Record]:
    pools: dict[str, list[Record]] = defaultdict(list)
    patients: set[str] = set()
    for record in sorted(records, key=lambda record: derive_seed(seed, f"review/{source}", record["id"])):
        if source == "real" and record["patient"] in patients:
            continue
        patients.add(record["patient"])
        pools[record["class_name"]].append(record)
    chosen: list[Record] = []
    while len(chosen) < count and any(pools.values()):
        for name in sorted(pools):
            if pools[name] and len(chosen) < count:
                chosen.append(pools[name].pop(0))
    if len(chosen) < count:
        raise RecordsError(
            f"review: {len(chosen)} {source} images of separate patients, expected {count}; set --images to at most "
            f"{2 * len(chosen)}"
        )
    return chosen


class Reading:
    """What one reader reads: the images in this reader's order, and the answers on disk.

    Args:
        output: folder of the reading, shared by its readers.
        reader: a short name, part of a file name.
        config: of the reading.
        records: real records file.
        generated: synthetic records file.

    Raises:
        ConfigurationError: the reader's name could not be a file name.
        ForeignOutput: the folder holds another reading.
    """

    def __init__(self, output: Path, reader: str, config: ReadingConfig, records: Path, generated: Path) -> None:
        if not _READER.fullmatch(reader):
            raise ConfigurationError(
                f"review: reader {reader!r}: expected 1 to 40 letters, digits, - or _ (no name of a person is needed)"
            )
        self.folder, self.reader = Path(output), reader
        real = [record for record in read_records(records, source="real", full=True) if record["split"] != "unseen"]
        synthetic = read_records(generated, source="synthetic", full=True)
        items = draw_items(config, real, synthetic)
        self._check_folder(config, items)
        order = random.Random(derive_seed(config.seed, "review/reader", reader))
        order.shuffle(items)
        self.items = items
        self.classes = sorted({record["class_name"] for record in items})
        self.side = max(64, min(_shorter_side(record) for record in items))
        self.path = self.folder / "answers" / f"{reader}.jsonl"
        self.answers = {answer["id"]: answer for answer in read_answers(self.path)}
        self._lock = threading.Lock()
        self._drawn = functools.lru_cache(maxsize=256)(self._draw_picture)

    def _check_folder(self, config: ReadingConfig, items: Sequence[Record]) -> None:
        wanted = {
            "configuration": store.plain(config),
            "questions": QUESTIONS | {CLASS: CLASS_QUESTION},
            "items": [{name: record[name] for name in ("id", "source", "class_name", "sha256")} for record in items],
        }
        path = self.folder / "reading.json"
        if path.is_file():
            if store.read_json(path, ForeignOutput, "choose another output folder") != wanted:
                raise ForeignOutput(
                    f"{path}: another reading (other images, number or seed); use the same records, --images and "
                    "--seed for every reader, or choose another output folder"
                )
            return
        store.write_json(path, wanted)

    def picture(self, number: int) -> bytes:
        """Return the PNG that the reader sees: a centred square of equal size for all, without any metadata."""
        return self._drawn(number)

    def _draw_picture(self, number: int) -> bytes:
        picture = open_recorded(self.items[number]).convert("RGB")
        square = frame(picture, self.side, self.side, "crop", resampling=Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        square.save(stream, "PNG")
        return stream.getvalue()

    def state(self) -> dict[str, Any]:
        """Return what the page needs: questions, number of images, and this reader's own answers by place."""
        fields = (*QUESTIONS, CLASS, "text")
        return {
            "reader": self.reader,
            "questions": QUESTIONS | {CLASS: CLASS_QUESTION},
            "answers": dict.fromkeys(QUESTIONS, ANSWERS) | {CLASS: [*self.classes, UNSURE]},
            "count": len(self.items),
            "given": {
                number: {name: self.answers[item["id"]][name] for name in fields}
                for number, item in enumerate(self.items)
                if item["id"] in self.answers
            },
        }

    def answer(self, number: int, given: Mapping[str, Any]) -> None:
        """Store one image's answers; an answer given again replaces the earlier one.

        Args:
            number: place of the image in this reader's order.
            given: question -> answer, ``text``, ``seconds`` spent.

        Raises:
            RecordsError: a place that does not exist, a question unanswered or an unknown answer.
        """
        if not 0 <= number < len(self.items):
            raise RecordsError(f"review: image {number}, expected 0 to {len(self.items) - 1}")
        for name, known in {**dict.fromkeys(QUESTIONS, ANSWERS), CLASS: (*self.classes, UNSURE)}.items():
            if given.get(name) not in known:
                raise RecordsError(f"review: {name} is {given.get(name)!r}, expected one of {', '.join(known)}")
        seconds = given.get("seconds", 0)
        item = self.items[number]
        entry = {name: given[name] for name in (*QUESTIONS, CLASS)} | {
            "id": item["id"],
            "reader": self.reader,
            "source": item["source"],
            "class_name": item["class_name"],
            "text": str(given.get("text", ""))[:LONGEST_TEXT].encode(errors="replace").decode(),
            "seconds": round(float(seconds), 1) if _is_duration(seconds) else 0.0,
        }
        with self._lock:
            answers = self.answers | {item["id"]: entry}
            lines = [json.dumps(answers[one], sort_keys=True, ensure_ascii=False) for one in sorted(answers)]
            store.write_atomic(self.path, "\n".join(lines) + "\n")
            self.answers = answers


def _shorter_side(record: Record) -> int:
    return min(image_size(record["image"]))


def _is_duration(seconds: Any) -> bool:
    return isinstance(seconds, (int, float)) and 0 <= seconds < 1e6


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the answers of one reader; none when the file is not there yet.

    Raises:
        RecordsError: a line is no answer (file and line are named).
    """
    if not path.exists():
        return []
    advice = "mend the line, or move the file away to read again"
    found = []
    for number, line in enumerate(store.read_text(path, RecordsError, advice).split("\n"), start=1):
        if not line:
            continue
        answer = store.parse_json(line, str(path), RecordsError, advice, number)
        texts = [answer.get(name) for name in ("id", "reader", "source", "class_name", "text", CLASS)]
        given = [answer.get(name) in ANSWERS for name in QUESTIONS]
        if not all(given) or not all(isinstance(text, str) for text in texts):
            raise RecordsError(f"{path}, line {number}: is no answer of the reading form; {advice}")
        found.append(answer)
    return found
