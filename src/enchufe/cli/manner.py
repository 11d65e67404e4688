"""How a transfer goes, as the options that `send` and `receive` share say; and the code, from wherever it may come."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from enchufe.cli import terminal
from enchufe.cli.show import Screen, screen
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError

CODE: Final = "ENCHUFE_CODE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What the options say: see `cli/options.py`."""

    plain: bool
    timeout: float
    retry: float
    streams: int | None
    as_json: bool
    quiet: bool
    verbose: bool
    no_input: bool
    remember: bool
    tokens: bool
    announce: bool
    interfaces: tuple[str, ...]

    def where(self, to: str | None, listen: str | None) -> str | None:
        """Where to listen; None: we dial `to`.

        Raises:
            click.UsageError: options that mean nothing together.
        """
        if self.plain and (self.remember or self.tokens):
            raise click.UsageError("--plain proves nothing of anybody: leave out --remember and --tokens")
        if to is None and listen is None and not self.plain:
            return ":0"
        return listen

    @staticmethod
    def check(listen: str | None, to: str | None = None) -> None:
        """Refuse addresses that are good for something else only.

        Args:
            listen: where to listen.
            to: where whoever is named otherwise listens.

        Raises:
            LocalProtocolError: there is such a one, or one that is none.
        """
        from enchufe.meeting import for_files  # noqa: PLC0415 (slow to import)
        from enchufe.transports.addresses import parse_address, to_listen_on  # noqa: PLC0415 (slow to import)

        if listen is not None:
            to_listen_on(listen)
        if to is not None:
            for_files(parse_address(to))

    def screen(self, *, sending: bool, looking: bool = False) -> Screen:
        """Where it is shown."""
        return screen(
            as_json=self.as_json,
            quiet=self.quiet,
            verbose=self.verbose,
            sending=sending,
            plain=self.plain,
            looking=looking,
        )

    def reaching(self) -> dict[str, Any]:
        """For `list_files`."""
        return {
            "plain": self.plain,
            "code": self.code,
            "remember": self.remember,
            "announce": self.announce,
            "interfaces": self.interfaces,
            "timeout": self.timeout,
            "retry": self.retry,
        }

    def arguments(self) -> dict[str, Any]:
        """For `send_files` and `receive_files`."""
        return {**self.reaching(), "tokens": self.tokens, "streams": self.streams, "each_file": self.verbose}

    def prepare(self, source: str | None) -> None:
        """Make this machine's key where it will be needed and is not there: whoever is confined cannot make it.

        Args:
            source: whom we dial; None: we listen.

        Raises:
            StoreError: it cannot be made, or what is known cannot be read.
        """
        if self.plain or not (source is None or source.strip().startswith("@")):
            return
        from enchufe.access.known import KnownMachines  # noqa: PLC0415 (slow to import, and not everybody needs it)

        if KnownMachines().all():  # nobody else is shown it
            from enchufe.access.identity import Identity  # noqa: PLC0415 (slow to import, and not everybody needs it)

            Identity.mine()

    def state(self) -> str | None:
        """The folder where keys are kept, if any may be; it is there then."""
        if self.plain or not (self.remember or self.tokens):
            return None
        from enchufe.access.state import Folder  # noqa: PLC0415 (slow to import, and not everybody needs it)

        folder = Folder()
        with folder.locked():  # which makes it
            return folder.path

    def code(self) -> str:
        """The code that the other side shows, from the environment or from whoever sits here.

        Raises:
            LocalProtocolError: there is nobody to ask.
        """
        if code := os.environ.get(CODE):
            return code
        answer = None if self.no_input else terminal.ask("the code that the other side shows: ")
        if not answer:
            raise LocalProtocolError(
                "it takes the code that the other side shows",
                hint=f"Set {CODE}, or name the code or the whole link, in quotes, in place of the address.",
            )
        return answer
