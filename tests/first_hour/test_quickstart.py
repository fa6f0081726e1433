"""docs/quickstart.md, run as it stands on simulated DICOM."""

import shlex
from pathlib import Path

import pytest

from meddap_monai.cli.main import main
from meddap_monai.phantom.simulation import write_phantom_study
from tests.shown import ROOT, blocks

PAGE = ROOT / "docs" / "quickstart.md"


def test_a_stranger_gets_from_a_folder_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("MEDDAP_KEY_FILE", str(tmp_path / "key"))
    write_phantom_study(tmp_path / "data", patients_per_class=8, images_per_patient=1, seed=0, broken=1, clips=0)
    (yaml,) = blocks(PAGE, "yaml")
    (tmp_path / "mine.yaml").write_text(yaml)
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert lines.pop(0).startswith("pip install ")  # tests/test_packaging.py installs
    assert [line.split()[1] for line in lines] == ["index", "study", "study", "infer"]
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    told = capsys.readouterr().out
    for text in ("accepted", "would run", "report: ", "answers.csv"):
        assert text in told, text
    assert "Too few seeds for a verdict: it needs 5." in (tmp_path / "runs/first/evaluate/report.html").read_text()
    assert (tmp_path / "runs/answers.csv").read_text().startswith("file,")
