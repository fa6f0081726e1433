"""How strongly a file says it acts: peft's ``adapter_config.json``, diffusers' header, alpha tensors.

peft scales a change by ``alpha / r``, with rsLoRA by ``alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv 2312.03732); the
patterns give single modules another rank or alpha. What else a configuration says is refused unless it leaves the
weight change alone, so nothing is ignored that a newer peft may come to mean.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import regex
import torch

from meddap_monai.errors import BadAdapter

CONFIG = "adapter_config.json"
HEADER = "lora_adapter_metadata"
MAX_ALPHA = 1e6
MAX_RANK = 1 << 16
MAX_PATTERNS = 20_000
MAX_SECONDS = 10.0
"""For all patterns; one pattern for each of the 792 modules of Stable Diffusion XL takes 3 s on a busy CPU."""

_ALPHA = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_DEFAULT = 8
"""Rank and alpha of peft's configurations where they say none."""
_PLAIN_STARTS: tuple[Any, ...] = (None, True, False, "gaussian", "eva", "orthogonal", "lycoris")
_OF_THE_SCALE = {"r", "lora_alpha", "alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora", "peft_type"}
_NO_MATTER = _OF_THE_SCALE | {
    # who, where, which modules: the tensors say it
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "peft_version", "revision", "target_modules", "task_type",
    # training, or the shape of the factors
    "decompose_both", "decompose_factor", "eva_config", "loftq_config", "lora_dropout", "megatron_config",
    "megatron_core", "module_dropout", "qalora_group_size", "rank_dropout", "rank_dropout_scale", "runtime_config",
    "use_effective_conv2d",
    # peft switches it off for Linear and never reads it for a convolution
    "fan_in_fan_out",
}  # fmt: skip
_REASONS = {
    "bias": "biases were trained too",
    "lora_bias": "biases were trained too",
    "modules_to_save": "whole modules were trained too",
    "init_lora_weights": "its start changes the base's own weights, so the file alone is no change of the base",
    "layer_replication": "the base had its layers doubled",
    "trainable_token_indices": "rows of the vocabulary were trained too",
}


class AdapterScale:
    """What one configuration says about the scale of every module it is for.

    Attributes:
        kind: "LORA", "LOHA" or "LOKR".
        dora: the changes are weight-decomposed (DoRA).
    """

    def __init__(self, settings: Mapping[str, Any], where: str) -> None:
        """Check a configuration.

        Args:
            settings: fields of peft's ``LoraConfig``, ``LoHaConfig`` or ``LoKrConfig``.
            where: the file's name for messages.

        Raises:
            BadAdapter: of another kind, with a number out of range, or more than a scale.
        """
        self._where = where
        kind = settings.get("peft_type") or "LORA"
        if not isinstance(kind, str) or kind not in _ALPHA:
            raise BadAdapter(f"{where}: peft_type is {_short(kind)}, expected {', '.join(_ALPHA)}; load it with peft")
        _refuse_more(settings, where)
        self.kind = kind
        self.dora = bool(settings.get("use_dora"))
        self._rslora = bool(settings.get("use_rslora"))
        self._rank = rank_number(settings.get("r", _DEFAULT), "r", where)
        self._alpha = alpha_number(settings.get(_ALPHA[kind], _DEFAULT), _ALPHA[kind], where)
        self._ranks = self._patterns(settings, "rank_pattern", rank_number)
        self._alphas = self._patterns(settings, "alpha_pattern", alpha_number)
        self._seconds = MAX_SECONDS

    def find(self, names: Sequence[str]) -> tuple[float, int]:
        """Return (alpha, rank) of a module, for a scale of ``alpha / rank``; rsLoRA is inside alpha.

        Args:
            names: the spellings of the module's name.

        Raises:
            BadAdapter: the patterns take too long.
        """
        rank = self._first(self._ranks, names, self._rank)
        alpha = self._first(self._alphas, names, self._alpha)
        return (alpha * math.sqrt(rank) if self._rslora else alpha), rank

    def _patterns(self, settings: Mapping[str, Any], key: str, number: Any) -> list[tuple[Any, Any]]:
        given = settings.get(key) or {}
        if not isinstance(given, Mapping) or len(given) > MAX_PATTERNS:
            raise BadAdapter(f"{self._where}: {key} is {_short(given)}, expected at most {MAX_PATTERNS:,} patterns")
        try:  # as `peft.utils.other.get_pattern_key`
            compiled = [regex.compile(rf"(.*\.)?({pattern})$") for pattern in given]
        except (regex.error, RecursionError, OverflowError) as error:
            raise BadAdapter(f"{self._where}: {key} holds no regular expression ({_short(error)})") from error
        return [
            (pattern, number(value, key, self._where)) for pattern, value in zip(compiled, given.values(), strict=True)
        ]

    def _first(self, patterns: Sequence[tuple[Any, Any]], names: Sequence[str], default: Any) -> Any:
        """Return the value of the first pattern that fits, like peft."""
        start = time.monotonic()
        try:
            for pattern, value in patterns:
                if any(pattern.match(name, timeout=0.5) for name in names):
                    return value
                if time.monotonic() - start > self._seconds:
                    raise TimeoutError
        except TimeoutError as error:
            raise BadAdapter(f"{self._where}: its patterns take too long to match; write plain module names") from error
        finally:
            self._seconds -= time.monotonic() - start
        return default


