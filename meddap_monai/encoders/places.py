"""Names of encoders that lie in a local folder or file: ``transformers:<folder>``, ``torchscript:<file>#<sha256>``."""

from pathlib import Path

from meddap_monai import store
from meddap_monai.errors import ConfigurationError, MeddapError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_LOCAL = ("transformers", "torchscript")


def split_place(place: str) -> tuple[Path, str]:
    """Return the path of ``<path>[#<sha256>]`` and the SHA-256 in small letters, empty where none is stated."""
    path, _, stated = place.rpartition("#") if "#" in place else (place, "", "")
    return Path(path), stated.lower()


def folder_sha256(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of what is read of a folder of transformers.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    files = [folder / CONFIG, folder / PREPROCESSOR, *sorted(folder.glob("*.safetensors*"))]
    try:
        return store.sha256_text("".join(f"{one.name}:{store.sha256_file(one)};" for one in files if one.exists()))
    except (OSError, MeddapError) as error:
        raise ConfigurationError(f"encoder 'transformers:{folder}': {error}") from error


def pinned(name: str) -> str:
    """Return the name of an encoder with the SHA-256 of its folder; every other name as it is."""
    scheme, _, place = name.partition(":")
    if scheme != "transformers":
        return name
    folder, _ = split_place(place)
    return f"transformers:{folder}#{folder_sha256(folder)}"


def without_place(name: str) -> str:
    """Return the name of an encoder without the path to it, which can hold a patient's or a hospital's name."""
    scheme, _, place = name.partition(":")
    return f"{scheme}:{Path(place).name}" if scheme in _LOCAL else name
