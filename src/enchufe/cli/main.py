"""The commands: what each takes, and what it calls."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import enchufe
from enchufe import events
from enchufe.cli import config as settings
from enchufe.cli import exits
from enchufe.cli.options import Rate, Size, believing, common, proving, seconds, securing, talking
from enchufe.cli.securing import Securing
from enchufe.cli.show import Screen, screen
from enchufe.errors import EnchufeError
from enchufe.interruption import interrupt

if TYPE_CHECKING:
    from enchufe.files import Compress

# Objects after which to look for cycles: there are next to none, and Python's 700 cost a start a tenth of its time.
_GARBAGE: Final = 100_000


@click.group(
    cls=settings.Configured, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(enchufe.__version__)
def cli() -> None:
    """Send files and folders from one machine to another.

    On one machine `enchufe send PATH`, which shows a code; on the other `enchufe receive CODE`.

    Exit codes: 0 done, and on the other side's disk; 2 usage; 3 refused, or not who it claimed to be, or the other
    side's disk is full; 4 not reached, cut or timed out; 5 verification failed; 6 this machine's disk; 7 done, but
    some entries were left out; 130 interrupted; 1 a bug.
    """


@cli.command()
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
@common
@securing
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
    plain: bool,
    timeout: float,
    retry: float,
    streams: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_input: bool,
    **manner: Any,
) -> None:
    """Send files and folders, or a text; - is standard input.

    Without --to it shows a code, and waits for whoever says that: enchufe receive CODE. A folder keeps its name there.
    Symbolic links travel as links. The command ends when everything is verified and on the other side's disk.
    """
    if text is None and not paths:
        raise click.UsageError("nothing to send: name a file or a folder, or say --text")
    if text is not None and paths:
        raise click.UsageError("--text goes alone: send the files in another run")
    shown = screen(as_json=as_json, quiet=quiet, verbose=verbose, sending=True, plain=plain)
    secured = Securing(plain=plain, no_input=no_input, **manner)
    listen = secured.where(to, listen)
    _transfer(
        shown,
        lambda: enchufe.send_files(
            paths,
            to=to,
            listen=listen,
            text=text,
            name=("stdin" if text is None else "text.txt") if name is None else name,
            exclude=exclude,
            attributes=xattrs,
            streams=streams,
            compress=compress,
            limit=limit,
            timeout=timeout,
            retry=retry,
            each_file=verbose,
            on_event=shown.show,
            **secured.arguments(),
        ),
    )


@cli.command()
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
@click.option("--once", is_flag=True, help="End after one receipt (the default).")
@click.option("--yes", is_flag=True, help="Take what is offered without asking (as --plain does).")
@common
@securing
def receive(
    source: str | None,
    listen: str | None,
    to: str | None,
    output: str,
    if_exists: str,
    checksum: bool,
    links: str,
    max_size: int | None,
    once: bool,  # noqa: ARG001 (what always happens)
    yes: bool,
    plain: bool,
    timeout: float,
    retry: float,
    streams: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_input: bool,
    **manner: Any,
) -> None:
    """Receive what one sender sends.

    SOURCE is the sender: its code, its link, @name of a known machine, or where it listens (host:port or unix:/path).
    Without it, this shows a code, and waits for whoever says that: enchufe send PATH --to CODE. A sender that is cut or
    refused does not end the waiting.
    """
    if as_json and output == "-":
        raise click.UsageError("--json and -o - both want standard output")
    if to is not None and source is None:
        raise click.UsageError("--to says where SOURCE listens: name that, too, a code or @name")
    from enchufe.cli.confined import confined  # noqa: PLC0415 (slow to import, and nobody else needs it)
    from enchufe.cli.consent import asking  # noqa: PLC0415 (who sends asks nothing)

    shown = screen(as_json=as_json, quiet=quiet, verbose=verbose, sending=False, plain=plain)
    ask = asking(shown, plain=plain, yes=yes, no_input=no_input, as_json=as_json, quiet=quiet)
    secured = Securing(plain=plain, no_input=no_input, **manner)
    listen = secured.where(source, listen)

    def run() -> events.Receipt:
        confined(output, listen, secured.state())
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
            streams=streams,
            timeout=timeout,
            retry=retry,
            each_file=verbose,
            on_event=shown.show,
            **secured.arguments(),
        )

    _transfer(shown, run)


@cli.command()
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

    signal.signal(signal.SIGTERM, interrupt)
    secured = Believing(tls=tls, ca=ca, server_name=server_name, fingerprint=fingerprint)
    sys.exit(talk.connect(address, talk.Manner(secured=tls, **manner), secured))


@cli.command()
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


@cli.command()
@click.argument("address", required=False, metavar="[ADDR]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=20.0,
    show_default=True,
    callback=seconds,
    metavar="S",
    help="To measure for in all; starting what is measured comes on top.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="WORD",
    help="Only what is called so: latency, rate, bulk, files, encode, decode, an engine, a transport, a framing.",
)
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on standard output.")
@click.option("--html", metavar="FILE", help="Write a page with a chart and the numbers.")
@click.option("--svg", metavar="FILE", help="Write the chart.")
def bench(
    address: str | None, seconds: float, only: tuple[str, ...], as_json: bool, html: str | None, svg: str | None
) -> None:
    """Measure engines, framings, transports and files on this machine.

    With ADDR, where `enchufe listen ADDR --echo --quiet --framing length:4` runs, measure the way to there.
    """
    from enchufe.cli.bench import bench as run  # noqa: PLC0415 (slow to import)

    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(run(address, seconds=seconds, only=only, as_json=as_json, html=html, svg=svg))


@cli.command()
@click.option("--size", default=256, show_default=True, metavar="MIB", help="Size of the generated file.")
def demo(size: int) -> None:
    """Send a big file and a tree from one process to another, and compare what landed."""
    from enchufe.cli.demo import run  # noqa: PLC0415 (nobody else needs it)

    sys.exit(run(size))


@cli.group()
def store() -> None:
    """Look after folders that files are received into."""


@store.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--clean",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Remove the one of this name, or all; not those in use.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def partials(folder: str, clean: str | None, as_json: bool) -> None:
    """List what cut transfers have left in DIR for the next one to go on with.

    It is kept for a week after the last byte of it came. With --clean, which goes after DIR, it is removed.
    """
    from enchufe.cli.store import partials as run  # noqa: PLC0415 (nobody else needs it)

    sys.exit(run(folder, clean=clean, as_json=as_json))


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
@click.pass_context
def peers(context: click.Context, as_json: bool) -> None:
    """Look after the machines that are known here; without a command, list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_peers, as_json=as_json)
    elif as_json:
        raise click.UsageError("--json goes after the command")


