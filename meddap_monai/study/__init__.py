"""The only room that knows all stages: a folder of ultrasound in, a judged classifier out.

One draw of the small data set per seed; per draw an adapter, generated images, the filter, the mixtures and one
classifier per arm; at the end one evaluation over all seeds on the own test set and on the unseen set. Every stage has
its own folder and decides itself whether it is done, so a killed study goes on where it stopped.
"""

from meddap_monai.study.config import DrawConfig, StudyConfig, override, read_study
from meddap_monai.study.run import draw, run_study
from meddap_monai.study.stages import run_stage

__all__ = ["DrawConfig", "StudyConfig", "draw", "override", "read_study", "run_stage", "run_study"]
