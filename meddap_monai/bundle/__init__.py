"""What the MONAI bundles need beside their YAML: checked overrides, a process's GPU.

MONAI accepts a misspelled override in silence, which costs a researcher days; so it is an error here.
"""

from meddap_monai.bundle.overrides import CheckedWorkflow, check_overrides
from meddap_monai.bundle.places import output_root, trained_base
from meddap_monai.core.devices import take_gpu

__all__ = ["CheckedWorkflow", "check_overrides", "output_root", "take_gpu", "trained_base"]
