"""MemoryStore: files in memory, sent from and received into as from a disk; for programs and for tests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.dataclass import dataclass
from enchufe.entry import BLOCK_SIZE, LISTED, NO_LINK, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import ClosedError, LocalProtocolError, NoSpaceError, RemoteProtocolError
from enchufe.store.grafts import free_names
from enchufe.store.interface import Own
from enchufe.store.listing import file_record, link_record, listing
from enchufe.store.names import safe_link, safe_name
from enchufe.store.reading import LeftOut

Path = tuple[bytes, ...]


@dataclass(slots=True)
class Node:
    """A file, directory or symlink in memory.

    Attributes:
        data: of a file; two names of one file share it.
    """

    kind: Kind = Kind.FILE
    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    mtime_ns: int = 0
    target: bytes = b""
    attributes: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True)
class _Partial:
    """What is kept of a file that a cut transfer had begun."""

    data: bytearray
    blocks: dict[int, bytes] = field(default_factory=dict)


_Version = tuple[int, int]  # size, mtime_ns


class MemoryStore:
    """A tree in memory.

    Args:
        limit: bytes of all files together; None: as many as there is memory.
        update: what is received takes the place of what is there, but for what is the same, as `LocalStore` does with
            `if_exists="update"`.

    Attributes:
        nodes: all that is in it by path, directories before what is in them.
    """

    def __init__(self, limit: int | None = None, *, update: bool = False) -> None:
        self.nodes: dict[Path, Node] = {}
        self.limit = limit
        self.update = update
        self.partials: dict[Path, dict[_Version, _Partial]] = {}

    def add(self, path: str, data: bytes, *, mode: int = 0o644, mtime_ns: int = 0) -> None:
        """Put a file at `path`, with the directories it needs."""
        parts = tuple(part.encode() for part in path.split("/"))
        for depth in range(1, len(parts)):
            self.nodes.setdefault(parts[:depth], Node(Kind.DIRECTORY, mode=0o755))
        self.nodes[parts] = Node(Kind.FILE, bytearray(data), mode, mtime_ns)

    def contents(self) -> Mapping[str, bytes]:
        """The content of every file by its path."""
        return {
            b"/".join(path).decode(errors="surrogateescape"): bytes(node.data)
            for path, node in self.nodes.items()
            if node.kind is Kind.FILE
        }

    def source(self) -> MemorySource:
        """All of it, to be sent."""
        return MemorySource(self)

    def begin(self, origin: bytes = b"") -> MemoryDelivery:  # noqa: ARG002 (nothing is kept of a cut transfer)
        """Start a delivery: what has a name already gets a number, as `LocalStore` does by default, or is updated."""
        return MemoryDelivery(self)


class MemorySource:
    """What a sender reads of a MemoryStore: its nodes as they are now, roots and what is below them.

    Attributes:
        left_out: nothing is ever left out.
        lists: whether folders are listed, but for those in which a file has several names.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.left_out: list[tuple[Path, str]] = []
        self.lists = False
        self._nodes = dict(store.nodes)
        self._paths: list[Path] = []
        self._ids: dict[Path, int] = {}
        self._inside: dict[Path, dict[bytes, Node]] = {}  # what is in each folder, but for folders
        for path, node in self._nodes.items():
            if node.kind is not Kind.DIRECTORY:
                self._inside.setdefault(path[:-1], {})[path[-1]] = node
        self._sent: dict[int, tuple[int, int]] = {}  # as offered: size and time

    def walk(self) -> Iterator[Entry]:
        """Every entry, in the order of the store."""
        firsts: dict[int, int] = {}
        names = Counter(id(node.data) for node in self._nodes.values())
        unlisted = {path[:-1] for path, node in self._nodes.items() if names[id(node.data)] > 1}
        listed = set()
        for path, node in self._nodes.items():
            if path[:-1] in listed and node.kind is not Kind.DIRECTORY:
                continue
            entry = self._entry(path, node)
            if node.kind is Kind.FILE:
                entry.linked = firsts.get(id(node.data), NO_LINK)
                entry.shared = firsts.setdefault(id(node.data), entry.id) == entry.id and names[id(node.data)] > 1
            elif self.lists and node.kind is Kind.DIRECTORY and path not in unlisted:
                entry.listing = listing_of(self._inside.get(path, {}))
                if entry.listing is not None:
                    listed.add(path)
            yield entry

    def inside(self, folder: Entry) -> Iterator[Entry]:
        """The files and symlinks in a folder that was listed."""
        above = self._paths[folder.id]
        for name, node in self._inside.get(above, {}).items():
            yield self._entry((*above, name), node)

    def _entry(self, path: Path, node: Node) -> Entry:
        parent = self._ids[path[:-1]] if len(path) > 1 else NO_PARENT
        number = self._ids[path] = len(self._paths)
        entry = Entry(number, parent, path[-1], node.kind, len(node.data), node.mode, node.mtime_ns, node.target)
        entry.attributes = node.attributes
        self._note(entry, path)
        return entry

    def _note(self, entry: Entry, path: Path) -> None:
        self._paths.append(path)
        self._sent[entry.id] = (entry.size, entry.mtime_ns)

    def again(self, entry: Entry) -> Entry | None:
        """The entry as it is now."""
        path = self._paths[entry.id]
        node = self._nodes[path]
        now = Entry(len(self._paths), entry.parent, entry.name, Kind.FILE, len(node.data), node.mode, node.mtime_ns)
        self._note(now, path)
        return now

    def path(self, entry: Entry) -> Path:
        """The entry's names from its root on."""
        return self._paths[entry.id]

    def open(self, entry: Entry) -> MemoryFile:
        """A file that was offered, to be read.

        Raises:
            LeftOut: it is another by now.
        """
        file = MemoryFile(self._nodes[self._paths[entry.id]], self._sent[entry.id])
        if not file.unchanged():
            raise LeftOut(Reason.CHANGED, self.path(entry))
        return file

    def read_whole(self, entry: Entry) -> bytes:
        """All of a small file. Raises as `open`."""
        file = self.open(entry)
        return bytes(file.node.data)

    def close(self) -> None:
        """Nothing to do."""


