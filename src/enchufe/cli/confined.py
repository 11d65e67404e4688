"""A receiver's process that can write nowhere but where it was told to: the rules for `enchufe receive`."""

from __future__ import annotations

import os

from enchufe.files import PIPE
from enchufe.store import LocalStore
from enchufe.store.confine import confine
from enchufe.store.faults import store_error
from enchufe.transports.addresses import UnixAddress, to_listen_on


def confined(output: str, listen: str | None = None, state: str | None = None) -> bool:
    """Make the destination, and give up the right to write anywhere else, where the kernel knows how.

    To be called once, in the main thread, when nothing was received and no thread started.

    Args:
        output: where to; `-`, standard output, is no folder and needs none.
        listen: where the command listens: a socket is made there, where it is a path.
        state: the folder of our own state, where something may be kept in it; it exists.

    Returns:
        Whether the kernel holds us to it now.

    Raises:
        StoreError: the destination cannot be made.
        LocalProtocolError: `output` is no path, or `listen` no address.
    """
    folders = [] if output == PIPE else [output]
    for folder in folders:
        LocalStore(folder)  # makes it
    folders += [] if state is None else [state]
    address = None if listen is None else to_listen_on(listen)
    sockets = [os.path.dirname(address.path) or "."] if isinstance(address, UnixAddress) else []
    try:
        held = confine(folders, sockets=[folder for folder in sockets if os.path.isdir(folder)])
    except OSError as error:
        raise store_error(error, "write into", output) from error
    if held and folders:
        os.environ["TMPDIR"] = os.path.abspath(folders[0])  # nowhere else, should a temporary file be needed
    return held
