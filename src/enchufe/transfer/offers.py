"""OFFER: entries, numbered, each with all that is known of it before its content."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.dataclass import dataclass
from enchufe.entry import LISTED, NO_LINK, UNKNOWN_SIZE, Entry, Kind, Listing
from enchufe.transfer.message import CONTROL_SIZE, FILE_SIZE, Message, Type, malformed

TARGET_SIZE: Final = 4095
ATTRIBUTES_SIZE: Final = 4096

_FIRST: Final = struct.Struct(">I")
_ENTRY: Final = struct.Struct(">BBIHQqHH")
_LINKED: Final = struct.Struct(">I")
_SIZE: Final = struct.Struct(">H")
_ATTRIBUTE: Final = struct.Struct(">BH")
_LISTING: Final = struct.Struct(">IIQ32s")
_SPARSE, _IS_LINKED, _ATTRIBUTES, _SHARED, _LISTED = 1, 2, 4, 8, 16
# Looking a member up by its number costs as much as the rest of a small entry.
_KINDS: Final = {kind.value: kind for kind in Kind}
_FILE, _DIRECTORY, _SYMLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK


@dataclass(slots=True)
class Offer(Message):
    """Entries, numbered from the first one's id on."""

    type = Type.OFFER
    limit = CONTROL_SIZE

    entries: Sequence[Entry]

    def pack(self) -> list[Buffer]:
        return [_FIRST.pack(self.entries[0].id), *map(pack_entry, self.entries)]

    @classmethod
    def unpack(cls, body: memoryview) -> Offer:
        if len(body) <= _FIRST.size:
            raise malformed(cls.type)
        data = bytes(body)  # of which a slice costs half
        (number,) = _FIRST.unpack_from(data)
        entries = []
        position = _FIRST.size
        while position < len(data):
            entry, position = _unpack_entry(data, position, number)
            entries.append(entry)
            number += 1
        return cls(entries)


def pack_entry(entry: Entry) -> bytes:
    """An entry as an offer carries it; `entry.packed` from then on."""
    flags = entry.sparse | (entry.linked != NO_LINK) << 1 | (entry.attributes != ()) << 2 | entry.shared << 3
    if entry.listing is not None:
        flags |= _LISTED
    entry.packed = packed = (
        _ENTRY.pack(
            entry.kind,
            flags,
            entry.parent,
            entry.mode,
            entry.size,
            entry.mtime_ns,
            len(entry.name),
            len(entry.target),
        )
        + entry.name
        + entry.target
    )
    if flags & (_IS_LINKED | _ATTRIBUTES | _LISTED):
        entry.packed = packed = packed + _pack_extras(entry)
    return packed


def _pack_extras(entry: Entry) -> bytes:
    packed = _LINKED.pack(entry.linked) if entry.linked != NO_LINK else b""
    if entry.attributes:
        attributes = b"".join(_ATTRIBUTE.pack(len(name), len(value)) + name + value for name, value in entry.attributes)
        packed += _SIZE.pack(len(attributes)) + attributes
    if entry.listing is not None:
        packed += _LISTING.pack(*entry.listing)
    return packed


def _unpack_entry(body: bytes, position: int, number: int) -> tuple[Entry, int]:
    start = position + _ENTRY.size
    if start > len(body):
        raise malformed(Type.OFFER)
    known, flags, parent, mode, size, mtime_ns, name_size, target_size = _ENTRY.unpack_from(body, position)
    kind = _KINDS.get(known)
    middle = start + name_size
    end = middle + target_size
    if (
        end > len(body)
        or flags > _SPARSE | _IS_LINKED | _ATTRIBUTES | _SHARED | _LISTED
        or kind is None
        or mode > 0o7777
        or (target_size > 0) != (kind is _SYMLINK)
        or target_size > TARGET_SIZE
        or FILE_SIZE < size < UNKNOWN_SIZE
        or ((size or flags & (_SPARSE | _IS_LINKED | _SHARED)) and kind is not _FILE)
        or (flags & _LISTED and kind is not _DIRECTORY)
    ):
        raise malformed(Type.OFFER)
    entry = Entry(number, parent, body[start:middle], kind, size, mode, mtime_ns, body[middle:end])
    if flags:
        end = _unpack_extras(body, end, flags, entry)
    entry.packed = body[position:end]
    return entry, end


def _unpack_extras(body: bytes, position: int, flags: int, entry: Entry) -> int:
    entry.sparse, entry.shared = bool(flags & _SPARSE), bool(flags & _SHARED)
    try:
        if flags & _IS_LINKED:
            (entry.linked,) = _LINKED.unpack_from(body, position)
            position += _LINKED.size
            if entry.linked >= entry.id:
                raise malformed(Type.OFFER)
        if flags & _ATTRIBUTES:
            (size,) = _SIZE.unpack_from(body, position)
            position += _SIZE.size
            if not 0 < size <= ATTRIBUTES_SIZE or position + size > len(body):
                raise malformed(Type.OFFER)
            entry.attributes = _unpack_attributes(body[position : position + size])
            position += size
        if flags & _LISTED:
            entry.listing = _unpack_listing(body, position)
            position += _LISTING.size
    except struct.error as error:
        raise malformed(Type.OFFER) from error
    return position


def _unpack_listing(body: bytes, position: int) -> Listing:
    listing = Listing(*_LISTING.unpack_from(body, position))
    if not 0 < listing.entries <= LISTED or listing.size > FILE_SIZE:
        raise malformed(Type.OFFER)
    return listing


def _unpack_attributes(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    attributes = []
    position = 0
    while position < len(body):
        name_size, value_size = _ATTRIBUTE.unpack_from(body, position)
        middle = position + _ATTRIBUTE.size + name_size
        end = middle + value_size
        name = body[position + _ATTRIBUTE.size : middle]
        if end > len(body) or not name or b"\0" in name:
            raise malformed(Type.OFFER)
        attributes.append((name, body[middle:end]))
        position = end
    return tuple(attributes)


def offered_size(entry: Entry) -> int:
    """Bytes that an entry takes in an offer."""
    size = _ENTRY.size + len(entry.name) + len(entry.target)
    plain = entry.linked == NO_LINK and not entry.attributes and entry.listing is None
    return size if plain else size + len(_pack_extras(entry))
