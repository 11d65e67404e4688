"""Names that come from a peer: the one place that decides what may become a name on this disk."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.errors import RemoteProtocolError
from enchufe.printable import printable
from enchufe.store.faults import FULL, OUT_OF_MEANS
from enchufe.store.folders import scan

NAME_MAX: Final = 255  # bytes: every Unix file system
TARGET_MAX: Final = 4095  # bytes: PATH_MAX less the NUL

STAGING: Final = b".enchufe"  # where half-received things live, in every destination

# Microsoft, "Naming Files, Paths, and Namespaces": neither alone nor before a dot. The superscript digits count too.
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"}
)
_WINDOWS_FORBIDS: Final = frozenset('<>:"/\\|?*') | {chr(c) for c in range(32)}

# ext4, NTFS, some of FUSE, exFAT, ext3, FAT; and a time that is different in each.
_GRAINS: Final = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
_ODD: Final = 1_000_000_001_999_999_999


def safe_name(name: bytes) -> None:
    """Accept `name` as one component of a path, whatever the file system; every name of a peer comes through here.

    Raises:
        RemoteProtocolError: it is empty, `.` or `..`, holds `/` or NUL, or is longer than 255 bytes. No honest
            sender has such a name, since no Unix file system does.
    """
    if not name or name == b"." or name == b".." or b"/" in name or b"\0" in name or len(name) > NAME_MAX:  # noqa: PLR1714 (faster so)
        raise RemoteProtocolError(f"an unsafe name was offered: '{printable(name[:NAME_MAX])}'")


def safe_link(target: bytes, depth: int) -> bool:
    """Whether a symlink leads nowhere but into its own root, whatever else is in there.

    It must be relative, and may climb with `..` only at its start and to the root's own directory at the most. That
    start is sound because the directories above a link are real ones, made or opened by us and never symlinks. After
    the first component that is a name, `..` proves nothing: where `a` is a symlink itself, `a/..` is the place that
    holds what `a` points to. Links that obey this can be followed one into the other and still never leave.

    Args:
        target: what the link says.
        depth: directories above the link inside its root: 0 for a root, 1 for what is in it. A root is no directory's
            child, so no target is inside for it.
    """
    if not target or len(target) > TARGET_MAX or target.startswith(b"/") or b"\0" in target:
        return False
    steps = [step for step in target.split(b"/") if step and step != b"."]
    climbs = 0
    while climbs < len(steps) and steps[climbs] == b"..":
        climbs += 1
    return climbs <= depth - 1 and b".." not in steps[climbs:]


def folded(name: bytes) -> str:
    """What is equal for two names that a case-folding file system may take for one: NFKC and casefold, as git does.

    Characters that show nothing are dropped, since HFS+ ignores them (CVE-2014-9390).
    """
    if name.isascii():
        return name.decode().lower()
    text = unicodedata.normalize("NFKC", name.decode("utf-8", "surrogateescape")).casefold()
    return unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c) != "Cf"))


def is_staging(name: bytes) -> bool:
    """Whether any file system might take the name for that of the staging folder."""
    return name.lower() == STAGING if name.isascii() else folded(name) == STAGING.decode()


@dataclass(frozen=True, slots=True)
class NameRules:
    """What one destination cannot hold, though it is safe; without any rule it holds every safe name.

    Attributes:
        folds: names that differ only in case or in the form of their accents are one name.
        windows: the rules of Windows apply, here or in its file systems mounted elsewhere.
        text: names must be UTF-8.
        longest: bytes of the longest name.
        grain: nanoseconds that its times are multiples of; what is between is not kept.
    """

    folds: bool = False
    windows: bool = False
    text: bool = False
    longest: int = NAME_MAX
    grain: int = 1

    def holds(self, name: bytes) -> bool:
        """Whether the destination can hold a safe name as it is."""
        if len(name) > self.longest:
            return False
        if not (self.windows or self.text):
            return True
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return False
        return not self.windows or _windows_holds(text)

    @property
    def none(self) -> bool:
        """Whether there is no rule at all, the fast case."""
        return not (self.folds or self.windows or self.text) and self.longest >= NAME_MAX


def _windows_holds(text: str) -> bool:
    device = text.partition(".")[0].rstrip(" ").casefold()
    return not (text.endswith((".", " ")) or device in _DEVICES or _WINDOWS_FORBIDS.intersection(text))


def probe(descriptor: int) -> NameRules:
    """Find out the rules of the file system under an empty directory of ours, by making a few files in it.

    Raises:
        OSError: not even a plain name can be made there, or the disk is full.
    """
    try:
        _make(b"Probe", descriptor)
        _try(b"pr\xc3\xb3be", descriptor)  # a composed accent
        return NameRules(
            folds=_found(b"pROBE", descriptor) or _found(b"pro\xcc\x81be", descriptor),
            windows=os.name == "nt" or not (_try(b"a:b", descriptor) and _try(b"end.", descriptor)),
            text=not _try(b"\xff", descriptor),
            longest=min(NAME_MAX, os.fstatvfs(descriptor).f_namemax),
            grain=_grain(b"Probe", descriptor),
        )
    finally:
        with scan(descriptor) as listing:
            made = [entry.name for entry in listing]
        for name in made:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=descriptor)


def _make(name: bytes, descriptor: int) -> None:
    os.close(
        os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=descriptor)
    )


def _try(name: bytes, descriptor: int) -> bool:
    """Whether a file can have this name, and then really has it: vfat drops a dot at the end without a word."""
    try:
        _make(name, descriptor)
    except OSError as error:
        if error.errno in FULL or error.errno in OUT_OF_MEANS:  # says nothing about the name
            raise
        return False
    with scan(descriptor) as listing:
        return any(os.fsencode(entry.name) == name for entry in listing)


def _grain(name: bytes, descriptor: int) -> int:
    try:
        os.utime(name, ns=(_ODD, _ODD), dir_fd=descriptor)
        kept = os.stat(name, dir_fd=descriptor).st_mtime_ns
    except OSError:
        return 1
    return next((grain for grain in _GRAINS if _ODD // grain * grain == kept), 1)


def _found(name: bytes, descriptor: int) -> bool:
    try:
        os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return False
    return True
