"""The documentation site: its generated reference is complete, its pages read well, its notebooks become pages."""

import base64
import json
from pathlib import Path

import pytest
from shown import ROOT

import meddap_monai
from meddap_monai.cli.main import _parser
from meddap_monai.core.keys import keys_of
from meddap_monai.diffusion.adapting.methods.registry import METHODS
from meddap_monai.store import STAGES
from meddap_monai.study.config import StudyConfig, config_of
from meddap_monai.transforms import __all__ as transforms
from tools.site import notebooks, reference
from tools.site.dialect import python_markdown
from tools.site.sentences import long_sentences


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def ids(cls: type, place: str = "") -> list[str]:
    keys = list(keys_of(cls, place))
    return [one for key in keys for one in (ids(key.section, key.id) if key.section else [key.id])]


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_of_a_stage_names_every_key_with_its_default(pages: dict[str, str], stage: str) -> None:
    page = pages[f"reference/commands/{stage}.md"]
    for identifier in ids(config_of(stage)):
        _, found, entry = page.partition(f"#### `{identifier}` ")
        assert found and "; default: `" in entry.partition("\n#### ")[0], identifier


def test_keys_of_the_study_and_of_the_methods_are_named(pages: dict[str, str]) -> None:
    sections = (*STAGES, "unseen", "unlabelled")
    for identifier in ids(StudyConfig):
        if identifier.split("#")[0] not in sections:
            assert f"#### `{identifier}` " in pages["reference/commands/study.md"], identifier
    for cls in METHODS.values():
        for key in keys_of(cls, "adapt#method_settings"):
            assert f"#### `{key.id}` " in pages["reference/commands/adapt.md"], key.id


def test_every_command_has_a_page_with_every_option(pages: dict[str, str]) -> None:
    named = reference.commands(_parser())
    assert {*STAGES, "study", "demo", "infer", "config", "join", "adapter"} <= set(named)
    for name, command in named.items():
        page = pages[f"reference/commands/{name}.md"]
        assert f"[`meddap {name}`](commands/{name}.md)" in pages["reference/commands.md"]
        for parser in (command, *reference.commands(command).values()):
            for option in parser._option_string_actions:
                assert option in ("-h", "--help") or option in page, f"{name} {option}"


def test_every_schema_has_a_page_that_holds_it(pages: dict[str, str]) -> None:
    files = list((Path(meddap_monai.__file__).parent / "schemas").glob("*.json"))
    assert files
    for file in files:
        shown = pages[f"reference/formats/{file.stem}.md"].partition("```json\n")[2].partition("\n```")[0]
        assert json.loads(shown) == json.loads(file.read_text())
        assert f"(formats/{file.stem}.md)" in pages["reference/formats.md"]


def test_every_public_name_stands_in_the_page_of_its_room(pages: dict[str, str]) -> None:
    text = "\n".join(page for name, page in pages.items() if name.startswith("reference/python/"))
    for name in meddap_monai.__all__:
        assert name == "__version__" or f"`meddap_monai.{name}`" in text, name
    for name in transforms:
        assert f"`meddap_monai.transforms.{name}`" in text, name
    assert "::: meddap_monai.errors.StageError" in text


