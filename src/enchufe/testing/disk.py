"""A disk in memory whose unsynced writes may vanish or tear: `ModelStore` receives onto it, with a journal.

What is written can be read at once, and is durable once it was synced. At a power cut of every write since then
chance keeps all, none, or some sectors; of the names made since, the first so many. What a store says is durable is
held against that.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from zlib import crc32

from enchufe import entry as entries
from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing
from enchufe.errors import ClosedError, LocalProtocolError
from enchufe.store.delta import record
from enchufe.store.grafts import free_names
from enchufe.store.hand import identity, packed
from enchufe.store.interface import Own
from enchufe.store.journal import RECORD_SIZE
from enchufe.store.memory import Node, OfferedNames, listing_of
from enchufe.transfer.digests import block_digest

Path = tuple[bytes, ...]
K = TypeVar("K")
V = TypeVar("V")

_BODY: Final = struct.Struct(">16sII32sI")
_CRC: Final = struct.Struct(">I")
_SECTOR: Final = 128  # bytes that are written all or not at all


class ModelFile:
    """The content of a file, and what of it would survive.

    Attributes:
        data: as it reads.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._synced = b""
        self._writes: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: Buffer) -> None:
        """Write it, for now."""
        self._put(self.data, offset, bytes(data))
        self._writes.append((offset, bytes(data)))

    def sync(self) -> None:
        """Have it all durable."""
        self._synced = bytes(self.data)
        self._writes.clear()

    def survived(self, chance: random.Random | None) -> ModelFile:
        """As it reads after a power cut; where nobody asks chance, nothing unsynced survives."""
        data = bytearray(self._synced)
        for offset, written in self._writes if chance else ():
            assert chance is not None
            fate = chance.random()
            if fate < 0.4:
                self._put(data, offset, written)
            elif fate < 0.7:
                for start in range(0, len(written), _SECTOR):
                    if chance.random() < 0.5:
                        self._put(data, offset + start, written[start : start + _SECTOR])
        file = ModelFile()
        file.data, file._synced = data, bytes(data)
        return file

    @staticmethod
    def _put(data: bytearray, offset: int, piece: bytes) -> None:
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        data[offset : offset + len(piece)] = piece


class _Names(Generic[K, V]):
    """A folder: names for things, and which of them would survive."""

    def __init__(self, durable: Mapping[K, V] | None = None) -> None:
        self.now: dict[K, V] = dict(durable or {})
        self._durable = dict(self.now)
        self._changes: list[dict[K, V | None]] = []

    def change(self, names: Mapping[K, V | None]) -> None:
        """Give these names, or take them away where None stands: all at once."""
        self._apply(self.now, names)
        self._changes.append(dict(names))

    def sync(self) -> None:
        """Have it as it is."""
        self._durable = dict(self.now)
        self._changes.clear()

    def survived(self, chance: random.Random | None) -> dict[K, V]:
        """As it is after a power cut."""
        names = dict(self._durable)
        for change in self._changes[: chance.randint(0, len(self._changes))] if chance else ():
            self._apply(names, change)
        return names

    @staticmethod
    def _apply(names: dict[K, V], change: Mapping[K, V | None]) -> None:
        for name, thing in change.items():
            if thing is None:
                names.pop(name, None)
            else:
                names[name] = thing


@dataclass(slots=True)
class ModelNode:
    """A file, directory or symlink."""

    node: Node
    file: ModelFile | None = None

    def copied(self) -> Node:
        """As a `Node` with its content."""
        node, data = self.node, self.file.data if self.file is not None else b""
        return Node(node.kind, bytearray(data), node.mode, node.mtime_ns, node.target, node.attributes)


