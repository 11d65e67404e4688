"""Getting to know a machine: what `--remember` does at either end, once access has let the other in."""

from __future__ import annotations

import socket

from enchufe import events
from enchufe.access import Admitted
from enchufe.access.dialing import Introduction
from enchufe.events import OnEvent


def introduction() -> Introduction:
    """What this machine says of itself: its key, made at the first use, and its host name."""
    from enchufe.access.identity import Identity  # noqa: PLC0415 (slow to import, and not everybody needs it)

    return Introduction(Identity.mine(), socket.gethostname())


def acquaint(admitted: Admitted, address: str, *, remember: bool, on_event: OnEvent) -> None:
    """Tell who was let in, and pin its key where both sides want that.

    Args:
        address: where it is; "" where it dialed us, and will have another port next time.

    Raises:
        Refused: a machine of that name is known by another key.
        StoreError: it cannot be written down.
    """
    if admitted.way == "again":
        return
    on_event(events.Paired(admitted.way, admitted.name))
    if not remember or admitted.way != "code":
        return
    if admitted.introduced is None:
        on_event(events.Remembered(None))
        return
    from enchufe.access.known import KnownMachines  # noqa: PLC0415 (slow to import, and not everybody needs it)

    on_event(events.Remembered(KnownMachines().add(admitted.introduced.name, admitted.introduced.public, address)))
