"""Give the shipped ``train_sha256.txt`` files their fingerprints, from the images whose hashes stand in them.

    python -m tools.fingerprints meddap_monai/data/base --images BUSBRA FETAL --simulated 7000000:48
    python -m tools.fingerprints meddap_monai/data/adapter --from meddap_monai/data/base --simulated 7500000:40

Images are found by the hash of their pixels, so the folders may hold any others. Lines whose image is not found stay as
they are and are counted.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.core.records import pixel_hash
from meddap_monai.images.likeness import fingerprint, to_text
from meddap_monai.images.provenance import NAME, line, together, training_images
from meddap_monai.images.reading.opening import open_image
from meddap_monai.phantom.simulation import simulate_image

CLASSES = ("benign", "malignant", "normal")


def add_fingerprints(folder: Path, images: Iterator[np.ndarray], known: Sequence[Path] = ()) -> tuple[int, int]:
    """Write the fingerprints of `images` into a trained thing's ``train_sha256.txt``.

    Args:
        folder: of the trained thing.
        images: (H, W) or (H, W, 3) uint8, training images and any others.
        known: folders of trained things whose fingerprints are taken over.

    Returns:
        How many lines have a fingerprint now, and how many there are.
    """
    saw = training_images(folder)
    found = together(*map(training_images, known)) | {
        pixel_hash(pixels): to_text(fingerprint(pixels)) for pixels in images if pixel_hash(pixels) in saw
    }
    whole = {digest: found.get(digest, look) for digest, look in saw.items()}
    store.write_atomic(folder / NAME, "".join(f"{line(*item)}\n" for item in sorted(whole.items())))
    return sum(map(bool, whole.values())), len(whole)


def _pictures(folders: Sequence[Path], simulated: str) -> Iterator[np.ndarray]:
    for folder in folders:
        for path in sorted(folder.rglob("*.png")):
            yield np.asarray(open_image(path))
    if simulated:
        first, count = map(int, simulated.split(":"))
        for number in range(first, first + count):
            yield from (simulate_image(name, number, "own") for name in CLASSES)


def main() -> None:
    """Read the arguments, write the file, say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the base or adapter")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of PNG files")
    parser.add_argument("--simulated", default="", metavar="FIRST:COUNT", help="seeds of simulated images")
    parser.add_argument("--from", type=Path, nargs="*", default=[], dest="known", help="folders with fingerprints")
    given = parser.parse_args()
    done, total = add_fingerprints(given.folder, _pictures(given.images, given.simulated), given.known)
    print(f"{given.folder / NAME}: {done} of {total} images have fingerprints")


if __name__ == "__main__":
    main()
