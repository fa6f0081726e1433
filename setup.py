"""What ``pyproject.toml`` cannot say: two trees of the checkout that join the wheel, and a README that reads anywhere.

``bundles/`` and ``configs/`` become ``meddap_monai/bundles`` and ``/configs``. Links and pictures of the README,
relative in the checkout, lead to the project's home page where it stands alone, as on PyPI.
"""

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_TREES = ("bundles", "configs")
_HERE = Path(__file__).parent


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


def readme() -> str:
    """Return the README with absolute links: pages below ``blob/main``, pictures below ``raw/main``."""
    home = tomllib.loads((_HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
    text = (_HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?://|#)", rf"\1{home}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?://|mailto:|#)", rf"\1{home}/blob/main/", text)


setup(
    cmdclass={"build_py": BuildWithTrees},
    long_description=readme(),
    long_description_content_type="text/markdown",
)
