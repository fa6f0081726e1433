"""One command of ``meddap``: its options, and its keys as ``ID=VALUE`` anywhere among them."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from meddap_monai.cli.keys import keys_text
from meddap_monai.core.configuration import field_types

_PAIR = re.compile(r"[A-Za-z_]\w*((#|::)\w+)*=")


class Command(argparse.ArgumentParser):
    """A parser that lists the keys in ``--help``, and tells a key from an option and from an option's values."""

    configuration: Callable[[], type] | None = None
    """Returns the class of the command's keys; loaded when they are asked for."""
    without: Collection[str] = ()
    """Sections that are explained elsewhere."""

    def format_help(self) -> str:
        """Return the help: options first, then every key."""
        text = super().format_help()
        if self.configuration is not None:
            text += f"\nkeys, written as ID=VALUE:\n{keys_text(self.configuration(), self.without)}"
        return text

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a key that is written as an option is an error that says how it is written."""
        if args is not None and self.configuration is not None:
            self._refuse_options_that_are_keys(args)
        options, rest = super().parse_known_args(args, namespace)
        if hasattr(options, "overrides"):
            _give_back(options)
        return options, rest

    def _refuse_options_that_are_keys(self, words: Sequence[str]) -> None:
        for number, word in enumerate(words):
            if not word.startswith("--") or word == "--" or self._is_option(word):
                continue
            name, found, value = word[2:].replace("-", "_").partition("=")
            first, *below = re.split("#|::", name)
            near = difflib.get_close_matches(first, list(field_types(self.configuration())), n=1, cutoff=0.75)  # type: ignore[misc]
            if not near:
                continue
            following = words[number + 1] if number + 1 < len(words) else ""
            value = word.partition("=")[2] if found else "..." if following[:2] in ("", "--") else following
            self.error(f"unrecognized argument {word}: keys have no dashes; write {'#'.join([*near, *below])}={value}")

    def _is_option(self, word: str) -> bool:
        name = word.partition("=")[0]
        return any(known.startswith(name) for action in self._actions for known in action.option_strings)


def is_pair(word: Any) -> bool:
    """Tell whether a word is ``ID=VALUE`` and no file or folder of that name."""
    return isinstance(word, str) and _PAIR.match(word) is not None and not os.path.exists(word)


def _give_back(options: argparse.Namespace) -> None:
    """Take the ``ID=VALUE`` words out of options of many values, which argparse lets swallow what stands behind."""
    for name, words in list(vars(options).items()):
        if isinstance(words, list) and name not in ("overrides", "config") and any(map(is_pair, words)):
            options.overrides = [*options.overrides, *filter(is_pair, words)]
            setattr(options, name, [word for word in words if not is_pair(word)])
