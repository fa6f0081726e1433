"""The keys of the commands, for people: ``meddap STAGE --help`` and ``meddap config``; both are read off the fields."""

import argparse
import dataclasses
import shlex
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from meddap_monai.core.keys import Key, keys_of, one_line
from meddap_monai.store import STAGES

_TRAINING = """accumulate augmentation augmentation_of balance_classes batch class_weights ema focal_gamma grad_clip
label_smoothing learning_rate loss mixup optimizer real_loss_weight real_weight schedule snr_gamma steps
synthetic_loss_weight synthetic_weight text_learning_rate warmup weight_decay"""
_VALIDATION = "checkpoint_every keep patience validation_every validation_images validation_times"
_SHOWN = "command log_every pictures pictures_every question sample_steps samples_per_class title"
_MACHINE = """cache compile device gradient_checkpointing key_file memory precision processes seed shard_size threads
timeout workers"""
_GROUPS = {
    "training": _TRAINING.split(),
    "validation and checkpoints": _VALIDATION.split(),
    "what is shown": _SHOWN.split(),
    "the machine, and chance": _MACHINE.split(),
}
"""Heading -> keys that stand under it in any stage; the others are what the stage is about."""


# ------------------------------------------------------------------------------------------------------------- help
def keys_text(cls: type, without: Collection[str] = ()) -> str:
    """Return every key of a configuration class, grouped: meaning, type and range, default, example.

    Args:
        cls: the class.
        without: sections that are left out.
    """
    return "".join(f"\n{_titled(title)}{''.join(map(_entry, keys))}" for title, keys in grouped_keys(cls, without))


def grouped_keys(cls: type, without: Collection[str] = ()) -> list[tuple[str, list[Key]]]:
    """Return the keys of a configuration class as (heading, keys), in the order of the help.

    Args:
        cls: the class.
        without: sections that are left out.
    """
    groups: dict[str, list[Key]] = {"": []}
    for key in _walk(cls):
        if key.id.split("#")[0] in without:
            continue
        if key.section is not None:
            groups[f"{key.id}: {key.meaning}"] = []
        else:
            groups.setdefault(_heading(key, groups), []).append(key)
    known = ["", *_GROUPS]
    order = [name for name in known if name in groups] + [name for name in groups if name not in known]
    return [(name, groups[name]) for name in order if groups[name]]


def _walk(cls: type, place: str = "") -> Iterator[Key]:
    """Yield the keys of a class, each section behind the keys beside it and before its own."""
    keys = list(keys_of(cls, place))
    yield from (key for key in keys if key.section is None)
    for key in keys:
        if key.section is not None:
            yield key
            yield from _walk(key.section, key.id)


def _heading(key: Key, groups: dict[str, list[Key]]) -> str:
    above, _, name = key.id.rpartition("#")
    if above:
        return next(title for title in groups if title.startswith(f"{above}: "))
    return next((title for title, names in _GROUPS.items() if name in names), "")


def _titled(name: str) -> str:
    return _wrapped(name, "", "  ") + "\n" if name else ""


def _entry(key: Key) -> str:
    example = f"{key.id}={shlex.quote(key.example)}"
    facts = f"{key.expected}; default: {key.default_text}; e.g. {example}"
    return f"  {key.id}\n{_wrapped(key.meaning, ' ' * 6)}\n{_wrapped(facts, ' ' * 6)}\n"


def _wrapped(text: str, indent: str, further: str | None = None) -> str:
    width = min(shutil.get_terminal_size().columns, 110)
    rest = indent if further is None else further
    return "\n".join(_fold(text, width, indent, rest))


def _fold(text: str, width: int, first: str, rest: str) -> list[str]:
    """Return lines of at most `width` columns; ids are not broken at their hyphens."""
    fold = textwrap.TextWrapper(width, first, rest, break_long_words=False, break_on_hyphens=False)
    return fold.wrap(text.replace("``", ""))


# ------------------------------------------------------------------------------------------------------------- YAML
def add_config_command(commands: Any) -> None:
    """Add ``config`` to the sub-parsers of ``meddap``."""
    text = "print every key with its value and meaning, as YAML that --config takes"
    command = commands.add_parser("config", help=text, description=text)
    command.add_argument(
        "stage", nargs="?", choices=(*STAGES, "engine", "study"), help="one section alone (default: all)"
    )
    command.add_argument(
        "--study", action="append", default=[], metavar="NAME", help="a study of configs/, or a file: its values"
    )
    command.set_defaults(run=_print_config)


def _print_config(options: argparse.Namespace) -> str:
    return config_text(options.study, None if options.stage == "study" else options.stage)


def config_text(overlays: Sequence[str], stage: str | None = None) -> str:
    """Return the whole configuration under overlays as YAML of full ids, each with its meaning.

    Fed back by ``--config`` it changes nothing. What is off, and what a limit of a study would take for a value that
    was given, stands there as a comment.

    Args:
        overlays: names of ``configs/``, or files.
        stage: only its keys.
    """
    from meddap_monai.core.configuration import build
    from meddap_monai.study.config import StudyConfig
    from meddap_monai.study.sections import load_sections

    sections = load_sections(overlays)
    study = build(StudyConfig, sections, "study")
    names = " ".join(overlays) or "the defaults"
    lines = [f"# meddap-monai: {f'the keys of {stage}' if stage else 'every key'}, with the values of {names}."]
    lines += ["# Change what you want and feed it back: --config THIS_FILE. Lines behind # are off.", ""]
    for key in keys_of(StudyConfig):
        if stage is None or key.id == stage:
            lines += _lines(key, getattr(study, key.id), sections)
    return "\n".join(lines).rstrip()


def _lines(key: Key, value: Any, sections: dict[str, Any], off: bool = False) -> Iterator[str]:
    """Yield the lines of a key, or of a section and its keys."""
    if key.section is None:
        yield from _comment(f"{key.meaning} ({key.expected}; default: {key.default_text})")
        hidden = off or _is_limited(key.id, sections)
        yield f"{'# ' if hidden else ''}{key.id}: {one_line(value)}"
        yield ""
        return
    yield from _comment(f"---- {key.id}: {key.meaning}")
    if value is None and not off:
        off = True
        if key.default is not None:
            yield f"{key.id}: null"
        yield from _comment("It is off; a value for any of its keys switches it on.")
    yield ""
    for inner in keys_of(key.section, key.id):
        held = inner.default if value is None else getattr(value, inner.name)
        yield from _lines(inner, None if held is dataclasses.MISSING else held, sections, off)


def _is_limited(identifier: str, sections: dict[str, Any]) -> bool:
    """Tell whether a limit looks at this key, which is not given: written out, it would count as given."""
    from meddap_monai.core.ids import look_up

    return identifier in (sections.get("limits") or {}) and look_up(identifier, sections) is None


def _comment(text: str) -> list[str]:
    return _fold(text, 110, "# ", "# ")
