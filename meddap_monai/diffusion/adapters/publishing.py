"""Write an adapter as a folder for the Hugging Face hub: weights that other tools load, and a model card.

Nothing is uploaded. What would say where this machine keeps its files is left out, and so are the fingerprints of
training images (coarse pictures of them) unless they are asked for.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meddap_monai import store
from meddap_monai.diffusion.adapters.file import CARD, WEIGHTS, adapter_path, read_card, write_tensors
from meddap_monai.diffusion.adapters.formats import to_kohya
from meddap_monai.diffusion.adapters.tools import read_any
from meddap_monai.diffusion.bases.base import EMBEDDED
from meddap_monai.errors import BadAdapter, ConfigurationError, ForeignOutput, StageError
from meddap_monai.images import provenance

DIFFUSERS = "pytorch_lora_weights.safetensors"
"""The name under which diffusers looks for an adapter in a folder."""
KOHYA = "{name}_kohya.safetensors"
_NOT_MEASURED = (
    "Not measured: no folder of `meddap select` was given. Measure before you publish an adapter of patients."
)


@dataclass(frozen=True)
class Publication:
    """What only the author of an adapter knows.

    Attributes:
        licence: of the weights, as an SPDX identifier or "other".
        data: the training images in a sentence or two: which, whose, under which licence and ethics.
        base_model: the hub's name of the base, as in "owner/name"; none for the embedded base.
        selection: folder of the stage `select` over images that this adapter made; its copies become the card's.
        fingerprints: whether coarse pictures of the training images (16 x 16 cells) go along.
    """

    licence: str
    data: str
    base_model: str | None = None
    selection: Path | None = None
    fingerprints: bool = False


def publish_adapter(
    path: Path | str, output: Path | str, publication: Publication, base: str | Path | None = None
) -> Path:
    """Write the folder; return it.

    Args:
        path: own adapter folder, trained on images (not new words, not a whole base).
        output: the new folder; its name becomes that of the file for ComfyUI, AUTOMATIC1111 and kohya-ss.
        publication: what the card has to say.
        base: name or folder of the base; the adapter's own when not given.

    Raises:
        BadAdapter: a foreign file, or an adapter of new words.
        ConfigurationError: a local base without a name for others, or an empty text.
        ForeignOutput: `output` exists.
        StageError: the selection judged no image of this adapter, or looked for no copies.
    """
    path, output = adapter_path(path), Path(output)
    if output.exists():
        raise ForeignOutput(f"{output}: exists already; choose another folder")
    if not (path / CARD).is_file():
        raise BadAdapter(
            f"{path}: holds no {CARD}, expected the folder of an own adapter; a foreign one is not ours to publish"
        )
    card = read_card(path)
    if card["rank"] is None:
        raise BadAdapter(f"{path}: holds new words and no weights, expected an adapter of the UNet")
    known = _public(card, publication)
    copies = _copies(publication.selection, card["weights_sha256"]) if publication.selection else None
    weights, _, _ = read_any(path, base)
    with store.atomic_folder(output) as folder:
        for name in (WEIGHTS, DIFFUSERS):
            shutil.copyfile(path / WEIGHTS, folder / name)
        write_tensors(folder / KOHYA.format(name=output.name), *to_kohya(weights))
        store.write_json(folder / CARD, known)
        _write_seen(path, folder, publication.fingerprints)
        pictures = _copy_pictures(path, folder)
        store.write_atomic(folder / "README.md", card_text(known, publication, copies, output.name, pictures))
    return output


def _public(card: dict[str, Any], publication: Publication) -> dict[str, Any]:
    """Return the adapter's card without places of this machine."""
    for name in ("licence", "data"):
        if not getattr(publication, name).strip():
            raise ConfigurationError(f"--{name}: is empty; the model card needs it")
    if publication.base_model is None and card["base"] != EMBEDDED:
        raise ConfigurationError(
            f"--base-model: missing, and {card['base']!r} may be a place of this machine; say what the base is called "
            "for others, as in CompVis/stable-diffusion-v1-4"
        )
    return card | {"base": publication.base_model or EMBEDDED, "prompts": Path(card["prompts"]).name}


def _copies(selection: Path, digest: str) -> dict[str, Any]:
    """Return what `select` found out about copies among images of this adapter."""
    document = store.read_json(selection / "selection.json", StageError, "give a folder of meddap select")
    found = document.get("copies")
    if found is None:
        raise StageError(f"{selection}: looked for no copies; run select with select#copies#action: report or drop")
    made = (selection / "scored.jsonl").read_text(encoding="utf-8")
    if digest not in made:
        raise StageError(
            f"{selection}: judged no image of this adapter (weights {digest[:12]}...); give its own selection"
        )
    return dict(found)


