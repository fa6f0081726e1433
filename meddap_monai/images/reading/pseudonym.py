"""Keyed pseudonyms: the same patient always gets the same name, and nobody without the key can tell whose it is."""

import contextlib
import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from meddap_monai.errors import ConfigurationError

_NAME = "name a file of at least 16 random bytes with key_file or the environment variable MEDDAP_KEY_FILE"
_MAKERS = (
    "ge", "philips", "siemens", "samsung", "mindray", "canon", "toshiba", "hitachi", "aloka", "fujifilm", "sonosite",
    "esaote", "supersonic", "hologic", "acuson", "atl", "butterfly", "clarius", "konica", "medison", "simulated",
)  # fmt: skip


def load_key(path: Path | str | None = None) -> bytes:
    """Return the key of a file.

    The file is the one that is given, else the one that the environment variable MEDDAP_KEY_FILE names, else the user's
    own in the configuration folder. Only the last one is made when it is missing, once, readable by its owner only.

    Args:
        path: a file of at least 16 bytes.

    Raises:
        ConfigurationError: a named file is missing, not a file or too short; the user's own cannot be made.
    """
    named = path if path is not None else os.environ.get("MEDDAP_KEY_FILE")
    place = Path(named) if named else _own_key_file()
    try:
        if not named and not place.exists():
            _make_key(place)
        key = place.read_bytes() if place.is_file() else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{place}: the pseudonym key cannot be read or made ({reason}); {_NAME}") from error
    if len(key) < 16:
        whose = "" if path is not None or not named else ", which MEDDAP_KEY_FILE names"
        raise ConfigurationError(
            f"{place}{whose}: the pseudonym key is missing or too short, expected at least 16 random bytes. A file "
            "that is named is never made, since a new key gives the same patients new names"
        )
    return key


def _own_key_file() -> Path:
    """Return the key's place in the user's configuration folder.

    Raises:
        ConfigurationError: the environment names no such folder.
    """
    try:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise ConfigurationError(f"there is no home folder (HOME) to keep a pseudonym key in; {_NAME}")
    return folder / "meddap_monai" / "pseudonym.key"


def _make_key(place: Path) -> None:
    """Write a new key so that of two processes one wins and both read the same."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = place.with_name(f".{secrets.token_hex(8)}.key")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, place)
    finally:
        draft.unlink(missing_ok=True)


def pseudonym(value: str, key: bytes, kind: str = "patient", length: int = 16) -> str:
    """Return `length` hexadecimal characters of the keyed hash (HMAC-SHA-256) of a value."""
    message = f"{kind}\0{value.strip()}".encode(errors="surrogatepass")
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:length]


@lru_cache(maxsize=4096)
def device_name(maker: str, model: str, key: bytes) -> str:
    """Name a machine without passing on free text: its maker from a fixed list, and a keyed hash of the model."""
    if not maker and not model:
        return "unknown"
    words = maker.lower().replace("-", " ").replace(",", " ").split()
    known = next((name for name in _MAKERS if name in words), "other")
    return f"{known}-{pseudonym(f'{maker}|{model}', key, 'device', 6)}"
