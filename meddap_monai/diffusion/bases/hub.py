"""What went wrong with a hub id, in one sentence: the libraries say it in a page, and only in part."""

import contextlib
from collections.abc import Iterator

_UNREACHABLE = ("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError")
_SAID = {
    ("GatedRepoError",): "its owner asks for consent first; give it on the model's page, then `hf auth login`",
    ("RepositoryNotFoundError",): "the hub has no model of that name, or it is private; check the spelling, or log in "
    "with `hf auth login`",
    ("OfflineModeIsEnabled",): "it is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it; unset that",
    _UNREACHABLE: "it is not in the local cache, and the hub cannot be reached; fetch it where there is a network with "
    "`hf download`",
    ("EntryNotFoundError",): "it lacks files of a Stable Diffusion model; expected one that has model_index.json",
}
"""Names of exceptions, the first that fits counts -> what it means."""


def hub_sentence(name: str, error: BaseException) -> str:
    """Return what an exception about the hub id `name` means, and what to do."""
    kinds = {cls.__name__ for one in _chain(error) for cls in type(one).__mro__}
    for names, said in _SAID.items():
        if kinds & set(names):
            return f"{name}: {said}, or give a folder instead"
    return f"{name}: {one_sentence(error)}"


def one_sentence(error: BaseException) -> str:
    """Return the text of an exception in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Without what the hub's client logs while it tries again; what it ends in is raised."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