@peers.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def list_peers(as_json: bool) -> None:
    """List them: name, when last met, where."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.list_all(as_json=as_json))


@peers.command("name")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
def name_peer(old: str, new: str) -> None:
    """Call the machine OLD otherwise: NEW."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.name(old, new))


@peers.command("remove")
@click.argument("name", metavar="NAME")
def remove_peer(name: str) -> None:
    """Forget a machine: it needs a code again."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.remove(name))


@peers.command("show")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def show_peer(name: str | None, as_json: bool) -> None:
    """Show a machine's fingerprint as words, and its key; without NAME, this machine's."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.show(name, as_json=as_json))


@cli.group()
def token() -> None:
    """Give out links that let whoever has one use a service of this machine."""


@token.command("new")
@click.option("--to", required=True, multiple=True, metavar="ADDR", help="Where the service is: host:port. Repeatable.")
@click.option("--name", metavar="NAME", help="By which to revoke it.  [default: token-1 and so on]")
@click.option("--scope", default="drop", show_default=True, metavar="WORDS", help="Some of drop,read,list.")
@click.option("--quota", type=Size(), metavar="SIZE", help="How much may cross in all, as 10GB.")
@click.option("--expires", metavar="TIME", help="For how long it is good: 45m, 12h, 30d or 2w.")
def new_token(to: tuple[str, ...], name: str | None, scope: str, quota: int | None, expires: str | None) -> None:
    """Make a token and print its link, this one time."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.new(name, scope=scope, quota=quota, expires=expires, to=to))


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def list_tokens(as_json: bool) -> None:
    """List tokens: name, what for, how much, until when."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.list_all(as_json=as_json))


@token.command("revoke")
@click.argument("name", metavar="NAME")
def revoke_token(name: str) -> None:
    """Have a token be good for nothing from now on."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.revoke(name))


@cli.group()
def config() -> None:
    """Look at settings: flag, ENCHUFE_* variable, file, default, in this order."""


@config.command("show")
@click.argument("command", nargs=-1, metavar="[COMMAND...]")
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
@click.pass_context
def show_config(context: click.Context, command: tuple[str, ...], as_json: bool) -> None:
    """Show every setting, or those of COMMAND, with its value and where that comes from, as a file could say it."""
    sys.exit(settings.show(context, command, as_json=as_json))


def _transfer(shown: Screen, run: Callable[[], events.Receipt]) -> NoReturn:
    """Run a transfer, show how it ended, and exit accordingly."""
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        receipt = run()
    except EnchufeError as error:
        shown.show(events.Failed.of(error))
        code = exits.exit_code(error)
    except KeyboardInterrupt:
        shown.show(events.Failed("interrupted", "interrupted", "Nothing half-done is visible; run it again."))
        code = exits.INTERRUPTED
    else:
        code = exits.LEFT_OUT if receipt.left_out else exits.DONE
    finally:
        shown.close()
    sys.exit(code)


def _occupy_standard_streams() -> None:
    """Where a standard stream is closed, keep its number from a socket or file that would be taken for it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (open for as long as we run)


def main() -> None:
    """Run the command line."""
    _occupy_standard_streams()
    gc.set_threshold(_GARBAGE)
    try:
        cli(prog_name="enchufe")
    except Exception:  # noqa: BLE001 (whatever comes here is our fault, and is told whole)
        traceback.print_exc()
        sys.stderr.write("enchufe: this is a bug; please report it where you got enchufe, with the lines above\n")
        sys.exit(exits.UNEXPECTED)
    finally:
        gc.freeze()  # or all that was imported would be looked through before the end, which takes longer than the end
