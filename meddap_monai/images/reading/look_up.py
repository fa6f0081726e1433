"""Look-up tables as DICOM stores them: a descriptor and entries, whatever their width, byte order and VR."""

import struct
from dataclasses import dataclass

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.header import Header

_BYTES = ("OB", "UN")
"""Value representations that are never turned with the byte order of the file."""


@dataclass(frozen=True)
class Table:
    """A descriptor (PS3.3 C.7.6.3.1.5 and C.11.1.1): number of entries, first value mapped, bits of an entry."""

    count: int
    first: int
    bits: int


def describe(header: Header, name: str, signed: bool) -> Table:
    """Read a descriptor; a number of 0 entries means 65,536.

    Args:
        header: file, or item of a sequence, that holds it.
        name: its keyword.
        signed: whether the values that are looked up can be negative; the VR SS says so too.

    Raises:
        KeyError: there is none.
        struct.error: it is not three numbers.
    """
    vr, data = raw(header, name)
    kind = "h" if vr == "SS" or signed else "H"
    count, first, bits = struct.unpack(("<" if header.little_endian else ">") + "H" + kind + "H", data)
    return Table(count or 65536, first, bits)


def entries_of(header: Header, name: str, table: Table) -> np.ndarray:
    """Read entries (N,): uint8 where their number says that they are bytes, else uint16.

    Raises:
        KeyError: there are none.
        UnreadableImage: their length contradicts the descriptor.
    """
    vr, data = raw(header, name)
    if len(data) == 2 * table.count and (table.bits > 8 or table.count > 1):
        return words(header, data)
    if len(data) - table.count in (0, 1):
        return packed_bytes(header, vr, data)[: table.count]
    raise UnreadableImage(
        f"{header.path}: a look-up table holds {len(data):,} bytes, expected {table.count:,} or {2 * table.count:,} "
        f"for {table.count:,} entries"
    )


def look_up(values: np.ndarray, first: int, entries: np.ndarray) -> np.ndarray:
    """Map whole numbers; those beyond either end take its entry."""
    return entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)]


def raw(header: Header, name: str) -> tuple[str, bytes]:
    """VR and bytes of an attribute; `KeyError` without it."""
    found = header.raw(name)
    if found is None:
        raise KeyError(name)
    return found


def words(header: Header, data: bytes) -> np.ndarray:
    """16-bit numbers in the byte order of the file."""
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if header.little_endian else ">u2").astype(np.uint16)


def packed_bytes(header: Header, vr: str, data: bytes) -> np.ndarray:
    """Bytes that are packed into words of the file's byte order (PS3.5 8.2), in their own order."""
    if header.little_endian or vr in _BYTES:
        return np.frombuffer(data, np.uint8)
    entries = np.frombuffer(data, np.uint8).copy()
    pairs = entries[: len(entries) // 2 * 2].reshape(-1, 2)
    pairs[:] = pairs[:, ::-1].copy()
    return entries
