"""What a folder or a table lists: links, folders that cannot be listed, masks, contradictions, and columns of facts."""

import csv
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from meddap_monai.core.ids import read_yaml
from meddap_monai.core.records import read_records
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.masks import pair_of
from meddap_monai.images.indexing.sources import Table, table_sources, walk
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.store import read_stage


def folder_with_table(folder: Path) -> Path:
    rows = [["image", "label", "patient", "hospital", "maker"]]
    rows += [["0.png", "a", "p0", "Algeria", ""], ["1.png", "b", "p1", "Egypt", "Voluson E8"]]
    rows += [["2.png", "b", "p2", "../../etc", ""]]
    folder.mkdir()
    for number in range(3):
        Image.fromarray(simulate_image("normal", number, size=(48, 48))).save(folder / f"{number}.png")
    with (folder / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.fixture
def asked(key: Path, tmp_path: Path) -> dict[str, object]:
    source = folder_with_table(tmp_path / "in")
    return {
        "source": source,
        "labels": "csv",
        "modality": "any",
        "split": "unseen",
        "key_file": key,
        "workers": 0,
    }


def test_centre_and_device_of_a_table(asked: dict[str, object], tmp_path: Path) -> None:
    config = IndexConfig(**asked, centre_column="hospital", device_column="maker")  # type: ignore[arg-type]
    records = read_records(index(config, tmp_path / "out"), full=True)
    told = {row["class_name"]: (row["meta"]["centre"], row["meta"].get("device")) for row in records}
    assert told == {"a": ("Algeria", None), "b": ("Egypt", "Voluson E8")}
    assert "its centre is not usable" in (tmp_path / "out" / "rejects.csv").read_text()


def test_without_being_asked_nothing_of_them_is_kept(asked: dict[str, object], tmp_path: Path) -> None:
    index(IndexConfig(**asked), tmp_path / "out")  # type: ignore[arg-type]
    assert "Algeria" not in (tmp_path / "out" / "records.jsonl").read_text()


def test_a_column_that_is_not_there(asked: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected also 'country'"):
        index(IndexConfig(**asked, centre_column="country"), tmp_path / "out")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- contradictions
@pytest.fixture
def how(key: Path, tmp_path: Path) -> dict[str, object]:
    return {"source": tmp_path / "in", "key_file": key, "split": "train", "workers": 0}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(simulate_image("normal", seed, size=(48, 48))).save(path)


def reasons(output: Path) -> Counter[str]:
    with (output / "rejects.csv").open() as stream:
        return Counter(row["reason"] for row in csv.DictReader(stream))


ROWS = [["0.png", "a", "p0", "x"], ["sub/1.png", "b", "p1", "x"]]


@pytest.mark.parametrize(
    ("row", "rejected"),
    [
        (["0.png", "b", "p0", "x"], {"the file occurs under several classes": 2}),
        (["./0.png", "b", "p0", "x"], {"the file occurs under several classes": 2}),
        (["sub/../0.png", "b", "p0", "x"], {"the file occurs under several classes": 2}),
        (["link.png", "b", "p0", "x"], {"the file occurs under several classes": 2}),
        (["0.png", "a", "p9", "x"], {"the file occurs under several groups": 2}),
        (["linked/1.png", "b", "p9", "x"], {"the file occurs under several groups": 2}),
        (["0.png", "a", "p0", "y"], {"the file occurs under several centres or devices": 2}),
        (["0.png", "a", "p0", "x"], {"the file is listed a second time": 1}),
        (["./0.png", "a", "p0", "x"], {"the file is listed a second time": 1}),
        (["link.png", "a", "p0", "x"], {"the file is listed a second time": 1}),
        (["0.png", "", "p0", "x"], {"the table gives no label": 1}),
    ],
)
def test_a_file_that_a_table_lists_twice(
    row: list[str], rejected: dict[str, int], how: dict[str, object], tmp_path: Path
) -> None:
    for number, name in enumerate(("0.png", "sub/1.png", "2.png")):
        picture(tmp_path / "in" / name, number)
    os.symlink("0.png", tmp_path / "in" / "link.png")
    os.symlink("sub", tmp_path / "in" / "linked")
    with (tmp_path / "in" / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label", "group", "place"], *ROWS, ["2.png", "b", "p2", "x"], row])
    path = index(IndexConfig(**how, labels="csv", centre_column="place"), tmp_path / "out")  # type: ignore[arg-type]
    assert reasons(tmp_path / "out") == rejected
    counts = read_stage(tmp_path / "out")["counts"]
    assert counts["in"] == 4 and counts["out"] == len(read_records(path)) == 4 - sum(rejected.values())


def test_a_table_of_three_rows_about_one_file(how: dict[str, object], tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "in" / f"{number}.png", number)
    rows = "image,label\n0.png,a\n1.png,a\n0.png,a\n0.png,b\n"
    (tmp_path / "in" / "index.csv").write_text(rows)
    index(IndexConfig(**how, labels="csv"), tmp_path / "out")  # type: ignore[arg-type]
    assert reasons(tmp_path / "out") == {"the file occurs under several classes": 3}
    (tmp_path / "in" / "index.csv").write_text(rows.replace("0.png,b\n", ""))
    assert len(read_records(index(IndexConfig(**how, labels="csv"), tmp_path / "out"))) == 2  # type: ignore[arg-type]
    assert reasons(tmp_path / "out") == {"the file is listed a second time": 1}, "the contradiction is gone"


def test_a_column_that_is_there_twice(how: dict[str, object], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "0.png", 0)
    (tmp_path / "in" / "index.csv").write_text("image,label,label\n0.png,a,b\n")
    with pytest.raises(ConfigurationError, match="expected 'label' only once"):
        index(IndexConfig(**how, labels="csv"), tmp_path / "out")  # type: ignore[arg-type]
    (tmp_path / "in" / "index.csv").write_text("image,label,class\n0.png,a,b\n")
    index(IndexConfig(**how, labels="csv", label_column="class"), tmp_path / "out")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- links
OUT = "is a link out of the source folder; set follow_links where its target can be trusted"
AGAIN = "is a link to a folder, below another link or back to a folder that contains it; it is not followed"


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_are_followed_or_counted(follow_links: bool, how: dict[str, object], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "benign" / "0.png", 0)
    picture(tmp_path / "in" / ".store" / "1.png", 1)
    picture(tmp_path / "elsewhere" / "2.png", 2)
    picture(tmp_path / "file.png", 3)
    os.symlink("../.store", tmp_path / "in" / "benign" / "inside")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "malignant")
    os.symlink(tmp_path / "file.png", tmp_path / "in" / "benign" / "file.png")
    os.symlink("nowhere.png", tmp_path / "in" / "benign" / "broken.png")
    os.symlink("loop.png", tmp_path / "in" / "benign" / "loop.png")
    records = read_records(index(IndexConfig(**how, follow_links=follow_links), tmp_path / "out"))  # type: ignore[arg-type]
    found = Counter(record["class_name"] for record in records)
    assert found == ({"benign": 3, "malignant": 1} if follow_links else {"benign": 2})
    lost = {"is a link to nothing": 2} | ({} if follow_links else {OUT: 2})
    assert reasons(tmp_path / "out") == lost


def test_loops_of_links_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(b"")
    os.symlink("..", tmp_path / "a" / "up")
    os.symlink(".", tmp_path / "a" / "self")
    os.symlink("../b", tmp_path / "a" / "other")
    os.symlink("../a", tmp_path / "b" / "other")
    found = {relative: error for _, relative, error in walk(tmp_path)}
    assert found == {
        "a/a.png": "", "a/self": AGAIN, "a/up": AGAIN, "a/other/b.png": "", "a/other/other": AGAIN,
        "b/b.png": "", "b/other/a.png": "", "b/other/other": AGAIN, "b/other/self": AGAIN, "b/other/up": AGAIN,
    }  # fmt: skip


def test_one_file_under_two_class_folders(how: dict[str, object], tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "in" / "a" / f"{number}.png", number)
    (tmp_path / "in" / "b").mkdir()
    os.symlink("../a/0.png", tmp_path / "in" / "b" / "0.png")
    os.link(tmp_path / "in" / "a" / "1.png", tmp_path / "in" / "a" / "2.png")
    assert len(read_records(index(IndexConfig(**how), tmp_path / "out"))) == 1  # type: ignore[arg-type]
    assert reasons(tmp_path / "out") == {
        "the file occurs under several classes": 2,
        "the file is listed a second time": 1,
    }


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may use, outside of pytest's own, which is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def test_a_folder_that_cannot_be_listed_is_counted(open_folder: Path) -> None:
    for number, name in enumerate(("benign/0.png", "benign/1.png", "malignant/2.png")):
        picture(open_folder / "in" / name, number)
    (open_folder / "key").write_bytes(b"k" * 32)
    (open_folder / "in" / "malignant").chmod(0)
    config = IndexConfig(source=open_folder / "in", key_file=open_folder / "key", split="train", workers=0)
    other = os.geteuid() == 0  # root may list everything
    if other:
        os.seteuid(65534)
    try:
        index(config, open_folder / "out")
        assert reasons(open_folder / "out") == {"cannot be listed (Permission denied)": 1}
        assert read_stage(open_folder / "out")["counts"]["out"] == 2
    finally:
        if other:
            os.seteuid(0)
        (open_folder / "in" / "malignant").chmod(0o700)


# ------------------------------------------------------------------------------------------------------------- masks
@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/x.png", "a/x_mask.png"),
        ("a/x.png", "a/x_mask_1.png"),
        ("a/benign (1).png", "a/benign (1)_mask.png"),
        ("a/benign (1).png", "a/benign (1)_mask_1.png"),
        ("a/x.png", "a/x-mask.tif"),
        ("a/x.jpg", "a/X_MASK.PNG"),
        ("a/x.png", "a/x_seg.png"),
        ("a/x.nii.gz", "a/x_segmentation.nii.gz"),
        ("a/IM0001", "a/IM0001_mask.png"),
        ("a/x.png", "a/mask_x.png"),
        ("a/x.png", "a/masks/x.png"),
        ("a/images/x.png", "a/masks/x_mask.png"),
        ("images/a/x.png", "masks/a/x.png"),
        ("benign_images/x.png", "benign_masks/x.png"),
        ("a/x_image.png", "a/x_mask.png"),
        ("a/case1/image.png", "a/case1/mask.png"),
        ("a/img_001.png", "a/mask_001.png"),
    ],
)
def test_names_of_masks(image: str, mask: str) -> None:
    assert pair_of(image) == (pair_of(mask)[0], False) and pair_of(mask)[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/x.png", "b/x_mask.png"),
        ("a/x.txt", "a/x_mask.png"),
        ("a/un.png", "a/unmasked.png"),
        ("a/1.png", "mask/1.png"),
    ],
)
def test_names_that_are_no_pair(one: str, other: str) -> None:
    assert pair_of(one)[0] != pair_of(other)[0] or not pair_of(other)[1]


