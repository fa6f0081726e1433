"""What the MONAI bundles need beside their YAML: merged study sections, checked overrides, a linter, a process's GPU.

MONAI accepts a misspelled override in silence and lets a nested mapping of a second file replace the first file's
mapping; both cost a researcher days, so both are errors here.
"""

from meddap_monai.bundle.lint import lint, lint_bundle, lint_overlay
from meddap_monai.bundle.overlays import study_sections
from meddap_monai.bundle.overrides import CheckedWorkflow, check_overrides
from meddap_monai.bundle.processes import take_gpu

__all__ = ["CheckedWorkflow", "check_overrides", "lint", "lint_bundle", "lint_overlay", "study_sections", "take_gpu"]
