"""Which records a training learns from, and their latents."""

from collections.abc import Sequence

from meddap_monai import store
from meddap_monai.core.constraints import unknown
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.adapting.batches import Item
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.drawn_latents import DrawnLatents
from meddap_monai.diffusion.adapting.latent_cache import Framing, LatentCache, bucket_size, image_size
from meddap_monai.errors import ConfigurationError, RecordsError


def choose_records(everything: Sequence[Record], config: AdaptConfig) -> tuple[list[Record], list[Record]]:
    """Return (training, validation): real images of the wanted classes and ``meta`` values, by id.

    Raises:
        ConfigurationError: a wanted class does not occur.
        RecordsError: no training image is left.
    """
    real = sorted((record for record in everything if record["source"] == "real"), key=lambda record: record["id"])
    known = sorted({record["class_name"] for record in real})
    for name in config.classes:
        if name not in known:
            raise ConfigurationError(f"adapt#classes: {unknown('class', name, known)}")
    wanted = [
        record
        for record in real
        if (not config.classes or record["class_name"] in config.classes)
        and all(str((record.get("meta") or {}).get(key)) == value for key, value in config.only.items())
    ]
    training = [record for record in wanted if record["split"] == "train"]
    if not training:
        raise RecordsError(
            f"no real image in split train with classes {list(config.classes) or 'any'} and meta "
            f"{config.only or 'any'}, of {len(everything)} records; expected at least one"
        )
    taught = {record["class_name"] for record in training}
    held_out = [record for record in wanted if record["split"] == "val" and record["class_name"] in taught]
    held_out.sort(key=lambda record: derive_seed(config.seed, "adapt/held-out", record["id"]))
    return training, sorted(held_out[: config.validation_images], key=lambda record: record["id"])


def encode_items(
    cache: LatentCache | DrawnLatents,
    records: Sequence[Record],
    rows: dict[str, int],
    config: AdaptConfig,
    size: tuple[int, int],
    flag: store.InterruptFlag,
    augment: bool = True,
    prior: bool = False,
) -> list[Item]:
    """Encode records into training items.

    Args:
        cache: of the latents, encoded or drawn.
        records: with id, image, sha256, class_name.
        rows: record id -> row of its prompt.
        config: framing.
        size: (height, width) without buckets.
        flag: an arrived signal ends the encoding.
        augment: also mirrored and cut views.
        prior: they are class images.
    """
    items = []
    for record in progress(records, desc="encode", unit="image", disable=len(records) < 100):
        flag.raise_if_set("the images encoded so far are in the cache")
        height, width = size
        if config.buckets:
            height, width = bucket_size(*image_size(record), size[0], config.bucket_step)
        framing = Framing(
            height, width, config.fit, bool(config.flip) and augment, config.crops if augment else 1, config.seed
        )
        moments = cache.get(record, framing)
        cells = (moments.shape[-2], moments.shape[-1])
        drawn = cache.marks(record, framing, cells) if config.mask_marks and not prior else None
        items.append(Item(record["id"], moments, rows[record["id"]], prior, drawn))
    return items
