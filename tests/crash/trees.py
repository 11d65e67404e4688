"""The tree that is sent, what is seen of a tree, and what is seen where one was received."""

from __future__ import annotations

import os
import random
import stat
import zlib
from pathlib import Path

from enchufe.entry import BLOCK_SIZE
from enchufe.store import arrived
from enchufe.store.journal import RECORD_SIZE

STAGING = ".enchufe"
NOTES = ("journal", "root", "arrived")
T = 1_700_000_000_123_456_789

Seen = dict[str, tuple[int, int, bytes]]
"""Path -> mode, mtime_ns, and content or target."""


def make(root: Path, files: int = 200, seed: int = 1) -> int:
    """A tree of small files, some of several blocks, a hard link, symlinks and folders; returns bytes in its files."""
    rng = random.Random(seed)
    size = 0
    folders = [root, root / "a", root / "a" / "b", root / "empty"]
    for folder in folders:
        folder.mkdir()
    for number in range(files):
        length = rng.randrange(6000)
        if number % 70 == 40:
            length = rng.randrange(BLOCK_SIZE, 3 * BLOCK_SIZE)
        path = folders[number % 3] / f"f{number}"
        path.write_bytes(rng.randbytes(length))
        path.chmod(rng.choice((0o644, 0o600, 0o755)))
        os.utime(path, ns=(T, T + number))
        size += length
    (root / "link").symlink_to("a/f1")
    os.utime(root / "link", ns=(T, T), follow_symlinks=False)
    (root / "a" / "same").hardlink_to(root / "f0")
    for folder in reversed(folders):
        os.utime(folder, ns=(T, T))
    return size


def seen(root: Path) -> Seen:
    """All that is there; of the root itself, which may have its last mode a moment after it shows, only the kind."""
    found: Seen = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content = b""
        if stat.S_ISLNK(info.st_mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        found[str(path.relative_to(root))] = info.st_mode, info.st_mtime_ns, content
    return found


def shown(inbox: Path) -> list[str]:
    """What a user sees in a destination, oldest first."""
    if not inbox.exists():
        return []
    names = [name for name in os.listdir(inbox) if name != STAGING]
    return sorted(names, key=lambda name: (len(name), name))


def check_shown(inbox: Path, sent: Seen) -> list[str]:
    """Whatever shows is whole and right; returns the names."""
    names = shown(inbox)
    for name in names:
        found = seen(inbox / name)
        wrong = sorted({path for path in sent.keys() | found.keys() if sent.get(path) != found.get(path)})
        assert not wrong, f"{name} shows, and {len(wrong)} entries in it are not right: {wrong[:5]}"
    return names


def check_receipted(inbox: Path, sent: Seen, root: Path, names: int = 1) -> None:
    """What a receipt vouches for: all is right, the root too; and nothing is left over."""
    got = check_shown(inbox, sent)
    assert len(got) == names, f"{got} show, and {names} were received"
    at, there = root.lstat(), (inbox / got[-1]).lstat()
    assert (at.st_mode, at.st_mtime_ns) == (there.st_mode, there.st_mtime_ns)


def is_unheard(inbox: Path) -> bool:
    """Whether something shows of which is noted that its sender may not know: it is not to come again."""
    noted: set[int] = set()
    for area in areas(inbox):
        descriptor = os.open(area, os.O_RDONLY)
        noted.update(inode for inode, *_ in arrived.read(descriptor).values())
        os.close(descriptor)
    return any((inbox / name).lstat().st_ino in noted for name in shown(inbox))


def check_swept(inbox: Path) -> None:
    """Nothing is left of any attempt."""
    assert not (inbox / STAGING).exists(), sorted(map(str, (inbox / STAGING).rglob("*")))


def areas(inbox: Path) -> list[Path]:
    """What attempts have left, each in a folder of its own."""
    return [path for path in (inbox / STAGING).glob("*") if path.is_dir()]


def journaled(area: Path) -> int:
    """Bytes of content that a journal vouches for."""
    blocks: dict[bytes, int] = {}
    journal = area / "journal"
    data = journal.read_bytes() if journal.exists() else b""
    for at in range(0, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
        record = data[at : at + RECORD_SIZE]
        if zlib.crc32(record[:60]) == int.from_bytes(record[60:], "big"):
            blocks[record[:20]] = int.from_bytes(record[20:24], "big")
    return sum(blocks.values())


def staged(area: Path) -> int:
    """Bytes of content that are written there: of a file whose last block came first, fewer than its size."""
    files = {path.lstat().st_ino: path.lstat() for path in area.rglob("*") if path.name not in NOTES}
    return sum(min(info.st_size, info.st_blocks * 512) for info in files.values() if stat.S_ISREG(info.st_mode))


def kept(inbox: Path, size: int) -> int:
    """Bytes of content that need not be sent again, at the least: they are in a journal, and staged beside it.

    Args:
        inbox: the destination.
        size: bytes in all that was offered.
    """
    return sum(max(0, journaled(area) + staged(area) - size) for area in areas(inbox))


def unnoted(inbox: Path) -> int:
    """The most bytes in any area that are written, and that no journal vouches for."""
    return max((staged(area) - journaled(area) for area in areas(inbox)), default=0)
