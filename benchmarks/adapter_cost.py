"""Count the work and the memory of adapter training on the full-size architectures; nothing is run, nothing measured.

FLOPs come from torch's counter on the meta device (2 per multiply-add), forward and backward, latents cached.
Memory is weights + adapter with its AdamW state (fp32) + what autograd keeps for one image in 16 bit; attention maps
are left out because SDPA does not keep them. Time divides by a stated share of a GPU's dense 16-bit peak.

    python benchmarks/adapter_cost.py
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from meddap_monai.diffusion.adapters.targets import ATTENTION, TRANSFORMER
from meddap_monai.diffusion.adapting.trainable import train_low_rank
from meddap_monai.diffusion.bases.architectures import NAMES, Architecture, meta_architecture
from meddap_monai.diffusion.bases.conditioning import Conditioning

PEAK = {"T4": 65, "RTX 3090": 71, "A10": 125, "RTX 4090": 165, "A100": 312, "H100 / H200": 989}
"""Dense 16-bit tensor peak in TFLOP/s as the vendor states it (fp32 accumulation where stated apart)."""

CASES = [
    ("sd1", ATTENTION, 4, 224),
    ("sd1", ATTENTION, 4, 512),
    ("sd1", TRANSFORMER, 32, 512),
    ("sdxl", ATTENTION, 4, 512),
    ("sdxl", ATTENTION, 4, 1024),
]


def count(name: str, kind: str, rank: int, side: int, checkpointing: bool = False) -> dict[str, float]:
    """Return TFLOP per image, gigabytes of weights and gigabytes per image for one training step."""
    model: Architecture = meta_architecture(name)
    unet = model.unet.requires_grad_(False)
    with torch.device("meta"):
        trainable = train_low_rank({"unet": unet}, {"unet": kind}, rank, rank, {"unet": 1e-4}, seed=0)
        for key, parameter in unet.named_parameters():
            if ".lora_" not in key:
                parameter.data = parameter.data.bfloat16()
        for parameter in trainable.parameters.values():
            parameter.data = parameter.data.bfloat16()
        latents = torch.empty(1, 4, side // 8, side // 8, dtype=torch.bfloat16)
        width = unet.config.cross_attention_dim
        pooled = torch.empty(1, 1280, dtype=torch.bfloat16) if name == "sdxl" else None
        words = Conditioning(torch.empty(1, 77, width, dtype=torch.bfloat16), pooled)
        if checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        kept: dict[int, int] = {}
        own = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            few = tensor.ndim >= 3 and tensor.shape[-3] <= 40  # heads, where pictures have channels
            attention_map = few and tensor.shape[-1] in (tensor.shape[-2], 77)
            if tensor.untyped_storage()._cdata not in own and not attention_map:
                kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                arguments = words.arguments(latents, 8)
                time = torch.zeros(1, dtype=torch.long)
                answer = unet(latents, time, return_dict=False, **arguments)[0]
            answer.float().square().mean().backward()
    adapter = sum(parameter.numel() for parameter in trainable.parameters.values())
    weights = sum(p.numel() for key, p in unet.named_parameters() if ".lora_" not in key)
    return {
        "tflop": counter.get_total_flops() / 1e12,
        "weights": (2 * weights + 16 * adapter) / 1e9,
        "image": sum(kept.values()) / 1e9,
        "adapter": adapter,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.3, help="share of the peak that is assumed")
    options: Any = parser.parse_args()
    print("| base, targets, rank, px | adapter | TFLOP per image | weights | per image | the same, checkpointed |")
    print("| --- | --- | --- | --- | --- | --- |")
    costs = []
    for name, kind, rank, side in CASES:
        cost, saving = count(name, kind, rank, side), count(name, kind, rank, side, checkpointing=True)
        costs.append((f"{NAMES[name]}, {kind}, {rank}, {side}", cost["tflop"]))
        print(
            f"| {costs[-1][0]} | {cost['adapter']:,} | {cost['tflop']:.2f} | {cost['weights']:.1f} GB "
            f"| {cost['image']:.1f} GB | {saving['image']:.1f} GB, {saving['tflop']:.2f} TFLOP |"
        )
    print(f"\n| images/s at {options.share:.0%} of the peak | {' | '.join(PEAK)} |")
    print(f"| --- |{' --- |' * len(PEAK)}")
    for label, tflop in costs:
        print(f"| {label} | " + " | ".join(f"{options.share * peak / tflop:.0f}" for peak in PEAK.values()) + " |")


if __name__ == "__main__":
    main()
