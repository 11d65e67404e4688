"""Published for whoever builds on enchufe: contracts as tests, and a network that exists only in memory.

    from enchufe.testing import check_transport

    check_transport(make_pair)     # raises AssertionError with a sentence

`SimNetwork` with a `ManualClock` runs real clients and servers under a seed, `Turns` those that work in threads, and
`ModelStore` is a disk that loses its power: see there.
"""

from __future__ import annotations

from enchufe.testing.contract import CHECKS, MakePair, check_transport
from enchufe.testing.disk import ModelDelivery, ModelStore
from enchufe.testing.simulation import Fault, ManualClock, SimNetwork
from enchufe.testing.turns import Process, Turns

__all__ = [
    "CHECKS",
    "Fault",
    "MakePair",
    "ManualClock",
    "ModelDelivery",
    "ModelStore",
    "Process",
    "SimNetwork",
    "Turns",
    "check_transport",
]
