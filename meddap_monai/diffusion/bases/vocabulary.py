"""What a base's tokenizer makes of prompts: words it does not know, sentences it cuts, classes it confuses."""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from meddap_monai.errors import ConfigurationError

SMALL = 10_000
"""Tokens below which a vocabulary holds whole words only. A large one (CLIP: 49,408) knows the parts of words too."""


def check_words(tokenizer: Any, prompts: Mapping[str, str], where: str, others: Iterable[str] = ()) -> None:
    """Warn of words that a base does not know and of sentences that it cuts; refuse classes that it cannot tell apart.

    Args:
        tokenizer: of the base.
        prompts: class name -> its sentence.
        where: the configuration key that messages name.
        others: further sentences, of images.

    Raises:
        ConfigurationError: two classes give the same tokens.
    """
    tokens = {name: tuple(tokenizer(text, truncation=True).input_ids) for name, text in prompts.items()}
    most = tokenizer.model_max_length
    for name, ids in tokens.items():
        same = next((other for other, theirs in tokens.items() if other != name and theirs == ids), None)
        if same is not None and prompts[same] != prompts[name]:
            raise ConfigurationError(
                f"{where}: the base reads the prompts of the classes {name!r} and {same!r} as the same {most} tokens, "
                f"because it cuts what is longer; give a prompt table with shorter words for them"
            )
    texts = list(dict.fromkeys([*prompts.values(), *others]))
    strange = unknown_words(tokenizer, texts)
    if strange:
        warnings.warn(
            f"{where}: the base does not know the words {', '.join(strange)}: its {len(tokenizer)} tokens hold whole "
            "words of its own tables, and it reads any other letter by letter. They mean nothing to it before an "
            "adapter has learned these classes",
            stacklevel=2,
        )
    cut = [text for text in texts if len(tokenizer.tokenize(text)) + 2 > most]  # begin and end are tokens
    if cut:
        warnings.warn(f"{where}: the base reads {most} tokens and cuts the rest of {cut[0]!r}", stacklevel=2)


def unknown_words(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return the words of texts that a small vocabulary falls into pieces for, sorted; none for a large one."""
    if len(tokenizer) >= SMALL:
        return []
    plain = [re.sub(r"<[^>]*>", " ", text.lower()) for text in texts]  # words that textual inversion has added
    words = {word for text in plain for word in re.findall(r"[^\W_]+", text) if not word.isdigit()}
    return sorted(word for word in words if len(tokenizer.tokenize(word)) > 1)
