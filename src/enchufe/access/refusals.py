"""Who is not let in, and why: what a dialer hears, and what a listener raises."""

from __future__ import annotations

from typing import ClassVar, Final

from enchufe.access.messages import Reason
from enchufe.errors import Refused


class Denial(Refused):
    """Somebody was not let in, for a reason that a listener says.

    Attributes:
        reason: which.
        told: what a dialer hears, about whom it dialed.
    """

    reason: ClassVar[Reason]
    told: ClassVar[str]


class WrongCode(Denial):
    """The code is another, or somebody stands between."""

    reason = Reason.CODE
    told = "the code is not the one that {peer} has, or somebody stands between you and it"
    hint = "Compare it word by word. The third wrong guess ends a code: then ask for a new one."


class CodeGone(Denial):
    """There is no such code any more, or none at all."""

    reason = Reason.GONE
    told = "{peer} takes no code now: there is none, it has been used, guessed wrong three times, or is too old"
    hint = "Ask for a new code. If nobody got in with yours, somebody tried to guess it."


class AnotherMachine(Denial):
    """It is not the machine that was wanted, or cannot prove that it is."""

    reason = Reason.ANOTHER
    told = "{peer} is another machine than the one that is known here: it has another key"
    hint = (
        "If it was set up anew, remove it (enchufe peers remove) and get to know it again by a code."
        " If nobody did that, somebody may be pretending to be it: send nothing there."
    )


class UnknownMachine(Denial):
    """A machine that is not known there, or a connection that is not known any more."""

    reason = Reason.UNKNOWN
    told = "{peer} does not know this machine, or knows it no longer"
    hint = "Get to know each other by a code: both sides say --remember."


class TokenRefused(Denial):
    """The token is unknown, revoked, expired or used up, or for something else."""

    reason = Reason.TOKEN
    told = "{peer} does not take this token: it is unknown there, revoked, expired, used up, or for something else"
    hint = "Ask whoever gave you the link for a new one."


_DENIALS: Final[dict[int, type[Denial]]] = {
    denial.reason: denial for denial in (WrongCode, CodeGone, AnotherMachine, UnknownMachine, TokenRefused)
}


def heard(reason: int, peer: str) -> Refused:
    """What a dialer raises who was denied."""
    denial = _DENIALS.get(reason)
    if denial is None:
        return Refused(f"{peer} does not let us in (reason {reason})", hint="It may be of a later version.")
    return denial(denial.told.format(peer=peer))
