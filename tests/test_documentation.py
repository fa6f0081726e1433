"""Every command that the documentation shows is parsed here as the program itself would parse it.

The convention: commands stand in fenced blocks marked ``bash`` (in a bundle's README also without a mark). A `meddap`
command must parse, and the configuration behind it must resolve to the last key; a `monai.bundle` command must name
files and ids that exist; a `make` target, an extra and an option of `torchrun` must exist. Blocks marked ``python``
must compile, and what they import from this package must be there. Nothing is started here: `test_commands.py` runs
the commands at small scale, and `shown.py` names those that it leaves out, with the reason or the test that runs them.
"""

import ast
import functools
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from shown import ELSEWHERE, FENCE, NEEDED, PAGES, ROOT, blocks, commands, why_not

from meddap_monai.bundle import check_overrides
from meddap_monai.bundle.overrides import _given, _names
from meddap_monai.cli.main import _parser
from meddap_monai.core.configuration import build
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import STAGES
from meddap_monai.study import read_study
from meddap_monai.study.config import config_of
from meddap_monai.study.sections import load_sections

FOREIGN = {
    "docs/transforms.md": "configs/train.yaml is a third party's bundle; tests/transforms/test_diffusion.py runs it",
}
"""Page -> why its `monai.bundle` commands with ``configs/train.yaml`` are not ours to resolve."""
TOOLS = ("tensorboard", "export", "cd", "apt-get", "python3", "jupyter")


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_shown_is_understood(page: str, line: str) -> None:
    check_command(shlex.split(line), page)


def test_commands_stand_in_marked_blocks() -> None:
    """An unmarked block of a page of ours holds no command, so none escapes these tests."""
    for page in PAGES:
        if "bundles" not in page.relative_to(ROOT).parts:
            for mark, text in FENCE.findall(page.read_text()):
                first = text.split(maxsplit=1)[0].rsplit("/", 1)[-1]
                program = first in ("meddap", "make", "pip", "torchrun", "srun", "sbatch", *TOOLS)
                assert mark or not (program or first.startswith("python")), f"{page.name}: {text.splitlines()[0]}"


def test_each_reason_not_to_run_a_command_is_used_and_each_test_named_exists() -> None:
    lines = [line for _, line in commands()]
    for pattern, why in {**NEEDED, **ELSEWHERE}.items():
        assert any(re.search(pattern, line) for line in lines), f"no command matches {pattern}"
        assert pattern in NEEDED or (ROOT / why).is_file(), why
    assert sum(why_not(line) is None for line in lines) > len(lines) / 2


def check_command(words: list[str], page: str) -> None:
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    name = words[0].rsplit("/", 1)[-1]
    if name == "make":
        check_make(words[1:])
    elif name in ("pip", "pip3"):
        check_pip(words[1:])
    elif name == "meddap":
        check_meddap(words[1:])
    elif name == "torchrun":
        check_torchrun(words[1:], page)
    elif name == "srun":
        start = next(i for i, word in enumerate(words) if word in ("torchrun", "env"))
        check_command(words[start + (words[start] == "env") :], page)
    elif name == "sbatch":
        check_command(shlex.split(words[words.index("--wrap") + 1]), page)
    elif name.startswith("python") and words[1:2] == ["-m"]:
        check_module(words[2], words[3:], page)
    elif name.startswith("python"):
        assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"
    else:
        assert name in TOOLS, f"{name}: no check knows this command"


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for word in words:
        assert "=" in word or word in targets, f"make has no target {word}"


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for listed in re.findall(r"\[([\w,]+)\]", word):
            assert set(listed.split(",")) <= set(extras), f"no extra {listed}"
        if word.endswith((".txt", ".toml")):
            assert (ROOT / word).is_file(), word


