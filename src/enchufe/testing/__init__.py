"""Published for whoever builds on enchufe: contracts as tests, and a network that exists only in memory.

    from enchufe.testing import check_transport

    check_transport(make_pair)     # raises AssertionError with a sentence

`SimNetwork` with a `ManualClock` runs real clients and servers under a seed: see there.
"""

from __future__ import annotations

from enchufe.testing.contract import CHECKS, MakePair, check_transport
from enchufe.testing.simulation import Fault, ManualClock, SimNetwork

__all__ = ["CHECKS", "Fault", "MakePair", "ManualClock", "SimNetwork", "check_transport"]
