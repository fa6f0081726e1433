"""The methods by name: `adapt#method` takes one of these."""

from meddap_monai.diffusion.adapting.methods.dreambooth import DreamBooth
from meddap_monai.diffusion.adapting.methods.fulora import FULoRA
from meddap_monai.diffusion.adapting.methods.inversion import TextualInversion
from meddap_monai.diffusion.adapting.methods.lcm import LatentConsistency
from meddap_monai.diffusion.adapting.methods.method import Method
from meddap_monai.diffusion.adapting.methods.uslora import USLoRA

METHODS: dict[str, type[Method]] = {
    "uslora": USLoRA,
    "fulora": FULoRA,
    "dreambooth": DreamBooth,
    "textual_inversion": TextualInversion,
    "lcm": LatentConsistency,
}
