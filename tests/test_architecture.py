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
    {"errors", "seeds"},
    {"store", "configuration", "resources", "statistics"},
    {"contract"},
    {"records", "tensors", "ids"},
    {"provenance", "seeded"},
    {"phantom_tissue", "phantom_scanner"},
    {"phantom"},
    {"images"},
    {"transforms"},
    {"diffusion", "classifier"},
    {"selection"},
    {"evaluation"},
    {"report"},
    {"bundle"},
    {"study"},
    {"cli"},
    {"demo"},
]
LEVEL = {name: number for number, names in enumerate(LAYERS) for name in names}
LATE = {("transforms", "diffusion"), ("cli", "demo"), ("cli", "selection")}
"""Arrows that go up, allowed inside a function only: the import happens when the feature is used."""


def _room(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(module: Path) -> list[tuple[str, bool]]:
    """Rooms of the package that a module imports, and whether at its top."""
    tree = ast.parse(module.read_text())
    inside = {
        id(node) for part in ast.walk(tree) if isinstance(part, (ast.FunctionDef, ast.If)) for node in ast.walk(part)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meddap_monai"):
            tail = (node.module or "").split(".")[1:]
            names = [tail[0]] if tail else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".")[1] for a in node.names if a.name.startswith("meddap_monai.")]
        found += [(name, id(node) not in inside) for name in names if name in LEVEL]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(module: Path) -> None:
    room = _room(module)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no place in docs/architecture.md; give it one there and here"
    for other, at_top in _imports(module):
        fine = other == room or LEVEL[other] < LEVEL[room] or (not at_top and (room, other) in LATE)
        assert fine, f"{module.relative_to(ROOT)} imports {other}, which lies above {room}"


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


PARSERS = {
    "yaml.SafeLoader": {"ids.py"},
    "yaml.safe_load": {"diffusion/prompts.py"},
    "csv.writer": {"store/tables.py"},
    "jit.load": set(),
}
"""Call -> the only modules that may make it: one grammar, one safe writer, nothing that is a program."""
TEXT_CALLS = ("open", "fdopen", "read_text", "write_text")
OTHER_CALLS = ("os.open", "Image.open", "store.read_text", "read_text")
"""Calls of these names that open no text, or are this package's own."""


def _calls(module: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a module with its name and, where there is one, the name before the dot."""
    found = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append((node.func.id, node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "") or getattr(node.func.value, "attr", "")
            found.append((f"{owner}.{node.func.attr}", node))
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_name_their_encoding(module: Path) -> None:
    """A locale that is not UTF-8 must not garble a class name."""
    for name, node in _calls(module):
        if name.rpartition(".")[2] in TEXT_CALLS and name not in OTHER_CALLS:
            given = [item.value for item in node.args if isinstance(item, ast.Constant)]
            binary = any(mode in given for mode in ("rb", "wb", "xb", "ab", "r+b"))
            assert binary or any(word.arg == "encoding" for word in node.keywords), f"{module}:{node.lineno} {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_formats_have_one_parser(module: Path) -> None:
    for name, node in _calls(module):
        assert module.relative_to(ROOT).as_posix() in PARSERS.get(name, {module.relative_to(ROOT).as_posix()}), (
            f"{module}:{node.lineno} calls {name}"
        )
