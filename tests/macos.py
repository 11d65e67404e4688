"""A process of Linux in which Python has what it has on macOS: without the names of Linux alone, and on kqueue.

To be called before anything else is imported: `python -c "from tests import macos; macos.pretend(); import enchufe"`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, Final

from tests import kqueue_stand_in

# What these patterns fit is not there: built-in modules of CPython, compared with its builds for macOS.
_MISSING: Final[dict[ModuleType, tuple[str, ...]]] = {
    os: (
        *("memfd_create", "MFD_*", "eventfd", "EFD_*", "sched_*", "SCHED_*", "posix_fallocate", "posix_fadvise"),
        *("POSIX_FADV_*", "copy_file_range", "splice", "SPLICE_*", "pidfd_open", "P_PIDFD", "fdatasync", "pipe2"),
        *("getxattr", "setxattr", "listxattr", "removexattr", "XATTR_*", "getrandom", "GRND_*", "setns", "unshare"),
        *("CLONE_*", "getresuid", "getresgid", "setresuid", "setresgid", "waitid", "RWF_*"),
        *("O_PATH", "O_TMPFILE", "O_DIRECT", "O_NOATIME", "O_LARGEFILE", "O_RSYNC"),
    ),
    socket: (
        *("TCP_INFO", "TCP_CONGESTION", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_QUICKACK", "TCP_CORK"),
        *("TCP_DEFER_ACCEPT", "MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "MSG_MORE", "SOCK_CLOEXEC", "SOCK_NONBLOCK"),
        *("SO_PEERCRED", "SO_PASSCRED", "SO_BINDTODEVICE", "SO_DOMAIN", "SO_PROTOCOL", "SO_INCOMING_CPU", "SO_MARK"),
        *("AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"),
    ),
    select: ("epoll", "EPOLL*", "POLLRDHUP", "POLLMSG"),
    signal: ("sigtimedwait", "sigwaitinfo", "SIGRT*", "SIGPOLL", "SIGPWR", "SIGSTKFLT"),
    fcntl: ("F_ADD_SEALS", "F_GET_SEALS", "F_SEAL_*", "F_OFD_*", "F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_NOTIFY"),
    resource: ("prlimit",),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI", "pthread_getcpuclockid"),
}
# Functions of Linux's C library that are not in macOS's.
_UNKNOWN: Final = {
    *("renameat2", "syncfs", "sync_file_range", "fallocate", "fallocate64", "statx", "prctl", "copy_file_range"),
}
_HIDDEN: Final = ("/proc/", "/sys/")


def pretend() -> None:
    """From here on, for good."""
    keepalive = socket.TCP_KEEPIDLE
    for module, patterns in _MISSING.items():
        for name in [name for name in vars(module) if any(fnmatchcase(name, pattern) for pattern in patterns)]:
            delattr(module, name)
    for name, value in vars(kqueue_stand_in.as_select()).items():
        setattr(select, name, value)
    importlib.reload(selectors)  # whose choice asyncio takes
    socket.TCP_KEEPALIVE = keepalive  # type: ignore[attr-defined]
    for module in (os, socket):
        module.__all__ = [name for name in module.__all__ if hasattr(module, name)]  # type: ignore[attr-defined]

    class Library(ctypes.CDLL):
        def __getattr__(self, name: str) -> Any:
            if name in _UNKNOWN:
                raise AttributeError(name)
            return super().__getattr__(name)

    ctypes.CDLL = Library  # type: ignore[misc]
    sys.addaudithook(_hide)
    sys.platform = "darwin"


def _hide(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and arguments:
        path = arguments[0]
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(_HIDDEN):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
