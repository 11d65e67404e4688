"""The whole error tree: one class for each answer to "whose fault is it?".

Every public call of enchufe raises an `EnchufeError` or returns; anything else that escapes is a bug. Each
error carries a `hint`, one sentence that says what to do next.
"""


class EnchufeError(Exception):
    """What every error of enchufe is.

    Attributes:
        hint: what to do next, one sentence for a person; may be empty.
    """

    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    @property
    def kind(self) -> str:
        """The class's name in the form that events carry: `RemoteProtocolError` is `remote_protocol`."""
        name = type(self).__name__.removesuffix("Error")
        return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class LocalProtocolError(EnchufeError):
    """You asked for something that makes no sense: a bad address, a message that cannot be framed."""


class RemoteProtocolError(EnchufeError):
    """The peer broke the protocol: a message too big, an end inside a message, an unsafe name."""

    hint = "The other side may be of another version, or not enchufe at all."


class VerificationError(RemoteProtocolError):
    """What arrived is not what was sent: a digest does not match."""

    hint = "Nothing of it was kept. Send it again; if it happens again, suspect memory or disk of either side."


class ClosedError(EnchufeError):
    """You closed it, and then used it."""


class BrokenError(EnchufeError):
    """The world cut it: the peer died, the network failed, nobody listens there."""

    hint = "Check that the other side is running and reachable, then try again."


class DeadlineExceeded(EnchufeError, TimeoutError):
    """It took longer than you allowed."""

    hint = "The other side is too slow or gone: try again, or allow more time."


class Refused(EnchufeError):
    """The peer understood and said no."""


class BusyError(EnchufeError):
    """No place just now: a limit was reached that will pass."""

    hint = "Try again in a moment."


class StoreError(EnchufeError):
    """This machine's disk said no: space, permission, a missing file."""


class NoSpaceError(StoreError):
    """This machine's disk is full, or a quota is."""

    hint = "Make room there, then send again."
