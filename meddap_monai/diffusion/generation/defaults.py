"""How images are drawn where the configuration does not say: as an adapter does, as a distilled base does, else usual.

An adapter of the method ``lcm`` says in its card how it is sampled (``sampling``). One that lies beside a base's
weights, in the folder ``distilled``, is taken without being asked for where it was made for the task.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from meddap_monai.diffusion.adapters.file import CARD, adapter_path, read_card
from meddap_monai.diffusion.bases.base import Base
from meddap_monai.diffusion.bases.schedulers import Sampling
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.errors import ConfigurationError

Adapters = tuple[Path | str, ...]
_SAID = ("scheduler", "steps", "guidance")


def settled(config: GenerateConfig, base: Base, adapters: Sequence[Path | str]) -> tuple[GenerateConfig, Adapters]:
    """Return the configuration with sampler, steps, guidance and `distilled` filled in, and all adapters.

    What is settled stays as it is when it is settled again.

    Raises:
        ConfigurationError: `distilled` is asked of a base that has no such adapter, or adapters say unlike things.
    """
    chosen = _fits(config, base, adapters) if config.distilled is None else config.distilled
    adapters = tuple(adapters)
    if chosen and base.distilled is None:
        raise ConfigurationError(
            f"generate#distilled: the base {base.name} has no distilled adapter; make one (docs/base.md) or leave "
            "the key out"
        )
    if chosen and base.distilled is not None and str(base.distilled) not in map(str, adapters):
        adapters = (base.distilled, *adapters)
    how = _told(config, adapters)
    filled = {name: getattr(how, name) for name in _SAID if getattr(config, name) is None}
    return dataclasses.replace(config, distilled=chosen, **filled), adapters


def weights_of(config: GenerateConfig, adapters: Sequence[Path | str]) -> tuple[float, ...]:
    """Return one weight per adapter of `settled`; the base's distilled one has 1.

    Raises:
        ConfigurationError: another number of weights than adapters.
    """
    own = len(adapters) - bool(config.distilled)
    given = config.adapter_weights or (1.0,) * own
    if len(given) != own:
        raise ConfigurationError(
            f"generate#adapter_weights: {len(given)} weights for {own} adapters, expected one for each"
        )
    return (1.0, *given) if config.distilled else given


def _fits(config: GenerateConfig, base: Base, adapters: Sequence[Path | str]) -> bool:
    """Tell whether the base's distilled adapter draws what is asked for: images from prompts, by the base alone."""
    said = any(getattr(config, name) is not None for name in (*_SAID, "plan", "classifier_guidance", "negative"))
    plain = config.mode == "text" and not config.unconditional and not adapters
    return base.distilled is not None and plain and not said


def _told(config: GenerateConfig, adapters: Sequence[Path | str]) -> Sampling:
    """Return how the adapters are sampled, unless the configuration names another sampler; else the usual way."""
    folders = [adapter_path(path) for path in adapters]
    cards = [read_card(folder) for folder in folders if (folder / CARD).is_file()]
    told = {Sampling(**card["sampling"]) for card in cards if card.get("sampling")}
    if len(told) > 1:
        raise ConfigurationError(
            f"generate: the adapters are sampled in unlike ways, {' and '.join(sorted(map(str, told)))}; "
            "expected one distilled adapter at a time"
        )
    how = next(iter(told), Sampling())
    return how if config.scheduler in (None, how.scheduler) else Sampling()
