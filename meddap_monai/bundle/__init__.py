"""What the MONAI bundles need beside their YAML: merged study sections, a check of misspelled overrides, a linter.

MONAI accepts a misspelled override in silence and lets a nested mapping of a second file replace the first file's
mapping; both cost a researcher days, so both are errors here.
"""

from meddap_monai.bundle.lint import lint, lint_bundle, lint_overlay
from meddap_monai.bundle.overlays import study_sections
from meddap_monai.bundle.overrides import CheckedWorkflow, check_overrides

__all__ = ["CheckedWorkflow", "check_overrides", "lint", "lint_bundle", "lint_overlay", "study_sections"]
