"""A linter for bundles and overlays: a configuration is code, so what it may say is an allow-list (R22)."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meddap_monai.core.ids import find_code, leaves, read_yaml, split

EXPRESSIONS = (
    r"\$@[\w#]+( is None| is not None)?",
    r"\$not @[\w#]+",
    r"\$torch\.device\(('cuda(:0)?' if torch\.cuda\.is_available\(\) else )?'(cpu|cuda(:0)?)'\)",
    r"\$torch\.device\('cuda:' \+ os\.environ\['LOCAL_RANK'\]\)",
    r"\$(str\()?@[\w#]+\)? ?\+ ?'[\w./ -]*'",
    r"\$import \w+(\.\w+)*( as \w+)?",
    r"\$from \w+(\.\w+)* import \w+( as \w+)?",
    r"\$@[\w#]+\.(run|eval|parameters|state_dict)\(\)",
    r"\$@[\w#]+\.to\(@\w+\)",
    r"\$@[\w#]+( \+ @[\w#]+)+",
    r"\$monai\.utils\.set_determinism\(seed=(\d+|@\w+)\)",
    r"\$(monai\.handlers\.)?from_engine\(\[?'\w+'(, ?'\w+')*\]?(, first=True)?\)",
    r"\$dist\.(is_initialized|init_process_group|destroy_process_group|get_rank|get_world_size)\([\w@='\" ]*\)",
)
"""The only shapes a ``$`` expression of a bundle may have; everything else belongs into the package."""

_ROOMS = ("meddap_monai", "monai", "torch", "ignite")
_FILES = ("LICENSE", "configs/metadata.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt")
_META = (
    "schema",
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)


def lint(file: Path | str) -> list[str]:
    """Return what is wrong with a bundle's YAML, one sentence per finding.

    Checked: ``$`` expressions against `EXPRESSIONS`, where ``_target_`` comes from, macros that reach into other files,
    references to ids that are not there, and null, below which nothing can be set.
    """
    config = read_yaml(file)
    roots = {split(key)[0] for key in config}
    findings = []
    for identifier, value in leaves(config):
        if isinstance(value, str):
            findings += [f"{file}: {identifier}: {text}" for text in _judge(identifier, value, roots, file)]
        if value is None:
            findings.append(f"{file}: {identifier}: is null, and MONAI sets no id below null; ship an empty mapping")
    return findings


def _judge(identifier: str, value: str, roots: set[str], file: Path | str) -> Iterable[str]:
    if value.startswith("$") and not any(re.fullmatch(pattern, value) for pattern in EXPRESSIONS):
        yield f"the expression {value!r} is not on the allow-list; move it into the package"
    if value.startswith("%") and re.search(r"\.(ya?ml|json)", value):
        yield f"the macro {value!r} reads another file"
    if identifier.split("#")[-1] == "_target_":
        room, dot, _ = value.partition(".")
        if dot and room not in _ROOMS:
            yield f"{value!r} is not from {', '.join(_ROOMS)}"
        if not dot and not re.fullmatch(r"[A-Z]\w+", value):
            yield f"{value!r} is neither a dotted path nor the name of a MONAI class"
    if value.startswith(("@", "$", "%")) and Path(file).name == "train.yaml":
        for root in re.findall(r"[@%]([A-Za-z_]\w*)", value):
            if root not in roots:
                yield f"refers to {root!r}, which the file does not have"


def lint_overlay(file: Path | str, known: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an overlay over the study bundle: it holds data, under full ids, and nothing else.

    Args:
        file: YAML file.
        known: configuration that it goes over; its root ids are the valid ones.
    """
    config = read_yaml(file)
    findings = [f"{file}: {key}: no such section" for key in config if split(key)[0] not in known]
    findings += [f"{file}: {key}: MONAI's merge mark; name the full ids" for key in config if key.startswith("+")]
    for identifier, text in find_code(config):
        got, kind = ("", "component") if text is None else (f"{text!r}; ", "expression or reference")
        findings.append(f"{file}: {identifier}: {got}an overlay holds data, no {kind}")
    return findings


def lint_bundle(folder: Path | str) -> list[str]:
    """Return what a bundle lacks for the model zoo: files, fields of ``metadata.json``, and `lint` of each YAML."""
    folder = Path(folder)
    findings = [f"{folder}: {name} is missing" for name in _FILES if not (folder / name).is_file()]
    meta_file = folder / "configs" / "metadata.json"
    if meta_file.is_file():
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        findings += [f"{meta_file}: {key} is missing" for key in _META if key not in meta]
        if meta.get("version") not in meta.get("changelog", {}):
            findings.append(f"{meta_file}: the changelog does not have version {meta.get('version')}")
        if "meddap-monai" not in meta.get("required_packages_version", {}):
            findings.append(f"{meta_file}: required_packages_version does not name meddap-monai")
    for file in sorted((folder / "configs").glob("*.yaml")):
        findings += lint(file)
    return findings
