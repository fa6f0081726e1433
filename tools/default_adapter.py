"""The default adapter again, by one command: USLoRA for the demo's classes on simulated images of its own.

    python -m tools.default_adapter --output runs/default_adapter

96 training and 24 validation images, whose seeds neither the demo nor the embedded base uses.
"""

import argparse
from pathlib import Path

from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.bases.base import EMBEDDED
from tools.corpus import CorpusConfig, gather

IMAGES = CorpusConfig({}, simulated=40, first_seed=7_500_000)
TRAINING = AdaptConfig(steps=400, batch=8, learning_rate=1e-3, samples_per_class=3, device="cpu")


def train_default_adapter(
    output: Path, base: str | Path = EMBEDDED, images: CorpusConfig = IMAGES, training: AdaptConfig = TRAINING
) -> Path:
    """Simulate the images, train, and return the adapter's folder.

    Args:
        output: gets ``images`` and ``adapter``.
        base: what the adapter is for.
        images: how many and from which seeds.
        training: settings of ``adapt``.
    """
    from meddap_monai.diffusion.adapting.stage import adapt

    records = gather(images, output / "images")
    return adapt(training, output / "adapter", records=records, base=base)


def main() -> None:
    """Train it; a second call goes on where the first one stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=EMBEDDED, help="'embedded' or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/default_adapter"))
    given = parser.parse_args()
    print(train_default_adapter(given.output, given.base))


if __name__ == "__main__":
    main()
