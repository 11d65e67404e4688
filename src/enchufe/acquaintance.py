"""Getting to know a machine: what `--remember` does at either end, once access has let the other in."""

from __future__ import annotations

import socket
from contextlib import suppress

from enchufe import events
from enchufe.access import Admitted, Introduction
from enchufe.access.identity import Identity
from enchufe.access.known import KnownMachines
from enchufe.access.messages import NAME_SIZE
from enchufe.errors import StoreError
from enchufe.events import OnEvent


def introduction() -> Introduction:
    """What this machine says of itself: its key, made at the first use, and its host name.

    Raises:
        StoreError: the key cannot be read or kept.
    """
    # A kernel takes any bytes for a host name; what is no UTF-8 comes as surrogates, and cannot be said.
    name = socket.gethostname().encode(errors="ignore")[:NAME_SIZE].decode(errors="ignore")
    return Introduction(Identity.mine(), name or "machine")


def meet(admitted: Admitted, *, remember: bool, on_event: OnEvent) -> None:
    """Tell who was dialed, and make sure of it. Raises as `check_acquaintance`."""
    if admitted.way != "again":
        on_event(events.Paired(admitted.way, admitted.name))
    check_acquaintance(admitted, remember=remember)


def check_acquaintance(admitted: Admitted, *, remember: bool) -> None:
    """Make sure that it is nobody else than it says, and can be pinned if it is to be.

    That is before HELLO: where one side could not pin, neither is to.

    Raises:
        ChangedKey: a machine of that name is known by another key.
        StoreError: what is known cannot be read or written.
    """
    if remember and admitted.way == "code" and admitted.introduced is not None:
        KnownMachines().check(admitted.introduced.name, admitted.introduced.public)


def acquaint(admitted: Admitted, address: str | None, *, remember: bool, on_event: OnEvent) -> None:
    """Note that a known machine was met, and pin the key of a new one where both sides want that.

    To be called once the other side has said HELLO, after it met us: it may know another machine by our name, and then
    neither is to know the other.

    Args:
        address: where it listens; None: it dialed us.

    Raises:
        ChangedKey: a machine of that name is known by another key.
        StoreError: it cannot be written down.
    """
    if admitted.way == "key" and admitted.name is not None:
        with suppress(StoreError):  # a receiver that confines itself may not write it down, and need not
            KnownMachines().met(admitted.name, address)
    if not remember or admitted.way != "code":
        return
    if admitted.introduced is None:
        on_event(events.Remembered(None))
        return
    machine = KnownMachines().add(admitted.introduced.name, admitted.introduced.public, address)
    on_event(events.Remembered(machine.name))