@dataclass(slots=True)
class _Area:
    """What one delivery has staged.

    Attributes:
        arrived: the names that its commit gave its roots, by those they were offered with; the sender may not know.
    """

    journal: ModelFile = field(default_factory=ModelFile)
    parts: _Names[bytes, ModelFile] = field(default_factory=_Names)  # by the identity of a file
    worked_in: bool = True
    origin: bytes = b""
    arrived: dict[bytes, bytes] = field(default_factory=dict)

    def records(self) -> dict[bytes, dict[int, tuple[int, bytes]]]:
        """What the journal says, but for what is damaged: by file and number of a block its size and digest."""
        found: dict[bytes, dict[int, tuple[int, bytes]]] = {}
        data = bytes(self.journal.data)
        for start in range(0, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
            record = data[start : start + RECORD_SIZE]
            file, block, size, digest, _ = _BODY.unpack_from(record)
            if _CRC.unpack_from(record, _BODY.size)[0] == crc32(record[: _BODY.size]):
                found.setdefault(file, {})[block] = size, digest
        return found


class ModelStore:
    """A destination on such a disk.

    Args:
        chance: what becomes of unsynced writes.
        update: whether to skip what is the same and replace what is not; else it gets a number.
        pause: called before whatever takes time.

    Attributes:
        twice: bytes that arrived though they had been written, and had not been lost since.
        receipts: how many deliveries were committed.
    """

    def __init__(
        self, chance: random.Random, *, update: bool = False, pause: Callable[[], None] = lambda: None
    ) -> None:
        self.update = update
        self.pause = pause
        self.twice = 0
        self.receipts = 0
        self._chance = chance
        self._visible: _Names[Path, ModelNode] = _Names()
        self._areas: list[_Area] = []
        self.written: dict[tuple[bytes, int], int] = {}  # bytes of each block that need not arrive again

    def add(self, path: Path, node: Node) -> None:
        """Have something there, durably."""
        self._visible.change({path: _model(node)})
        self._visible.sync()

    def nodes(self) -> dict[Path, Node]:
        """All that is visible."""
        return {path: model.copied() for path, model in self._visible.now.items()}

    def durable(self) -> dict[Path, Node]:
        """All that would be visible after a power cut that leaves nothing unsynced."""
        return {
            path: ModelNode(model.node, model.file and model.file.survived(None)).copied()
            for path, model in self._visible.survived(None).items()
        }

    def begin(self, origin: bytes = b"") -> ModelDelivery:
        """Start a delivery, which finds what is in areas of the same origin that nobody works in."""
        self.pause()
        area = _Area(origin=origin)
        before = [  # the newest first
            area for area in reversed(self._areas) if not area.worked_in and area.origin == origin
        ]
        self._areas.append(area)
        return ModelDelivery(self, area, before)

    # What goes wrong.

    def killed(self) -> None:
        """Whoever worked here is dead; the machine goes on."""
        for area in self._areas:
            area.worked_in = False

    def power_cut(self) -> None:
        """What was not synced is there, or not, or in part."""
        chance = self._chance
        files: dict[int, ModelFile] = {}

        def after(file: ModelFile) -> ModelFile:
            return files.setdefault(id(file), file.survived(chance))  # two names of one file share its fate

        visible = self._visible.survived(chance)
        put = {id(model.file) for model in visible.values()}  # by a rename, which leaves nothing where it was
        self._visible = _Names({p: ModelNode(m.node, m.file and after(m.file)) for p, m in visible.items()})
        self._areas = [
            _Area(
                area.journal.survived(chance),
                _Names({k: after(file) for k, file in area.parts.survived(chance).items() if id(file) not in put}),
                False,
                area.origin,
                area.arrived,
            )
            for area in self._areas
        ]
        self._forget_lost()

    def flip(self) -> bool:
        """Flip a bit of what is kept; False where nothing is."""
        kept = [file.data for area in self._areas for file in (area.journal, *area.parts.now.values()) if file.data]
        if not kept:
            return False
        data = self._chance.choice(kept)
        data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        self._forget_lost()
        return True

    def _forget_lost(self) -> None:
        """What is not there any more may arrive again."""
        good: dict[tuple[bytes, int], int] = {}
        seen: set[bytes] = set()
        for area in reversed(self._areas):  # as the next delivery will look
            for file, blocks in area.records().items():
                part = area.parts.now.get(file)
                if part is None or file in seen:
                    continue
                seen.add(file)
                for block, (size, digest) in blocks.items():
                    offset = block * entries.BLOCK_SIZE
                    if block_digest(part.data[offset : offset + size]) == digest:
                        good[file, block] = size
        self.written = {key: size for key, size in self.written.items() if key in good}


def _model(node: Node) -> ModelNode:
    if node.kind is not Kind.FILE:
        return ModelNode(node)
    file = ModelFile()
    file.write(0, node.data)
    file.sync()
    return ModelNode(node, file)


def _is_same(there: ModelNode, entry: Entry) -> bool:
    if entry.kind is Kind.SYMLINK:
        return there.node.target == entry.target
    return there.file is not None and (len(there.file.data), there.node.mtime_ns) == (entry.size, entry.mtime_ns)


@dataclass(slots=True)
class _Part:
    """A file that is arriving.

    Attributes:
        key: which version of which file.
        kept: blocks that an attempt before has left.
        whole: it is complete.
    """

    key: bytes
    file: ModelFile
    kept: dict[int, bytes] = field(default_factory=dict)
    whole: bool = False


class ModelDelivery:
    """One transfer's way onto the disk: what `Receiving` says.

    Attributes:
        landed: id of a root -> its name there, after the commit.
        restarted, bare: empty: nothing is told of what starts over, and every attribute can be kept.
        wanted, kept_bytes: bytes of the files that were wanted, and of them what was here.
        damaged: bytes of that which were not what the journal said.
        first_write: a block has arrived.
    """

    def __init__(self, store: ModelStore, area: _Area, before: Sequence[_Area]) -> None:
        self.landed: dict[int, bytes] = {}
        self.restarted: list[tuple[bytes, ...]] = []
        self.bare: list[tuple[tuple[bytes, ...], list[bytes]]] = []
        self.wanted = self.kept_bytes = self.damaged = 0
        self.first_write = False
        self._store = store
        self._area = area
        self._before = before
        self._records = [(area, area.records()) for area in before]
        self._names = OfferedNames()
        self._above: dict[int, bytes] = {NO_PARENT: b""}
        self._nodes: dict[int, tuple[int, bytes, Node]] = {}  # by id its parent, its name, and itself
        self._parts: dict[int, _Part] = {}
        self._links: dict[int, int] = {}
        self._own: dict[int, Path] = {}  # folders that an attempt before has put in place, and where
        self._again: dict[bytes, bytes] = {}  # the roots of that, and their names there
        self._pending: list[bytes] = []
        self._weight = 0
        self._over = False

    def path(self, entry: Entry) -> Path:
        """As `Receiving.path`."""
        return self._names.path(entry)

    def admit(self, entry: Entry) -> Answer:
        """As `Receiving.admit`."""
        self._check_open()
        if not self._names.add(entry):
            return Answer.UNSAFE_LINK
        path = self._names[entry.id]
        self._above[entry.id] = packed(self._above[entry.parent], entry.name)
        node = Node(entry.kind, bytearray(), entry.mode & 0o777, entry.mtime_ns, entry.target, entry.attributes)
        if self._has_arrived(entry):
            return Answer.SKIP
        there = self._store._visible.now.get(path) if self._store.update else None
        if there is not None and there.node.kind is not entry.kind:
            return Answer.IN_THE_WAY
        if there is not None and _is_same(there, entry):
            return Answer.SKIP
        self._nodes[entry.id] = entry.parent, entry.name, node
        if entry.kind is not Kind.FILE:
            return Answer.SAME if entry.listing is not None and entry.listing == self._listing(path) else Answer.ALL
        if entry.linked in self._parts:
            return Answer.LINK
        return self._admit_file(entry, there)

    def _has_arrived(self, entry: Entry) -> bool:
        """Whether an attempt before has put in place just this; a folder is gone into, to see what of it it has."""
        visible = self._store._visible.now
        if entry.parent == NO_PARENT:
            places: list[Path] = [(area.arrived[entry.name],) for area in self._before if entry.name in area.arrived]
        else:
            places = [(*self._own[entry.parent], entry.name)] if entry.parent in self._own else []
        for place in places:
            there = visible.get(place)
            if there is None or there.node.kind is not entry.kind:
                continue
            is_same = _is_same(there, entry)
            if entry.kind is Kind.DIRECTORY:
                self._own[entry.id] = place
            if entry.parent == NO_PARENT and (is_same or entry.kind is Kind.DIRECTORY):
                self._again[entry.name] = place[0]
            return is_same
        return False

    def _listing(self, folder: Path) -> Listing | None:
        """Of a folder that is there, where what is in it would be kept."""
        there = self._store._visible.now if self._store.update else {}
        return listing_of(
            {
                path[-1]: model.copied()
                for path, model in there.items()
                if path[:-1] == folder and model.node.kind is not Kind.DIRECTORY
            }
        )

    def _admit_file(self, entry: Entry, there: ModelNode | None) -> Answer:
        self._store.pause()
        key = identity(self._above[entry.parent], entry.name, entry.size, entry.mtime_ns)
        self.wanted += entry.size
        for area, records in self._records:
            file = area.parts.now.get(key)
            known = {block: told for block, told in records.get(key, {}).items() if self._fits(entry, block, *told)}
            if file is None or not known or entry.size == UNKNOWN_SIZE:
                continue
            kept = {
                block: digest
                for block, (size, digest) in known.items()
                if block * entries.BLOCK_SIZE + size <= len(file.data)
            }
            if not kept:
                continue
            part = self._parts[entry.id] = _Part(key, file, kept)
            self._area.parts.change({key: file})
            area.parts.change({key: None})
            for block, digest in kept.items():
                self._add_record(key, block, known[block][0], digest)
                self.kept_bytes += known[block][0]
            self._write_records()
            if entry.sparse:
                self._blank(part, entry)
            return Answer.REST
        self._parts[entry.id] = _Part(key, ModelFile())
        self._area.parts.change({key: self._parts[entry.id].file})
        old = len(there.file.data) if there is not None and there.file is not None else 0
        return Answer.DELTA if min(old, entry.size) >= entries.BLOCK_SIZE and entry.size != UNKNOWN_SIZE else Answer.ALL

    @staticmethod
    def _fits(entry: Entry, block: int, size: int, _digest: bytes) -> bool:
        return size == min(entries.BLOCK_SIZE, entry.size - block * entries.BLOCK_SIZE) and bool(size or not entry.size)

    def _blank(self, part: _Part, entry: Entry) -> None:
        """What was not kept reads as zeros, for nobody will write a hole."""
        for block in range(-(-entry.size // entries.BLOCK_SIZE)):
            offset = block * entries.BLOCK_SIZE
            size = min(entries.BLOCK_SIZE, len(part.file.data) - offset)
            if block not in part.kept and size > 0:
                part.file.write(offset, bytes(size))

    def kept(self, entry: Entry) -> Sequence[tuple[int, bytes]]:
        """As `Receiving.kept`; reads nothing."""
        return sorted(self._parts[entry.id].kept.items())

    def own(self, entry: Entry, pieces: int = 0) -> Iterator[Own]:
        """As `Receiving.own`."""
        data = memoryview(self._there(entry))
        for start in range(0, len(data), entries.BLOCK_SIZE):
            self._store.pause()
            block = data[start : start + entries.BLOCK_SIZE]
            digests = block_digest(block) if len(block) == entries.BLOCK_SIZE else b""
            starts = range(0, len(block) - pieces + 1, pieces) if pieces else ()
            yield digests, b"".join(record(block[at : at + pieces]) for at in starts)

    def read_own(self, entry: Entry, wanted: Sequence[tuple[int, memoryview]]) -> bool:
        """As `Receiving.read_own`."""
        data = self._there(entry)
        self._store.pause()
        for offset, view in wanted:
            if offset + len(view) > len(data):
                return False
            view[:] = data[offset : offset + len(view)]
        return True

    def _there(self, entry: Entry) -> bytes:
        there = self._store._visible.now.get(self._names[entry.id])
        return bytes(there.file.data) if there is not None and there.file is not None else b""

    def write_whole(self, entry: Entry, data: Buffer, digest: bytes) -> None:
        """As `Receiving.write_whole`."""
        self.write(entry, 0, data, digest)
        self._parts[entry.id].whole = True

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:
        """As `Receiving.write`."""
        self._check_open()
        data = bytes(data)
        self._store.pause()
        self._check_open()
        part = self._parts.get(entry.id)
        if part is None:
            return  # dropped
        part.file.write(offset, data)
        self.first_write = True
        if entry.size == UNKNOWN_SIZE:
            return
        self._store.pause()
        block = offset // entries.BLOCK_SIZE
        self._add_record(part.key, block, len(data), digest)
        if self._weight >= entries.BLOCK_SIZE:
            self._store.pause()
            self._write_records()
        written = self._store.written
        if (part.key, block) in written:
            self._store.twice += len(data)
        written[part.key, block] = len(data)

    def _add_record(self, key: bytes, block: int, size: int, digest: bytes) -> None:
        body = _BODY.pack(key, block, size, digest, 0)
        self._pending.append(body + _CRC.pack(crc32(body)))
        self._weight += size

    def _write_records(self) -> None:
        journal = self._area.journal
        journal.write(len(journal.data), b"".join(self._pending))
        self._pending.clear()
        self._weight = 0

    def same(self, entry: Entry, first: int, digests: Sequence[bytes]) -> list[int]:
        """As `Receiving.same`."""
        bad = []
        data = self._there(entry)
        for number, digest in enumerate(digests, first):
            offset = number * entries.BLOCK_SIZE
            block = data[offset : offset + entries.BLOCK_SIZE]
            if block_digest(block) == digest:
                self._store.written.pop((self._parts[entry.id].key, number), None)
                self.write(entry, offset, block, digest)
            else:
                bad.append(number)
        return bad

    def link(self, entry: Entry, to: Entry) -> None:
        """As `Receiving.link`."""
        self._check_open()
        self._links[entry.id] = to.id

    def complete(self, entry: Entry, size: int) -> None:
        """As `Receiving.complete`."""
        self._check_open()
        self._store.pause()
        part = self._parts[entry.id]
        if len(part.file.data) < size:
            part.file.write(len(part.file.data), bytes(size - len(part.file.data)))
        assert len(part.file.data) == size, "a file is longer than it says"
        part.whole = True

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        """As `Receiving.recheck`."""
        part = self._parts[entry.id]
        bad = []
        for block, digest in sorted(part.kept.items()):
            self._store.pause()
            if stopped():
                break
            offset = block * entries.BLOCK_SIZE
            size = min(entries.BLOCK_SIZE, entry.size - offset)
            if block_digest(part.file.data[offset : offset + size]) != digest:
                bad.append(block)
                self.damaged += size
        return bad

    def drop(self, entry: Entry) -> None:
        """As `Receiving.drop`."""
        part = self._parts.pop(entry.id, None)
        self._nodes.pop(entry.id, None)
        self._links.pop(entry.id, None)
        self._names.forget(entry)
        if part is not None:
            self._area.parts.change({part.key: None})
            self._forget(part.key)

    def commit(self, *, remember: bool = False) -> None:
        """As `Receiving.commit`: data, then names, each durable before the next."""
        self._check_open()
        if not all(part.whole for part in self._parts.values()):
            raise LocalProtocolError("files are not complete")
        for part in self._parts.values():
            self._store.pause()
            self._check_open()
            part.file.sync()
        self._over = True
        visible = self._store._visible
        changes = self._changes()
        if remember:
            self._store.pause()
            names = {self._nodes[number][1]: name for number, name in self.landed.items()}
            self._area.arrived = {**self._again, **names}
        for change, keys in changes:
            self._store.pause()
            visible.change(change)
            self._area.parts.change(dict.fromkeys(keys))
            for key in keys:
                self._forget(key)
        self._store.pause()
        visible.sync()
        self._store.pause()
        for area in self._before:
            for key in area.parts.now:
                self._forget(key)
        self._area.worked_in = False
        self._remove(*self._before, *(() if remember else (self._area,)))
        self._store.receipts += 1

    def _changes(self) -> Iterable[tuple[dict[Path, ModelNode | None], list[bytes]]]:
        """What becomes visible with one rename each, and which parts that takes."""
        visible = self._store._visible.now
        changes: dict[Path, dict[Path, ModelNode | None]] = {}
        keys: dict[Path, list[bytes]] = {}
        places: dict[int, Path] = {NO_PARENT: ()}
        for number, (parent, name, node) in sorted(self._nodes.items()):
            place = self._own.get(number, (*places[parent], name))
            if not self._store.update and number not in self._own and (parent == NO_PARENT or parent in self._own):
                free = free_names(name, directory=node.kind is Kind.DIRECTORY)
                place = next((*place[:-1], one) for one in free if (*place[:-1], one) not in visible)
            places[number] = place
            if parent == NO_PARENT:
                self.landed[number] = place[0]
            # With the topmost folder that is new.
            above = (place[:depth] for depth in range(1, len(place)))
            top = next((one for one in above if one not in visible), place)
            changes.setdefault(top, {})[place] = self._landing(number, node)
            if number in self._parts:
                keys.setdefault(top, []).append(self._parts[number].key)
        return [(change, keys.get(top, [])) for top, change in changes.items()]

    def _landing(self, number: int, node: Node) -> ModelNode:
        part = self._parts.get(self._links.get(number, number))
        return ModelNode(node, part.file if part is not None else None)

    def heard(self) -> None:
        """As `Receiving.heard`."""
        self._remove(self._area)

    def suspend(self) -> None:
        """As `Receiving.suspend`."""
        if not self._over:
            self._over = True
            self._store.pause()
            self._write_records()
            self._area.worked_in = False

    def abandon(self) -> None:
        """As `Receiving.abandon`."""
        if not self._over:
            self._over = True
            self._remove(self._area, *self._before)

    def _remove(self, *gone: _Area) -> None:
        self._store._areas = [area for area in self._store._areas if not any(area is one for one in gone)]

    def _forget(self, key: bytes) -> None:
        written = self._store.written
        for one in [one for one in written if one[0] == key]:
            del written[one]

    def _check_open(self) -> None:
        if self._over:
            raise ClosedError("this delivery is over")