def listing_of(nodes: Mapping[bytes, Node]) -> Listing | None:
    """The listing of these files and symlinks by name; None where there are none, or too many."""
    if not 0 < len(nodes) <= LISTED:
        return None
    links = sum(node.kind is Kind.SYMLINK for node in nodes.values())
    records = [
        link_record(name, node.target)
        if node.kind is Kind.SYMLINK
        else file_record(name, len(node.data), node.mtime_ns)
        for name, node in sorted(nodes.items())
    ]
    return listing(records, links, sum(len(node.data) for node in nodes.values()))


class MemoryFile:
    """A file of a MemorySource, being read."""

    def __init__(self, node: Node, offered: tuple[int, int]) -> None:
        self.node = node
        self._offered = offered

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on."""
        piece = self.node.data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def holes(self, start: int, stop: int) -> int:  # noqa: ARG002 (a SendingFile takes them)
        """Memory has none."""
        return 0

    def unchanged(self) -> bool:
        """Whether it still has the size and time that were offered."""
        return (len(self.node.data), self.node.mtime_ns) == self._offered

    def close(self) -> None:
        """Nothing to do."""


class OfferedNames:
    """The paths of what was offered, each checked as it comes."""

    def __init__(self) -> None:
        self._paths: dict[int, Path] = {}
        self._names: set[Path] = set()

    def __getitem__(self, number: int) -> Path:
        return self._paths[number]

    def path(self, entry: Entry) -> Path:
        """The entry's names from its root on."""
        return (*self._paths.get(entry.parent, ()), entry.name)

    def add(self, entry: Entry) -> bool:
        """Take note of an entry; False, and none is taken, where it is a link that leads out of its tree.

        Raises:
            RemoteProtocolError: its name is unsafe or was offered already, or its folder never was.
        """
        safe_name(entry.name)
        path = self.path(entry)
        if path in self._names:
            raise RemoteProtocolError("a name was offered twice in the same folder")
        if entry.parent != NO_PARENT and entry.parent not in self._paths:
            raise RemoteProtocolError("an entry was offered in a folder that was never offered")
        if entry.kind is Kind.SYMLINK and not safe_link(entry.target, len(path) - 1):
            return False
        self._names.add(path)
        self._paths[entry.id] = path
        return True

    def forget(self, entry: Entry) -> None:
        """The entry's name may be offered again."""
        self._names.discard(self._paths.pop(entry.id))