def check_meddap(words: list[str]) -> None:
    options = _parser().parse_args([word.replace("$SLURM_ARRAY_TASK_ID", "1") for word in words])
    if words[0] in STAGES:
        sections = load_sections([name for name in options.config if known(name)], options.overrides, words[0])
        keys = sections.get(words[0]) or {}
        build(config_of(words[0]), keys | {"source": "data"} if words[0] == "index" else keys, words[0])
    elif words[0] in ("study", "demo"):
        read_study(load_sections([name for name in options.config if known(name)], options.overrides))


def known(overlay: str) -> bool:
    """Tell whether an overlay is one of ours; a reader's own, such as mine.yaml, is his to write."""
    return Path(overlay).name not in ("mine.yaml", "mine")


def check_torchrun(words: list[str], page: str) -> None:
    from torch.distributed.run import get_args_parser

    start = words.index("-m")
    parsed = get_args_parser().parse_args([*words[:start], "-m", words[start + 1]])
    check_module(parsed.training_script, words[start + 2 :], page)


def check_module(module: str, words: list[str], page: str) -> None:
    if module == "meddap_monai.cli":
        check_meddap(words)
    elif module == "monai.bundle":
        check_bundle(words, page)
    elif module == "tools.corpus":
        assert {"--busbra", "--fetal", "--output"} <= set(words)
    elif module == "tools.distilled_adapter":
        assert {"--base", "--records", "--output"} <= set(words)
    elif module == "pytest":
        assert all((ROOT / word).exists() for word in words if word.startswith("tests"))
    else:
        assert module in ("pip", "venv"), f"python -m {module}: no check knows this"


def check_bundle(words: list[str], page: str) -> None:
    given = _given([word for word in words if not word.startswith("--args_file") and word != "arguments.yaml"])
    if page in FOREIGN and given.get("config_file") == "configs/train.yaml":
        return
    folder = (ROOT / page).parents[1] if page.startswith("bundles/") else ROOT
    if "config_file" not in given:
        return
    files = [folder / name for name in _names(given["config_file"])]
    for file in files:
        assert file.resolve().is_file(), f"{file} does not exist"
    if words[0] == "run":
        skipped = [word for number, word in enumerate(words) if number and words[number - 1] == "--config_file"]
        rest = [word for word in words[1:] if word != "--config_file" and word not in skipped]
        content = yaml.safe_load(files[0].read_text())
        checks = [step for step in content["initialize"] if isinstance(step, dict)]
        listed = str([str(file.resolve()) for file in files])
        check_overrides(["run", "--config_file", listed, *rest], checks[0].get("sections", []))


@pytest.mark.parametrize("line", ["meddap studdy", "make demoo", "pip install 'x[codec]'", "frobnicate --all"])
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit, ConfigurationError)):
        check_command(shlex.split(line), "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_shown_compiles_and_imports_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meddap_monai"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@functools.cache
def generated() -> set[str]:
    """Pages that the site makes when it is built, below ``docs``."""
    from tools.site import notebooks, reference

    return {*reference.pages(), *notebooks.pages(ROOT)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            there = (page.parent / target).resolve()
            made = there.is_relative_to(ROOT / "docs") and there.relative_to(ROOT / "docs").as_posix() in generated()
            assert there.exists() or made, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tests_named_in_the_documentation_exist(page: Path) -> None:
    for name in re.findall(r"`(tests/[\w/]+\.py)", page.read_text()):
        assert (ROOT / name).is_file(), name


def test_the_map_of_the_rooms_is_complete() -> None:
    (listed,) = [text for text in blocks(ROOT / "docs" / "architecture.md", "") if text.startswith("meddap_monai/")]
    inside = re.findall(r"^  (\S+(?:, \S+)*)  +\w", listed, flags=re.MULTILINE)
    rooms = {name.rstrip("/") for line in inside for name in line.split(", ")}
    there = {path.name for path in (ROOT / "meddap_monai").iterdir()}
    assert rooms - there == set()
    assert {name for name in there if "." not in name and not name.startswith("_")} <= rooms
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", listed, flags=re.MULTILINE))
