"""What `connect` and `listen` take: those who talk framed messages by hand (`cli/talk.py`)."""

from __future__ import annotations

import sys
from typing import Any

import click

from enchufe.cli.options import believing, proving, talking


@click.command()
@click.argument("address", metavar="ADDR")
@believing
@talking
def connect(
    address: str, tls: bool, ca: str | None, server_name: str | None, fingerprint: str | None, **manner: Any
) -> None:
    """Talk framed messages to whoever listens at ADDR (host:port or unix:/path).

    Every line of standard input is a message, every message that comes is printed, one a line. The end of input is told
    to the other side; the command ends with the other side's end.
    """
    from enchufe.cli import talk  # noqa: PLC0415 (slow to import)
    from enchufe.cli.secured import Believing  # noqa: PLC0415

    secured = Believing(tls=tls, ca=ca, server_name=server_name, fingerprint=fingerprint)
    sys.exit(talk.connect(address, talk.Manner(secured=tls, **manner), secured))


@click.command()
@click.argument("address", metavar="ADDR")
@click.option("--echo", is_flag=True, help="Send every message back, in place of what is typed.")
@click.option("--once", is_flag=True, help="Serve one connection, and end with it.")
@click.option("--no-input", is_flag=True, help="Send nothing of standard input.")
@click.option("--engine", default="threads", show_default=True, metavar="NAME", help="threads, processes or events.")
@proving
@talking
def listen(
    address: str,
    echo: bool,
    once: bool,
    no_input: bool,
    engine: str,
    tls: bool,
    cert: str | None,
    key: str | None,
    **manner: Any,
) -> None:
    """Talk framed messages to all who connect to ADDR (host:port, :port or unix:/path; port 0 takes a free port).

    `systemd:` takes the sockets that a socket unit hands over.

    Every message that comes is printed, one a line; every line of standard input goes to all who are connected.
    """
    from enchufe.cli import talk  # noqa: PLC0415 (slow to import)
    from enchufe.cli.secured import Proving  # noqa: PLC0415

    secured = Proving(tls=tls, cert=cert, key=key)
    sys.exit(
        talk.listen(
            address,
            talk.Manner(secured=tls, **manner),
            secured,
            echo=echo,
            once=once,
            engine=engine,
            takes_input=not no_input,
        )
    )
