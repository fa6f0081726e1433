"""Records packed for those who train elsewhere: WebDataset samples, equal bytes from whoever packs them."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from meddap_monai import store
from meddap_monai.cli.main import main
from meddap_monai.core.records import read_records
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import use_engine
from meddap_monai.errors import ChangedImage, ForeignOutput, RecordsError
from meddap_monai.images.writing.packing import pack


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> content, as WebDataset groups them: neighbours with one name up to the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    last = ""
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for entry in tar:
                key, _, extension = entry.name.partition(".")
                assert key == last or key not in found, "files of a sample stand together"
                found.setdefault(key, {})[extension] = tar.extractfile(entry).read()  # type: ignore[union-attr]
                last = key
    return found


def test_every_record_is_a_sample_with_the_bytes_of_its_image(records: Path, tmp_path: Path) -> None:
    document = store.read_json(pack(records, tmp_path / "out", images=10))
    assert (document["images"], [shard["images"] for shard in document["shards"]]) == (24, [10, 10, 4])
    assert document["classes"] == ["benign", "malignant", "normal"]
    found = samples(tmp_path / "out")
    assert len(found) == 24
    for record in read_records(records, full=True):
        sample = found[record["id"]]
        assert sample["png"] == Path(record["image"]).read_bytes() and int(sample["cls"]) == record["label"]
        assert json.loads(sample["json"]) == {name: value for name, value in record.items() if name != "image"}
    for shard in document["shards"]:
        assert store.sha256_file(tmp_path / "out" / shard["name"]) == shard["sha256"]


def test_whoever_packs_the_bytes_are_equal(records: Path, tmp_path: Path) -> None:
    one = pack(records, tmp_path / "one", images=5, split="train").read_bytes()
    with use_engine(EngineConfig(workers=2)):
        assert pack(records, tmp_path / "two", images=5, split="train").read_bytes() == one
    assert {json.loads(sample["json"])["split"] for sample in samples(tmp_path / "two").values()} == {"train"}
    (tmp_path / "two" / "000001.tar").unlink()
    assert pack(records, tmp_path / "two", images=5, split="train").read_bytes() == one, "what is missing is made again"


def test_another_pack_or_folder_is_refused(records: Path, tmp_path: Path) -> None:
    pack(records, tmp_path / "out", images=100)
    with pytest.raises(ForeignOutput, match="holds another pack"):
        pack(records, tmp_path / "out", images=10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ForeignOutput, match="'notes.txt', which is no pack"):
        pack(records, tmp_path / "mine")
    with pytest.raises(RecordsError, match="no record in split unseen"):
        pack(records, tmp_path / "none", split="unseen")


def test_a_changed_image_is_not_packed(make_records: Callable[..., Path], tmp_path: Path) -> None:
    own = make_records({"train": 1, "test": 1}, size=32)
    Image.new("L", (32, 32)).save(read_records(own)[0]["image"])
    with pytest.raises(ChangedImage):
        pack(own, tmp_path / "out")


def test_the_command_packs(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--records", str(records), "--output", str(tmp_path / "out"), "--split", "val"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'pack.json'}\n"
    assert main(["pack", "--records", str(records), "--output", str(tmp_path / "x"), "generate#steps=2"]) == 2
    assert "unknown key 'generate'" in capsys.readouterr().err
