"""One command: DICOM in, marked synthetic DICOM out; and a shard made again."""

from pathlib import Path

import pydicom
import pytest

from meddap_monai.cli.main import main
from meddap_monai.phantom.simulation import write_phantom_study

FEW = ["steps=2", "shard_size=8", "sheet_columns=2"]


def test_dicom_folder_in_dicom_folder_out(tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_phantom_study(tmp_path / "study", patients_per_class=2, images_per_patient=1, seed=0, broken=2)
    output = tmp_path / "out"
    words = [
        "synthesize",
        "--source",
        str(source),
        "--output",
        str(output),
        "--base",
        str(tiny_base),
        *FEW,
        "mode=image",
    ]
    assert main([*words, "index#workers=0", f"index#key_file={_key(tmp_path)}"]) == 0
    assert "6 synthetic DICOM files" in capsys.readouterr().out
    files = sorted((output / "generate" / "dicom").iterdir())
    assert len(files) == 6
    old = {pydicom.dcmread(path, force=True).get("SOPInstanceUID") for path in source.rglob("IM*")}
    for path in files:
        dataset = pydicom.dcmread(path)
        assert dataset.SyntheticData == "YES" and dataset.SOPInstanceUID not in old
        assert "CANARY" not in path.read_bytes().decode("latin-1")
    records = output / "index" / "records.jsonl"
    given = ["--records", str(records), "--base", str(tiny_base), "--output", str(tmp_path / "again")]
    assert main(["remake", str(output / "generate"), "0", *given]) == 0
    assert "6 of 6 images equal byte for byte; largest difference 0" in capsys.readouterr().out


def _key(folder: Path) -> Path:
    path = folder / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stepps=2", "generate: unknown key 'stepps'; did you mean 'steps'?"),
        ("index#lables=csv", "index: unknown key 'lables'; did you mean 'labels'?"),
        ("select#rule=x", "generate: unknown key 'select'"),
        ("steps", "expected ID=VALUE"),
    ],
)
def test_what_is_wrong_is_named(word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--source", str(tmp_path), "--output", str(tmp_path / "out"), word]) == 2
    assert message in capsys.readouterr().err
