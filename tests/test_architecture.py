"""The arrows of docs/architecture.md: who may import whom, no circle, and that importing the package stays cheap."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_type_hints

import pytest

import meddap_monai

ROOT = Path(meddap_monai.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LAYERS = [
    {"errors"},
    {"store"},
    {"core"},
    {"engines"},
    {"augmentation", "encoders", "images", "phantom", "statistics", "training"},
    {"classifier", "diffusion", "reading_form"},
    {"bundle", "evaluation", "selection", "transforms"},
    {"study"},
    {"cli"},
]
LEVEL = {name: number for number, names in enumerate(LAYERS) for name in names}
LATE = {
    "cli/": "a command loads the rooms that it runs, so that --help and a misspelled word are answered at once",
    "transforms/online.py": "a data-loading worker that reads a bank of images does not load a base",
    "diffusion/adapting/methods/": "the settings of a method are checked before what trains it is loaded",
    "selection/filtering/rules.py": "the thresholds of the rules are checked before a network is loaded",
    "study/stages.py": "a stage that lacks an input says so before the stage is loaded",
    "classifier/stage.py": "Matplotlib and TensorBoard are loaded when pictures are drawn",
    "evaluation/report/content.py": "a report without maps of the features does not load what draws them",
}
"""Modules, or folders of them, that may import the package inside a function -> why; no circle is excused by it."""

FORMER = {
    "images.plain": "images.reading.plain",
    "diffusion.base": "diffusion.bases.base",
    "diffusion.adapter": "diffusion.adapters.adapter",
}
"""Modules that scripts of others import, kept until 1.0 -> where what they pass on lies now."""


def _name(module: Path) -> str:
    """Dotted name of a module below the package; that of a package for its ``__init__``."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


NAMES = {_name(module) for module in MODULES}


def _imported(tree: ast.AST) -> set[str]:
    """Modules of the package, as `_name` gives them, that are imported anywhere in a piece of code."""
    found = set()
    for node in ast.walk(tree):
        assert not getattr(node, "level", 0), "a relative import escapes these tests; name the module in full"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "meddap_monai":
            package = (node.module or "").partition(".")[2]
            whole = [f"{package}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in NAMES else package for name in whole}
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "meddap_monai"}
    return found


def find_circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return one circle of arrows, its first name again at the end, or nothing."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for other in sorted(arrows.get(path[-1], ())):
            if other in path:
                return [*path[path.index(other) :], other]
            if other not in done and (circle := follow([*path, other])):
                return circle
        done.add(path[-1])
        return []

    return next((circle for name in sorted(arrows) if name not in done and (circle := follow([name]))), [])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(module: Path) -> None:
    room = _name(module).split(".")[0]
    if not room:
        return
    assert room in LEVEL, f"{room} has no place in docs/architecture.md; give it one there and here"
    for other in {name.split(".")[0] for name in _imported(ast.parse(module.read_text()))} - {room, ""}:
        assert LEVEL[other] < LEVEL[room], (
            f"{module.relative_to(ROOT)} imports {other}, which does not lie below {room}"
        )


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Counted too: imports inside functions and for types only; but for the package's face, which loads no room."""
    arrows = {name: _imported(ast.parse(path.read_text())) - {name} for path in MODULES if (name := _name(path))}
    assert find_circle(arrows) == []


def test_no_folder_imports_itself_by_way_of_others() -> None:
    """The folders inside of rooms, such as those of diffusion."""
    arrows: dict[str, set[str]] = {}
    for module in MODULES:
        if (folder := _folder(_name(module))) is not None:
            others = {_folder(name) for name in _imported(ast.parse(module.read_text()))} - {folder, None}
            arrows.setdefault(folder, set()).update(name for name in others if name)
    assert len(arrows) > 10
    assert find_circle(arrows) == []


def _folder(name: str) -> str | None:
    """The folder inside of a room that a module lies in, if any."""
    folder = ".".join(name.split(".")[:2])
    return folder if (ROOT / folder.replace(".", "/")).is_dir() and "." in folder else None