@dataclass(slots=True)
class _Part:
    """A file that is arriving, or has arrived."""

    path: Path
    version: _Version
    partial: _Partial
    node: Node
    whole: bool = False


class MemoryDelivery:
    """One transfer's way into a MemoryStore.

    Attributes:
        landed: id of a root -> its name there, after the commit.
        restarted: files of which another version was here in part; they start over.
        bare: empty: every attribute can be kept.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.landed: dict[int, bytes] = {}
        self.restarted: list[Path] = []
        self.bare: list[tuple[Path, list[bytes]]] = []
        self._store = store
        self._lock: Final = threading.Lock()
        self._names = OfferedNames()
        self._refused: set[int] = set()
        self._nodes: dict[int, tuple[Path, Node]] = {}
        self._parts: dict[int, _Part] = {}
        self._taken = sum(len(node.data) for node in store.nodes.values())
        self._over = False

    def path(self, entry: Entry) -> Path:
        """The entry's names from its root on."""
        return self._names.path(entry)

    def admit(self, entry: Entry) -> Answer:
        """Take it, if it has room and its name is safe."""
        self._check_open()
        if not self._names.add(entry):
            return Answer.UNSAFE_LINK
        path = self._names[entry.id]
        answer = self._meet(entry, path)
        if answer not in (Answer.ALL, Answer.SAME):
            self._refused.add(entry.id)
            return answer
        node = Node(entry.kind, bytearray(), entry.mode & 0o777, entry.mtime_ns, entry.target, entry.attributes)
        if entry.kind is not Kind.FILE:
            self._nodes[entry.id] = (path, node)
            return answer
        if entry.linked in self._nodes:
            return Answer.LINK
        self._taken += 0 if entry.size == UNKNOWN_SIZE else entry.size
        if self._store.limit is not None and self._taken > self._store.limit:
            raise NoSpaceError(f"the store takes {self._store.limit:,} bytes, and {self._taken:,} are wanted")
        version = (entry.size, entry.mtime_ns)
        kept = self._store.partials.pop(path, {})
        partial = kept.pop(version, None)
        if kept:
            self.restarted.append(path)
        self._nodes[entry.id] = (path, node)
        self._parts[entry.id] = _Part(path, version, partial or _Partial(bytearray()), node)
        return Answer.REST if partial is not None else Answer.ALL

    def _meet(self, entry: Entry, path: Path) -> Answer:
        """Decide where the store may have the name already."""
        if entry.parent in self._refused:
            return Answer.PARENT
        nodes = self._store.nodes
        there = nodes.get(path) if self._store.update else None
        if there is None:
            return Answer.ALL
        if Kind.DIRECTORY in (entry.kind, there.kind) and entry.kind is not there.kind:
            return Answer.IN_THE_WAY
        if entry.kind is Kind.DIRECTORY:
            leaves = {p[-1]: node for p, node in nodes.items() if p[:-1] == path and node.kind is not Kind.DIRECTORY}
            return Answer.SAME if entry.listing is not None and entry.listing == listing_of(leaves) else Answer.ALL
        mtime_ns = there.mtime_ns if entry.kind is Kind.FILE else entry.mtime_ns
        same = (there.kind, len(there.data), mtime_ns, there.target)
        return Answer.SKIP if same == (entry.kind, entry.size, entry.mtime_ns, entry.target) else Answer.ALL

    def kept(self, entry: Entry) -> Sequence[tuple[int, bytes]]:
        """The blocks that an attempt before has left."""
        return sorted(self._parts[entry.id].partial.blocks.items())

    def own(self, entry: Entry, pieces: int = 0) -> Iterator[Own]:  # noqa: ARG002
        """Never asked for: what is there gets another name."""
        raise LocalProtocolError(f"entry {entry.id} has no other version here")

    def write_whole(self, entry: Entry, data: Buffer, digest: bytes) -> None:
        """Store a file."""
        self.write(entry, 0, data, digest)
        self.complete(entry, len(data))

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:
        """Store a block."""
        self._check_open()
        with self._lock:
            partial = self._parts[entry.id].partial
            grown = offset + len(data) - len(partial.data)
            if grown > 0:
                partial.data.extend(bytes(grown))
            partial.data[offset : offset + len(data)] = data
            if len(data):
                partial.blocks[offset // BLOCK_SIZE] = digest

    def same(self, entry: Entry, first: int, digests: Sequence[bytes]) -> list[int]:  # noqa: ARG002
        """Never asked for; see `own`."""
        raise LocalProtocolError(f"entry {entry.id} has no other version here")

    def read_own(self, entry: Entry, wanted: Sequence[tuple[int, memoryview]]) -> bool:  # noqa: ARG002
        """Never asked for; see `own`."""
        raise LocalProtocolError(f"entry {entry.id} has no other version here")

    def link(self, entry: Entry, to: Entry) -> None:
        """Give a file another name."""
        _, node = self._nodes[to.id]
        self._nodes[entry.id] = (self._names[entry.id], node)

    def complete(self, entry: Entry, size: int) -> None:
        """A file is all there."""
        self._check_open()
        part = self._parts[entry.id]
        data = part.partial.data
        data.extend(bytes(max(0, size - len(data))))
        part.node.data = data
        part.whole = True

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        """Compare what was kept with its digests."""
        partial = self._parts[entry.id].partial
        bad = []
        for block, digest in list(partial.blocks.items()):
            if stopped():
                break
            data = bytes(partial.data[block * BLOCK_SIZE : min((block + 1) * BLOCK_SIZE, entry.size)])
            if blake3(data).digest() != digest:
                bad.append(block)
        return bad

    def drop(self, entry: Entry) -> None:
        """Forget a file."""
        self._parts.pop(entry.id, None)
        self._nodes.pop(entry.id, None)
        self._names.forget(entry)

    def commit(self, *, remember: bool = False) -> None:  # noqa: ARG002 (it dies with us)
        """Have it all in the store.

        Raises:
            LocalProtocolError: a file was neither completed nor dropped.
        """
        self._check_open()
        if not all(part.whole for part in self._parts.values()):
            raise LocalProtocolError("files are not complete")
        self._over = True
        nodes = self._store.nodes
        for number, (path, node) in sorted(self._nodes.items()):
            if len(path) == 1:
                free = free_names(path[0], directory=node.kind is Kind.DIRECTORY)
                self.landed[number] = next(name for name in free if self._store.update or (name,) not in nodes)
        names = {self._names[number][0]: name for number, name in self.landed.items()}
        for _, (path, node) in sorted(self._nodes.items()):
            nodes[names[path[0]], *path[1:]] = node

    def heard(self) -> None:
        """Nothing to forget."""

    def suspend(self) -> None:
        """Keep what has arrived for the next attempt."""
        if not self._over:
            self._over = True
            for part in self._parts.values():
                if part.partial.blocks and part.version[0] != UNKNOWN_SIZE:
                    self._store.partials.setdefault(part.path, {})[part.version] = part.partial

    def abandon(self) -> None:
        """Forget it all."""
        self._over = True

    def _check_open(self) -> None:
        if self._over:
            raise ClosedError("this delivery is over")
