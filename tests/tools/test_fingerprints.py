"""The tool that gives a shipped ``train_sha256.txt`` its fingerprints."""

from pathlib import Path

import pytest

from meddap_monai.core.records import pixel_hash
from meddap_monai.images.likeness import fingerprint, to_text
from meddap_monai.images.provenance import NAME, training_images
from meddap_monai.phantom.simulation import simulate_image
from tools.fingerprints import add_fingerprints


@pytest.mark.filterwarnings("ignore:.*holds no fingerprints")
def test_lines_whose_image_is_found_get_a_fingerprint(tmp_path: Path) -> None:
    pictures = [simulate_image("benign", seed) for seed in range(4)]
    digests = [pixel_hash(picture) for picture in pictures]
    (tmp_path / NAME).write_text("".join(f"{digest}\n" for digest in sorted(digests[:3])))
    assert add_fingerprints(tmp_path, iter([pictures[0], pictures[1], pictures[3]])) == (2, 3)
    looks = [to_text(fingerprint(picture)) for picture in pictures]
    assert training_images(tmp_path) == {digests[0]: looks[0], digests[1]: looks[1], digests[2]: ""}
    other = tmp_path / "adapter"
    other.mkdir()
    (other / NAME).write_text("".join(f"{digest}\n" for digest in sorted(digests[1:3])))
    assert add_fingerprints(other, iter([pictures[2]]), [tmp_path]) == (2, 2)
    assert training_images(other) == {digests[1]: looks[1], digests[2]: looks[2]}