def _write_seen(path: Path, folder: Path, fingerprints: bool) -> None:
    """Take over which images were trained on: their hashes, and their fingerprints where asked for."""
    saw = provenance.training_images(path)
    kept = saw if fingerprints else dict.fromkeys(saw, "")
    store.write_atomic(folder / provenance.NAME, "".join(provenance.line(*one) + "\n" for one in sorted(kept.items())))


def _copy_pictures(path: Path, folder: Path) -> list[str]:
    """Copy the sample pictures, which are synthetic and marked; return their names."""
    pictures = sorted((path / "samples").glob("*.png"))
    for picture in pictures:
        (folder / "samples").mkdir(exist_ok=True)
        shutil.copyfile(store.regular_file(picture), folder / "samples" / picture.name)
    return [f"samples/{picture.name}" for picture in pictures]


def card_text(
    card: dict[str, Any], publication: Publication, copies: dict[str, Any] | None, name: str, pictures: list[str]
) -> str:
    """Return the hub's ``README.md``: the header that the hub reads, then what a person must know before use."""
    front: dict[str, Any] = {
        "license": publication.licence,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
    }
    front |= {"base_model": publication.base_model} if publication.base_model else {}
    front |= {"tags": ["lora", "diffusers", "ultrasound", "medical", "synthetic-data", "meddap-monai"]}
    prompts = "\n".join(f"- {label}: `{prompt}`" for label, prompt in card.get("class_prompts", {}).items())
    shown = next((f"\n![synthetic samples]({one})\n" for one in pictures if one.endswith("all.png")), "")
    loss = "not measured" if card.get("validation_loss") is None else f"{card['validation_loss']:.4f}"
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {name}

A {card["method"]} adapter of rank {card["rank"]} ({card["parameters"]:,} parameters) that makes synthetic ultrasound of
the classes {", ".join(card["classes"])}. Made with meddap-monai.
{shown}
## Use
{_usage(card, name)}

### Prompts
{prompts}

## Intended use
Research: to enlarge training sets, judged on real images that neither this adapter nor the classifier has seen. Every
image made with it has to be called synthetic.

## Not for
Diagnosis, teaching of diagnosis, test sets, and passing images off as real. Other organs or scanners than those below
need a judgement of their own.

## Training data
{publication.data.strip()}

{card.get("images", "An unknown number of")} images.

## Training
{card.get("trained_steps", card["steps"])} steps of {card.get("batch", "?")} images at {card.get("resolution", "?")} px,
weights of step {card["steps"]}, validation loss {loss}, seed {card["seed"]}.

## Privacy
{_privacy(copies, publication.fingerprints)}

## Limits
It repeats the scanners, patients and habits of its training images, and draws what it never learnt with the same
confidence. It may help no classifier, or harm one.

## Licence
{publication.licence}. The base has a licence of its own, and so have the training images.
"""


def _usage(card: dict[str, Any], name: str) -> str:
    if card["base"] == EMBEDDED:
        opened = "from meddap_monai import load_base\n\npipeline = load_base('embedded')"
    else:
        opened = (
            "from diffusers import StableDiffusionPipeline\n\n"
            f"pipeline = StableDiffusionPipeline.from_pretrained({card['base']!r})"
        )
    prompt = next(iter(card.get("class_prompts", {}).values()), "")
    return (
        f"```python\n{opened}\npipeline.load_lora_weights({name!r})\nimage = pipeline({prompt!r}).images[0]\n```\n"
        f"`{DIFFUSERS}` is for diffusers, `{KOHYA.format(name=name)}` for ComfyUI, AUTOMATIC1111 and kohya-ss; the "
        "folder as a whole is for meddap-monai, which checks base and weights."
    )


def _privacy(copies: dict[str, Any] | None, fingerprints: bool) -> str:
    if copies is None:
        said = _NOT_MEASURED
    else:
        low, high = copies["interval"]
        said = (
            f"{copies['copies']} of {copies['of']} synthetic images ({copies['rate']:.1%}, 95 % interval {low:.1%} to "
            f"{high:.1%}) lie nearer to a training image than {1 - copies['real_images_flagged']:.1%} of the training "
            "images to another patient's."
        )
    along = "and coarse fingerprints " if fingerprints else ""
    return (
        f"{said} This finds near copies and proves nothing about what else was learned; there is no differential "
        f"privacy. `{provenance.NAME}` holds hashes {along}of the training images, so that nobody is judged on them "
        "unawares."
    )
