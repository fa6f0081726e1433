"""R18: a loss that is not finite stops the training within one step and names step, rate and images."""

from pathlib import Path

import pytest
import torch
from adapter_material import quick

from meddap_monai.core.tensors import every_tensor
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.errors import NonFiniteLoss
from meddap_monai.training.checkpoint import NAME


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_r18_stops_within_one_step_and_the_checkpoint_is_finite(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    whole, steps = AdapterTrainer.predict, []

    def poisoned(self, noisy, times, rows):
        steps.append(self.state.iteration)
        answer = whole(self, noisy, times, rows)
        return answer + value if self.state.iteration == 5 else answer

    monkeypatch.setattr(AdapterTrainer, "predict", poisoned)
    named = r"at step 5, .*\(learning rate 0\.001, images train-\w+-\d+, train-\w+-\d+\)\."
    with pytest.raises(NonFiniteLoss, match=named):
        adapt(quick(steps=8, validation_every=0), tmp_path / "a", records=records, base=tiny_base)
    assert max(steps) == 5
    saved = torch.load(tmp_path / "a" / NAME, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in every_tensor(saved))
    monkeypatch.setattr(AdapterTrainer, "predict", whole)
    adapt(quick(steps=8, validation_every=0), tmp_path / "a", records=records, base=tiny_base)
