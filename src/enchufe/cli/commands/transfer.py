"""What `send` and `receive` take, and how their transfer is run: files and folders from one machine to another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import enchufe
from enchufe import events
from enchufe.cli import exits
from enchufe.cli.options import Rate, Size, transferring
from enchufe.errors import EnchufeError

if TYPE_CHECKING:
    from enchufe.cli.manner import Manner
    from enchufe.cli.show import Screen
    from enchufe.files import Compress

_NOT_THERE: Final = "Nothing half-done is visible; run it again."
_IN_PART: Final = "What is in the output may be a part of it: discard that, and run it again."
_ALL_HERE: Final = "All of it is here; the other side may not have heard so."
_ALL_THERE: Final = "What was sent has arrived."


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=click.Path())
@click.option("--to", metavar="TARGET", help="The receiver: its code, its link, @name of a known machine, host:port.")
@click.option(
    "--listen", metavar="ADDR", help="Without --to: where to wait for a receiver.  [default: :0, a free port]"
)
@click.option("--text", metavar="TEXT", help="Instead of PATH: send this text as a file.")
@click.option(
    "--name", metavar="NAME", help="What standard input (-) or --text is called there.  [default: stdin, text.txt]"
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out what is called so: *.o anywhere, /build at the top, cache/ a folder, **/a/b. Repeatable.",
)
@click.option("--xattrs", is_flag=True, envvar="ENCHUFE_XATTRS", help="Extended attributes (user.*) go along.")
@click.option(
    "--compress",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    envvar="ENCHUFE_COMPRESS",
    help="Compress what shrinks: where the link is slow, always, or never.",
)
@click.option("--limit", type=Rate(), metavar="RATE", envvar="ENCHUFE_LIMIT", help="At the most so fast, as 20MB/s.")
@transferring
def send(
    paths: tuple[str, ...],
    to: str | None,
    listen: str | None,
    text: str | None,
    name: str | None,
    exclude: tuple[str, ...],
    xattrs: bool,
    compress: Compress,
    limit: float | None,
    **options: Any,
) -> None:
    """Send files and folders, or a text; - is standard input.

    Without --to it shows a code, and waits for whoever says that: enchufe receive CODE. A folder keeps its name there.
    Symbolic links travel as links. The command ends when everything is verified and on the other side's disk.
    """
    if text is None and not paths:
        raise click.UsageError("nothing to send: name a file or a folder, or say --text")
    if text is not None and paths:
        raise click.UsageError("--text goes alone: send the files in another run")
    from enchufe.cli.manner import Manner  # noqa: PLC0415 (slow to import)

    manner = Manner(**options)
    shown = manner.screen(sending=True)
    listen = manner.where(to, listen)
    interrupted = _NOT_THERE

    def show(event: events.Event) -> None:
        nonlocal interrupted
        if isinstance(event, events.Receipt):
            interrupted = _ALL_THERE
        shown.show(event)

    def run() -> events.Receipt:
        manner.check(listen)
        return enchufe.send_files(
            paths,
            to=to,
            listen=listen,
            text=text,
            name=("stdin" if text is None else "text.txt") if name is None else name,
            exclude=exclude,
            attributes=xattrs,
            compress=compress,
            limit=limit,
            on_event=show,
            **manner.arguments(),
        )

    run_transfer(shown, run, lambda: interrupted)


@click.command()
@click.argument("source", required=False, metavar="[SOURCE]")
@click.option(
    "--listen", metavar="ADDR", help="Without SOURCE: where to wait for a sender.  [default: :0, a free port]"
)
@click.option(
    "--to", metavar="ADDR", help="Where whoever has the code or name SOURCE listens, if the network hides it."
)
@click.option("-o", "--output", default=".", show_default=True, metavar="DIR", help="Where to; - is standard output.")
@click.option(
    "--if-exists",
    type=click.Choice(["rename", "skip", "overwrite", "update", "fail"]),
    default="rename",
    show_default=True,
    envvar="ENCHUFE_IF_EXISTS",
    help="What happens to what is there already under the same name.",
)
@click.option("--checksum", is_flag=True, help="With update: compare content, not only size and time.")
@click.option(
    "--links",
    type=click.Choice(["inside", "any", "none"]),
    default="inside",
    show_default=True,
    help="Symbolic links to take: those that stay inside their tree, any, or none.",
)
@click.option("--max-size", type=Size(), metavar="SIZE", help="Take no more than this in all, as 20GB.")
@click.option("--list", "look", is_flag=True, help="Show what SOURCE offers, and take nothing.")
@click.option("--once", is_flag=True, help="End after one receipt (the default).")
@click.option("--yes", is_flag=True, help="Take what is offered without asking (as --plain does).")
@transferring
def receive(
    source: str | None,
    listen: str | None,
    to: str | None,
    output: str,
    if_exists: str,
    checksum: bool,
    links: str,
    max_size: int | None,
    look: bool,
    once: bool,  # noqa: ARG001 (what always happens)
    yes: bool,
    **options: Any,
) -> None:
    """Receive what one sender sends.

    SOURCE is the sender: its code, its link, @name of a known machine, or where it listens (host:port or unix:/path).
    Without it, this shows a code, and waits for whoever says that: enchufe send PATH --to CODE. A sender that is cut or
    refused does not end the waiting.
    """
    from enchufe.cli.manner import Manner  # noqa: PLC0415 (slow to import)

    manner = Manner(**options)
    if look:
        _look(source, listen, to, manner)
    if manner.as_json and output == "-":
        raise click.UsageError("--json and -o - both want standard output")
    if to is not None and source is None:
        raise click.UsageError("--to says where SOURCE listens: name that, too, a code or @name")
    from enchufe.cli.confined import confined  # noqa: PLC0415 (slow to import, and nobody else needs it)
    from enchufe.cli.consent import asking  # noqa: PLC0415 (who sends asks nothing)

    shown = manner.screen(sending=False)
    ask = asking(
        shown, plain=manner.plain, yes=yes, no_input=manner.no_input, as_json=manner.as_json, quiet=manner.quiet
    )
    listen = manner.where(source, listen)
    interrupted = _NOT_THERE

    def show(event: events.Event) -> None:
        nonlocal interrupted
        if isinstance(event, (events.Landed, events.Receipt)):
            interrupted = _ALL_HERE
        elif isinstance(event, events.Connected) and output == "-" and interrupted is _NOT_THERE:
            interrupted = _IN_PART
        shown.show(event)

    def run() -> events.Receipt:
        manner.check(listen, to)
        manner.prepare(source)
        confined(output, listen, manner.state())
        return enchufe.receive_files(
            output,
            listen=listen,
            source=source,
            where=to,
            if_exists=if_exists,  # type: ignore[arg-type]  # click has checked it
            checksum=checksum,
            links=links,  # type: ignore[arg-type]
            max_size=max_size,
            ask=ask,
            on_event=show,
            **manner.arguments(),
        )

    run_transfer(shown, run, lambda: interrupted)


def _look(source: str | None, listen: str | None, to: str | None, manner: Manner) -> NoReturn:
    """Show what is offered, on standard output, and exit."""
    if source is None or listen is not None:
        raise click.UsageError("--list looks at what SOURCE offers: name that, and leave out --listen")
    from enchufe.cli.confined import confined  # noqa: PLC0415 (slow to import, and nobody else needs it)

    manner.where(source, None)  # which looks at options that mean nothing together
    shown = manner.screen(sending=False, looking=True)

    def run() -> events.Offered:
        manner.check(None, to)
        manner.prepare(source)
        confined("-", None, manner.state())  # nothing is written anywhere
        return enchufe.list_files(source, where=to, on_event=shown.show, **manner.reaching())

    run_transfer(shown, run)


def run_transfer(
    shown: Screen,
    run: Callable[[], events.Receipt | events.Offered],
    interrupted: Callable[[], str] = lambda: _NOT_THERE,
) -> NoReturn:
    """Run a transfer, or a look at one, show how it ended, and exit accordingly.

    Args:
        interrupted: what has become of it, and what to do next, for who interrupts it.
    """
    try:
        end = run()
    except EnchufeError as error:
        shown.show(events.Failed.of(error))
        code = exits.exit_code(error)
    except KeyboardInterrupt:
        shown.show(events.Failed("interrupted", "interrupted", interrupted()))
        code = exits.INTERRUPTED
    else:
        code = exits.LEFT_OUT if isinstance(end, events.Receipt) and end.left_out else exits.DONE
    finally:
        shown.close()
    sys.exit(code)