@pytest.mark.parametrize(("masks", "out"), [("reject", 3), ("keep", 5)])
def test_masks_beside_images_are_left_out_and_counted(
    masks: str, out: int, how: dict[str, object], tmp_path: Path
) -> None:
    names = ("a/1.png", "a/1_mask.png", "a/1_mask_1.png", "a/2.png", "b/lone_mask.png")
    for number, name in enumerate(names):
        picture(tmp_path / "in" / name, number)
    config = IndexConfig(**how, masks=masks)  # type: ignore[arg-type]
    assert len(read_records(index(config, tmp_path / "out"))) == out, "a lone mask is an image"
    counts = read_stage(tmp_path / "out")["counts"]
    assert counts["masks"] == 5 - out == counts["rejected"]
    assert sum(n for text, n in reasons(tmp_path / "out").items() if text.startswith("is a mask")) == 5 - out
    (tmp_path / "in" / "a" / "1.png").unlink()
    assert len(read_records(index(config, tmp_path / "out"))) == 4, "without its image, a mask is none any more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"image,label\na.png,x\nb.png,\xff\n", "line 3: not UTF-8"),
        (b'image,label\na.png,x\n"b.png,y\n', "line 3: is no table"),
        (b"image,label\na.png," + b"y" * 200_000 + b"\n", "line 2: is no table"),
    ],
)
def test_a_table_that_is_none_is_named_with_its_line(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "index.csv").write_bytes(text)
    with pytest.raises(ConfigurationError, match=said):
        list(table_sources(tmp_path, Table(tmp_path / "index.csv", "image", "label")))


def test_a_row_of_too_many_cells_is_a_reject_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text('image,label\n"a\nb.png",x\nc.png,x,y\n')
    one, two = table_sources(tmp_path, Table(tmp_path / "index.csv", "image", "label"))
    assert (one.error, two.error) == ("", "line 4 of the table has more cells than there are columns")


@pytest.mark.timeout(20)
def test_a_pipe_as_table_or_configuration_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="named pipe"):
        Table(tmp_path / "pipe", "image", "label").check_columns()
    with pytest.raises(ConfigurationError, match="named pipe"):
        read_yaml(tmp_path / "pipe")
