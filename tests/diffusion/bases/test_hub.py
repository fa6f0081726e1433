"""A hub id that does not open says why in one sentence."""

import logging
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import errors

from meddap_monai.cli.main import main
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.hub import hub_sentence, one_sentence
from meddap_monai.errors import BadBase

ANSWER = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))
OFFLINE = (
    "a/b: it is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it; unset that, or give a folder instead"
)
UNREACHABLE = (
    "a/b: it is not in the local cache, and the hub cannot be reached; fetch it where there is a network with "
    "`hf download`, or give a folder instead"
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.OfflineModeIsEnabled("no"), OFFLINE),
        (httpx2.ConnectError("[Errno -2]\nName or service not known"), UNREACHABLE),
        (errors.LocalEntryNotFoundError("An error happened"), UNREACHABLE),
        (
            errors.RepositoryNotFoundError("404\n\nRepository Not Found for url", response=ANSWER),
            "a/b: the hub has no model of that name, or it is private; check the spelling, or log in with "
            "`hf auth login`, or give a folder instead",
        ),
        (
            errors.GatedRepoError("403\n\nAccess is restricted", response=ANSWER),
            "a/b: its owner asks for consent first; give it on the model's page, then `hf auth login`, or give a "
            "folder instead",
        ),
        (
            errors.RemoteEntryNotFoundError("404\n\nmodel_index.json", response=ANSWER),
            "a/b: it lacks files of a Stable Diffusion model; expected one that has model_index.json, or give a folder "
            "instead",
        ),
        (ValueError("one\n\n  two"), "a/b: one two"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_hub_error_means(error: Exception, sentence: str, wrapped: bool) -> None:
    if wrapped and not isinstance(error, ValueError):
        outer = OSError("Cannot load model.\n\nSee the stack trace above.")
        outer.__cause__ = error
        error = outer
    assert hub_sentence("a/b", error) == sentence


def test_a_long_page_is_cut_and_an_empty_one_is_named() -> None:
    assert len(one_sentence(OSError("word\n" * 500))) == 300
    assert one_sentence(KeyError()) == "KeyError"


def test_opening_a_hub_id_without_the_network(caplog: pytest.LogCaptureFixture) -> None:
    for ask in (lambda: load_base("a/b"), lambda: open_base("a/b").resolution):
        with caplog.at_level(logging.WARNING), pytest.raises(BadBase) as caught:
            ask()
        assert str(caught.value) == OFFLINE
    assert "Retrying" not in caplog.text and "Couldn't connect" not in caplog.text


def test_the_command_says_one_line(make_records, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records({"train": 2, "val": 2}, size=32)
    assert main(["adapt", "--records", str(records), "--base", "a/b", "--output", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("meddap: ")]
    assert line == f"meddap: BadBase: {OFFLINE}"