def test_a_notebook_becomes_a_page_with_what_it_said_and_drew() -> None:
    picture = base64.b64encode(b"picture").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[1mto"]},
        {"output_type": "stream", "name": "stderr", "text": "a bar"},
        {"output_type": "stream", "name": "stdout", "text": "ld\x1b[0m\n"},
        {"output_type": "stream", "name": "stderr", "text": ["a warning\n"]},
        {"output_type": "display_data", "data": {"image/png": picture, "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "What for."]},
        {"cell_type": "code", "source": ["%%bash\n", "meddap --version"], "outputs": outputs},
        {"cell_type": "code", "source": ["a = 1"], "outputs": []},
    ]
    page = notebooks.page(json.dumps({"cells": cells}), "one.ipynb")
    assert page.startswith("# Title\nWhat for.\n\n*This page is the notebook `examples/one.ipynb`")
    assert "```bash\nmeddap --version\n```" in page and "```python\na = 1\n```" in page
    assert "```text\ntold\n```" in page and f"base64,{picture}" in page
    assert "a bar" not in page and "a warning" not in page and "<Figure>" not in page


def test_the_notebooks_are_kept_without_outputs() -> None:
    for file in (ROOT / "examples").glob("*.ipynb"):
        for cell in json.loads(file.read_text())["cells"]:
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), (
                file.name
            )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Text\n- one\n  more\n- two", "Text\n\n- one\n    more\n- two"),
        ("1. one\n\n   below\n2. two", "1. one\n\n    below\n\n2. two"),
        ("- one\n\n  below\n- two", "- one\n\n    below\n\n- two"),
        ("- one\n  - inner\n\nText", "- one\n    - inner\n\nText"),
        ("- one\n\n```\n- code\n  - code\n```", "- one\n\n```\n- code\n  - code\n```"),
        ("1. one\n\n   ```\n   code\n     more\n   ```", "1. one\n\n    ```\n    code\n      more\n    ```"),
        ("Text\nmore - of it\n| a |", "Text\nmore - of it\n| a |"),
    ],
)
def test_lists_are_written_as_python_markdown_reads_them(written: str, read: str) -> None:
    assert python_markdown(written) == read


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("word " * 24 + "end.", 1),
        ("word " * 23 + "end.", 0),
        ("word " * 20 + "end. " + "Word " * 20 + "end.", 0),
        ("- " + "word " * 20 + "\n- " + "word " * 20, 0),
        ("```\n" + "word " * 30 + "\n```\n| " + "word " * 30 + "|", 0),
        ("word " * 20 + "[one two](a/b.md) `a b c d` (" + "word " * 9 + ") end.", 0),
    ],
)
def test_a_sentence_of_25_words_is_long(text: str, count: int) -> None:
    assert len(list(long_sentences(text))) == count


LONG = {
    "adapter_files": 2,
    "adapters": 6,
    "base": 26,
    "cli": 1,
    "extending": 1,
    "generation": 14,
    "performance": 17,
    "reliability": 1,
    "scale": 10,
    "selection": 2,
}
"""Page -> how many long sentences it may still have; these numbers only fall."""


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_pages_have_short_sentences(page: Path) -> None:
    found = list(long_sentences(page.read_text()))
    assert len(found) <= LONG.get(page.stem, 0), "\n".join(found)


@pytest.mark.parametrize(
    ("page", "written", "read"),
    [
        (
            "adapters.md",
            "[a](base.md#how) [b](https://monai.io) [c](#here)",
            "[a](base.md#how) [b](https://monai.io) [c](#here)",
        ),
        ("studies/meddap_busi.md", "[a](../heads.md)", "[a](../heads.md)"),
        ("bundles.md", "[a](../bundles/meddap_study/docs/README.md)", "[a](bundles/meddap_study.md)"),
        ("adapters.md", "[a](../SECURITY.md)", "[a](security.md)"),
        ("contributing.md", "[a](docs/dicom.md#regions) [b](SECURITY.md)", "[a](dicom.md#regions) [b](security.md)"),
        ("bundles/meddap_study.md", "[a](../../../docs/results.md)", "[a](../results.md)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page: str, written: str, read: str) -> None:
    hooks = pytest.importorskip("tools.site.hooks", reason="needs the extra `docs` (docs/install.md)")
    assert hooks.linked(written, page) == read


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ('<script src="https://cdn.example/a.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', 1),
        ('<img alt="a" src=https://img.example/a.png>', 1),
        ("<style>a { background: url(https://img.example/a.png) }</style>", 1),
        (
            '<a href="https://monai.io">MONAI</a><script src="../a.js"></script><img src="data:image/png;base64,//8=">',
            0,
        ),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(page: str, count: int) -> None:
    hooks = pytest.importorskip("tools.site.hooks", reason="needs the extra `docs` (docs/install.md)")
    assert len(hooks.outside(page)) == count