def _refuse_more(settings: Mapping[str, Any], where: str) -> None:
    for key, value in settings.items():
        starts = key in ("init_lora_weights", "init_weights") and any(
            value is start or value == start for start in _PLAIN_STARTS
        )
        if key in _NO_MATTER or starts or not value or (key, value) == ("bias", "none"):
            continue
        reason = _REASONS.get(key, "it changes more than a scale says")
        raise BadAdapter(f"{where}: {key} is {_short(value)} ({reason}), which cannot be loaded; load it with peft")


def rank_number(value: Any, what: str, where: str) -> int:
    """Return a rank, 1 to `MAX_RANK`, or raise `BadAdapter`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANK:
        raise BadAdapter(f"{where}: {what} says {_short(value)}, expected a whole number from 1 to {MAX_RANK:,}")
    return value


def alpha_number(value: Any, what: str, where: str) -> float:
    """Return an alpha above 0 and up to `MAX_ALPHA`, or raise `BadAdapter`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_ALPHA:
        raise BadAdapter(f"{where}: {what} says {_short(value)}, expected a number above 0, at most {MAX_ALPHA:g}")
    return float(value)


def stated_alpha(
    adapter_scale: AdapterScale | None, tensor: torch.Tensor | None, names: Sequence[str], rank: int | None, where: str
) -> tuple[float, int]:
    """Return (alpha, rank) of a module, for a scale of ``alpha / rank``, from all that a file says.

    Args:
        adapter_scale: by a configuration.
        tensor: the module's own alpha.
        names: the spellings of the module's name.
        rank: of its tensors; None for a LoKr of two whole factors, whose scale is 1 in LyCORIS.
        where: file and module for messages.

    Raises:
        BadAdapter: a number out of range, another rank than the tensors have, or two scales.
    """
    found = [adapter_scale.find(names)] if adapter_scale else []
    if tensor is not None:
        if tensor.numel() != 1:
            raise BadAdapter(f"{where}: alpha has shape {tuple(tensor.shape)}, expected one number")
        alpha = alpha_number(float(tensor.flatten()[0]), "alpha", where)
        found.append((alpha, rank) if rank else (1.0, 1))
    if not found:
        return (float(rank), rank) if rank else (1.0, 1)
    if rank and found[0][1] != rank:
        raise BadAdapter(f"{where}: the configuration says rank {found[0][1]}, its tensors have rank {rank}")
    scales = [alpha / of for alpha, of in found]
    if not math.isclose(scales[0], scales[-1], rel_tol=1e-4):
        raise BadAdapter(f"{where}: the configuration says scale {scales[0]:g}, its alpha says {scales[-1]:g}")
    return found[0]


def scale_of(header: Mapping[str, str], config: Mapping[str, Any] | None, part: str, where: str) -> AdapterScale | None:
    """Return what the configuration beside a file, or else its header, says about a model part; None for nothing.

    Raises:
        BadAdapter: see `AdapterScale`; or both say something.
    """
    settings = header_settings(header, where)
    of_part = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
    if not of_part:  # `save_lora_adapter` of a single model part writes no prefix
        of_part = {key: value for key, value in settings.items() if "." not in key}
    if of_part and config is not None:
        raise BadAdapter(
            f"{where}: both its header and {CONFIG} beside it say a scale; keep the one that belongs to it"
        )
    if config is not None:
        return AdapterScale(config, f"{where} ({CONFIG})")
    return AdapterScale(of_part, f"{where} (header, {part})") if of_part else None


def header_settings(header: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return diffusers' settings in a header, "part.field" -> value; empty when there are none.

    Raises:
        BadAdapter: not a JSON object.
    """
    raw = header.get(HEADER)
    if raw is None:
        return {}
    try:
        settings = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"{where}: the header's {HEADER} is not JSON ({error}); get the file again") from error
    if not isinstance(settings, dict):
        raise BadAdapter(f"{where}: the header's {HEADER} is {type(settings).__name__}, expected a JSON object")
    return settings


def check_kohya(header: Mapping[str, str], where: str) -> None:
    """Raise `BadAdapter` when kohya-ss's header of a file without alpha tensors says that it was trained with a scale.

    kohya-ss itself reads tensors only and would take the scale for 1.
    """
    alpha, rank = (header.get(f"ss_network_{name}") for name in ("alpha", "dim"))
    try:
        plain = alpha is None or rank is None or float(alpha) == float(rank)
    except ValueError:
        plain = False
    if not plain:
        raise BadAdapter(
            f"{where}: trained with alpha {_short(alpha)} at rank {_short(rank)}, but its alpha tensors are lost"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
