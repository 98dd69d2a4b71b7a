"""A library with code for one GPU architecture; zeros in place of the others pack to nothing.

A fat binary is a header (magic number, version, size) and entries: kind, offset of the code in the
entry, size of the code, architecture. The driver reads the headers and loads the entry that fits.
Source: the layout that cuobjdump prints, and `struct fatBinaryHeader` of CUDA's fatBinaryCtl.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = struct.pack("<I", 0xBA55ED50)
_HEADER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQ")
_ARCHITECTURE: Final = 28
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """How many bytes of code a library retains, and how many were zeroed."""

    retained: int
    zeroed: int


def prune(library: bytearray, capability: int) -> Pruned:
    """Zero the code for all architectures but one, in place.

    Args:
        library: bytes of a shared library with fat binaries.
        capability: compute capability without its dot, for example 90.

    Raises:
        ValueError: the library has no code for that architecture.
    """
    retained = zeroed = place = 0
    while (place := library.find(_MAGIC, place)) >= 0:
        _, version, header, size = _HEADER.unpack_from(library, place)
        if (version, header) != (_VERSION, _HEADER.size):
            place += len(_MAGIC)  # four bytes of something else
            continue
        place += header
        end = place + size
        while place < end:
            _, _, code, length = _ENTRY.unpack_from(library, place)
            (architecture,) = struct.unpack_from("<I", library, place + _ARCHITECTURE)
            if architecture == capability:
                retained += length
            else:
                library[place + code : place + code + length] = bytes(length)
                zeroed += length
            place += code + length
    if not retained:
        raise ValueError(f"the library has no code for compute capability {capability}")
    return Pruned(retained=retained, zeroed=zeroed)