def test_a_circle_would_be_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}) == ["a", "b", "d", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_late_imports_are_few_and_each_has_its_reason() -> None:
    late = {
        module.relative_to(ROOT).as_posix()
        for module in MODULES
        for part in ast.walk(ast.parse(module.read_text()))
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and _imported(part)
    }
    allowed = {name: {file for file in late if file.startswith(name)} for name in LATE}
    assert late - set().union(*allowed.values()) == set()
    assert all(allowed.values()), "an entry of LATE is no longer needed"


@pytest.mark.parametrize(("former", "now"), FORMER.items())
def test_a_former_name_only_passes_on_what_lies_elsewhere(former: str, now: str) -> None:
    old, new = (importlib.import_module(f"meddap_monai.{name}") for name in (former, now))
    assert old.__all__
    assert all(getattr(old, name) is getattr(new, name) for name in old.__all__)
    page = Path(meddap_monai.__file__).parent.parent / "docs/architecture.md"
    assert f"{former.replace('.', '/')}.py" in page.read_text()


def test_nothing_in_the_package_uses_a_former_name() -> None:
    using = [module for module in MODULES if FORMER.keys() & _imported(ast.parse(module.read_text()))]
    assert using == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_have_a_name_that_says_what_is_inside(module: Path) -> None:
    assert module.stem not in {"utils", "helpers", "common", "misc", "manager", "base_class"}


def test_the_store_needs_the_standard_library_only() -> None:
    names = {
        name
        for module in (ROOT / "store").glob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names | {"meddap_monai"}}
    assert outside == set()


def test_importing_the_package_loads_nothing_heavy_and_no_room() -> None:
    code = (
        "import sys, meddap_monai; "
        "heavy = {'torch', 'monai', 'diffusers', 'peft', 'highdicom', 'transformers'} & set(sys.modules); "
        "print(sorted(heavy), [name for name in sys.modules if name.startswith('meddap_monai.')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[] []"


STAGES = ("index", "cluster", "pretrain", "adapt", "generate", "select", "mix", "classify", "evaluate")


def test_every_stage_and_its_configuration_is_a_public_name() -> None:
    for stage in STAGES:
        function, config = getattr(meddap_monai, stage), getattr(meddap_monai, f"{stage.capitalize()}Config")
        assert (function.__name__, config.__name__) == (stage, f"{stage.capitalize()}Config")
        assert {stage, config.__name__} <= set(meddap_monai.__all__)
        assert get_type_hints(function)["config"] is config


def test_every_public_name_is_there_under_its_own_name_and_listed() -> None:
    assert set(meddap_monai.__all__) <= set(dir(meddap_monai))
    for name in set(meddap_monai.__all__) - {"__version__"}:
        assert getattr(meddap_monai, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'stud'"):
        meddap_monai.stud  # noqa: B018


def test_a_public_name_hides_no_folder() -> None:
    assert {path.name for path in ROOT.iterdir()} & set(meddap_monai.__all__) == set()
    assert importlib.import_module("meddap_monai.study").run_study is meddap_monai.run_study


def test_editors_see_the_public_names() -> None:
    """What stands under ``if TYPE_CHECKING`` is what is found at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert getattr(meddap_monai, alias.name) is getattr(importlib.import_module(line.module or ""), alias.name)
    names = {alias.asname for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert names | {"__version__"} == set(meddap_monai.__all__)


def test_each_name_is_imported_from_the_module_that_defines_it() -> None:
    """So that a name has one place; a folder's ``__init__`` may pass names on."""
    defined = {_name(path): _defined(ast.parse(path.read_text())) for path in MODULES if path.name != "__init__.py"}
    elsewhere = [
        f"{_name(path)}: {node.module}.{alias.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name not in defined.get((node.module or "").partition(".")[2], {alias.name})
    ]
    assert elsewhere == []


def _defined(tree: ast.Module) -> set[str]:
    """Names that the body of a module gives a value, imports left out."""
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored = (part for node in tree.body for part in ast.walk(node) if isinstance(part, ast.Name))
    return names | {part.id for part in stored if isinstance(part.ctx, ast.Store)}


FORBIDDEN_CALLS = {"eval", "exec", "extractall", "system", "popen"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_executable_is_read_from_files(module: Path) -> None:
    """R22: no pickle, eval, exec, unsafe torch.load, shell=True, yaml.load, extractall."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "marshal", "shelve"}, f"{module}:{node.lineno} imports {names}"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        plain_eval = name == "eval" and isinstance(node.func, ast.Attribute)
        assert name not in FORBIDDEN_CALLS or plain_eval, f"{module}:{node.lineno} calls {name}"
        assert not (owner == "torch" and name == "load" and keywords.get("weights_only") is not True), module
        assert not (owner == "yaml" and name == "load"), module
        assert keywords.get("shell") is not True, module
