"""The first hour with encoders: what cannot be trained is said before anything is read."""

from pathlib import Path

import pytest

from meddap_monai.cli.main import main


def test_walk_an_encoder_without_weights_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "--output", str(tmp_path / "out"), f"index#source={tmp_path}", "classify#encoder=resnet10"]
    assert main(words) == 2
    assert "encoder 'resnet10' has no weights of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
