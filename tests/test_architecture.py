"""The arrows of docs/architecture.md: who may import whom, and that importing the package stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import meddap_monai

ROOT = Path(meddap_monai.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LAYERS = [
    {"errors"},
    {"store"},
    {"core"},
    {"images", "phantom", "statistics", "training"},
    {"classifier", "diffusion", "reading_form"},
    {"bundle", "evaluation", "selection", "transforms"},
    {"study"},
    {"cli"},
]
LEVEL = {name: number for number, names in enumerate(LAYERS) for name in names}


def _room(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def _rooms_imported(module: Path) -> set[str]:
    """Rooms of the package that a module imports, late and for types included."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "meddap_monai":
            tail = (node.module or "").split(".")[1:]
            found |= {tail[0]} if tail else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("meddap_monai.")}
    return found & set(LEVEL)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(module: Path) -> None:
    room = _room(module)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no place in docs/architecture.md; give it one there and here"
    for other in _rooms_imported(module) - {room}:
        assert LEVEL[other] < LEVEL[room], (
            f"{module.relative_to(ROOT)} imports {other}, which does not lie below {room}"
        )


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


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, meddap_monai; "
        "print(sorted({'torch', 'monai', 'diffusers', 'peft', 'highdicom', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


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
