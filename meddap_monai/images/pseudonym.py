"""Keyed pseudonyms: the same patient always gets the same name, and nobody without the key can tell whose it is."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from meddap_monai.errors import ConfigurationError

_MAKERS = (
    "ge", "philips", "siemens", "samsung", "mindray", "canon", "toshiba", "hitachi", "aloka", "fujifilm", "sonosite",
    "esaote", "supersonic", "hologic", "acuson", "atl", "butterfly", "clarius", "konica", "medison", "simulated",
)  # fmt: skip


def default_key_file() -> Path:
    """Return the key's place in the user's configuration folder; the environment variable MEDDAP_KEY_FILE wins."""
    given = os.environ.get("MEDDAP_KEY_FILE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "meddap_monai" / "pseudonym.key"


def load_key(path: Path | str | None = None) -> bytes:
    """Return the key of a file; the default file is made once, readable by its owner only.

    Args:
        path: a file of at least 16 bytes that the user gives, or None for `default_key_file`.

    Raises:
        ConfigurationError: the given file is missing, not a file or too short.
    """
    place = Path(path) if path is not None else default_key_file()
    if path is None and not place.exists():
        _make_key(place)
    try:
        key = place.read_bytes() if place.is_file() else b""
    except OSError:
        key = b""
    if len(key) < 16:
        raise ConfigurationError(
            f"{place}: the pseudonym key is missing or too short, expected at least 16 random bytes"
        )
    return key


def _make_key(place: Path) -> None:
    """Write a new key so that of two processes one wins and both read the same."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = place.with_name(f".{secrets.token_hex(8)}.key")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secrets.token_bytes(32))
        stream.flush()
        os.fsync(descriptor)
    try:
        os.link(draft, place)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


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
