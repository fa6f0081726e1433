"""Puts the checkout's ``bundles/`` and ``configs/`` into the wheel, as ``meddap_monai/bundles`` and ``/configs``.

Everything else about the package stands in ``pyproject.toml``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_TREES = ("bundles", "configs")


class BuildWithTrees(build_py):
    """Build the package, then copy the two trees beside its modules."""

    def run(self) -> None:
        """Build, then copy unless the install only points at the checkout."""
        super().run()
        if self.editable_mode:
            return
        for tree in _TREES:
            target = Path(self.build_lib) / "meddap_monai" / tree
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(tree, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "runs", "eval"))


setup(cmdclass={"build_py": BuildWithTrees})
