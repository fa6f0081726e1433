"""The commands that the documentation shows, and what becomes of each in the tests."""

import re
from pathlib import Path

from meddap_monai.core.resources import find

ROOT = find("bundles").parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bundles").glob("*/docs/README.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)

NEEDED = {
    r"^pip (install|download)": "a package index or a folder of wheels",
    r"^make (demo|test|docs)$": "a fresh environment, which make fills from a package index",
    r"python -m tools\.corpus": "BUS-BRA and the fetal planes",
    r"--config configs/busi\.yaml|data/busi|augmentation_ablation": "BUSI and BUS-BRA",
    r"--config configs/fetal\.yaml": "the fetal planes of Spain and Africa",
    r"--config (meddap_busi|fulora_fetal|histodiffusion|ort_dreambooth)\b(?!.*smoke)": "the study's images, and a GPU",
    r"configs/meddap_busi\.yaml'\]": "the study's images, and a GPU",
}
"""What a command needs that is not at hand here; it is only parsed and resolved. Pattern -> what."""

ELSEWHERE = {
    r"^make wheel$": "tests/test_packaging.py",
    r"^meddap demo": "tests/test_packaging.py",
    r"^meddap study --config \w+ --config smoke": "tests/test_studies.py",
    r"runs/index source=data$|mine\.yaml --output runs/first|runs/answers\.csv": "tests/first_hour/test_quickstart.py",
    r"^meddap config": "tests/cli/test_keys.py",
    r"^meddap review": "tests/reading_form/test_review.py",
    r"^srun .*ray symmetric-run": "tests/engines/test_ray.py",
    r"^RAY_ADDRESS": "tests/engines/test_ray.py",
    r"engine#name=submitit": "tests/engines/test_submitit.py",
    r"^meddap fetch": "tests/images/test_fetching.py",
    r"^meddap grid": "tests/cli/test_evaluation.py",
    r"--config_file configs/train.yaml +--train#": "tests/transforms/test_diffusion.py",
    r"^python benchmarks/(adapter_training|base_quality|few_steps)\.py": "tests/test_benchmarks.py",
    r"^python -m tools\.distilled_adapter": "tests/tools/test_distilled_adapter.py",
}
"""Commands whose work another test does. Pattern -> that test. All others are run by `test_commands.py`."""


def blocks(page: Path, *marks: str) -> list[str]:
    """Return the fenced blocks of a page with one of these marks."""
    return [text for mark, text in FENCE.findall(page.read_text()) if mark in marks]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of every block of commands; a trailing backslash goes on in the next line."""
    found = []
    for page in PAGES:
        marks = ("bash", "") if "bundles" in page.relative_to(ROOT).parts else ("bash",)
        for block in blocks(page, *marks):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"(^|\s)#\s.*$", "", line).strip()
                if line:
                    found.append((page.relative_to(ROOT).as_posix(), line))
    return found


def why_not(line: str) -> str | None:
    """Return why `test_commands.py` does not run a command; None when it does."""
    return next(
        (why for table in (NEEDED, ELSEWHERE) for pattern, why in table.items() if re.search(pattern, line)), None
    )
