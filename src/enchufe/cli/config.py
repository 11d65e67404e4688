"""Settings: what an option is where it was not given, from variables and from one TOML file; and showing them.

A flag comes before its `ENCHUFE_*` variable, that before the file, that before the default. In the file, keys are the
long names of options: at the top for every command that has the option, in a table (`[receive]`, `[store.partials]`)
for one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from enchufe.access.folders import config_folder
from enchufe.cli import exits, output
from enchufe.cli.options import Rate, Size
from enchufe.dataclass import dataclass
from enchufe.errors import StoreError
from enchufe.printable import printable

FILE_VARIABLE: Final = "ENCHUFE_CONFIG"
_PREFIX: Final = "ENCHUFE_"
_LARGEST: Final = 1 << 20  # bytes of the file
# No settings, and known nevertheless: which file, and a code for one run.
_OTHER_VARIABLES: Final = frozenset({FILE_VARIABLE, "ENCHUFE_CODE"})

# What is decided each time. A line that somebody forgot, or a variable that something else has exported, would decide
# it for all transfers to come, and no command would show it.
_EACH_TIME: Final = {
    "plain": "it turns encryption and authentication off",
    "yes": "it takes whatever comes, unasked",
    "remember": "it trusts another machine from then on",
    "tokens": "it lets in whoever has the link of one, and shows a certificate that lasts",
    "clean": "it removes things",
    "scope": "it says what whoever has the token may do",
}
# What is about one run and nothing else.
_ONE_RUN: Final = frozenset(
    {"to", "listen", "list", "text", "name", "once", "fingerprint", "server-name", "html", "svg", "help", "version"}
)
_SECRETS: Final = frozenset({"code", "token", "password", "passphrase", "secret", "link"})
# A code (label and three words), or a link with something in its fragment.
_SECRET: Final = re.compile(r"\b\d{1,2}(?:[- ][^\W\d_]{3,}){3}\b|enchufe://[^#]*#.")

_NUMBERS: Final = frozenset({"integer", "integer range", "float", "float range"})
_WHOLE: Final = frozenset({"integer", "integer range"})

Path = tuple[str, ...]


class Configured(click.Group):
    """A group whose commands take their settings from variables and from the file."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; what it finds in the file is its default then.

        Raises:
            click.UsageError: the file cannot be read, or says what makes no sense. Not where help is asked for.
        """
        found = super().resolve_command(ctx, args)
        every = settings(self)
        set_variables(every)
        try:
            ctx.default_map = File(every).by_command
        except click.UsageError:
            if not ctx.resilient_parsing and not {"-h", "--help"}.intersection(args):
                raise
        return found


@dataclass(frozen=True)
class Setting:
    """An option of a command, as a setting.

    Attributes:
        command: the command, by its names from the top.
        key: the option's long name.
        option: the option.
        everywhere: whether it is of one kind wherever a command has it.
    """

    command: Path
    key: str
    option: click.Option
    everywhere: bool

    @property
    def variable(self) -> str:
        """The variable that sets it, for all commands where it means the same in all."""
        return _PREFIX + "_".join((() if self.everywhere else self.command) + (self.key,)).replace("-", "_").upper()

    def value(self, given: Any, where: str) -> Any:
        """What a value in the file comes to.

        Raises:
            click.UsageError: it is none for this option.
        """
        option = self.option
        wanted = _wanted(option)
        each = given if option.multiple and isinstance(given, list) else [given]
        if option.multiple != isinstance(given, list) or not all(_fits(option, one) for one in each):
            raise click.UsageError(f"{where}: it takes {wanted}, not {_kind(given)}")
        if any(isinstance(one, str) and _SECRET.search(one) for one in each):
            raise click.UsageError(f"{where}: a code or a token does not go into a file; type it when it is asked for")
        if isinstance(option.type, Size | Rate):
            given = str(given)
        try:
            return option.process_value(click.Context(click.Command(None)), given)
        except click.BadParameter as error:
            raise click.UsageError(f"{where}: {error.message}") from error
        except OverflowError as error:
            raise click.UsageError(f"{where}: no number here is as large as that") from error


class File:
    """What the file says, checked whole.

    Args:
        every: setting that there is.

    Attributes:
        path: the file; empty where there is to be none.
        found: whether it is there.
        by_command: command -> parameter -> value, nested as groups are.

    Raises:
        click.UsageError: it cannot be read, or says what makes no sense.
    """

    def __init__(self, every: Sequence[Setting]) -> None:
        self.path, wanted = _place()
        told = _read(self.path, wanted) if self.path else None
        self.found = told is not None
        self.by_command: dict[str, Any] = {}
        self._origins: dict[tuple[Path, str], str] = {}
        self._all = every
        if told is not None:
            self._take(told, ())

    def origin(self, setting: Setting) -> str:
        """Where in the file a setting was found."""
        return self._origins[setting.command, setting.key]

    def _take(self, table: dict[str, Any], at: Path) -> None:
        """Take in what is said of the commands at or below `at`; tables come last, so that they win."""
        seen: set[str] = set()
        for name, given in sorted(table.items(), key=lambda pair: isinstance(pair[1], dict)):
            if isinstance(given, dict):
                if not any(setting.command[: len(at) + 1] == (*at, name) for setting in self._all):
                    below = [setting.command[len(at) :] for setting in self._all if setting.command[: len(at)] == at]
                    known = {path[0] for path in below if path}
                    where = f"[{_dotted((*at, name))}]"
                    raise click.UsageError(f"{self._where(at)}{where}: there is no such command{_like(name, known)}")
                self._take(given, (*at, name))
                continue
            key = name.replace("_", "-")
            if key in seen:
                raise click.UsageError(f"{self._where(at)}{printable(key)}: it is there twice, with - and with _")
            seen.add(key)
            self._take_one(key, given, at)

    def _take_one(self, key: str, given: Any, at: Path) -> None:
        where = f"{self._where(at)}{printable(key)}"
        below = [setting for setting in self._all if setting.command[: len(at)] == at]
        having = [setting for setting in below if setting.key == key]
        if not having:
            raise click.UsageError(f"{where}: {_why_not(key, {setting.key for setting in below}, at)}")
        if len({_form(setting.option) for setting in having}) > 1:
            tables = ", ".join(f"[{_dotted(setting.command)}]" for setting in having)
            raise click.UsageError(f"{where}: it is not the same for every command; say it in one of {tables}")
        for setting in having:
            defaults = self.by_command
            for name in setting.command:
                defaults = defaults.setdefault(name, {})
            assert setting.option.name is not None
            defaults[setting.option.name] = setting.value(given, where)
            self._origins[setting.command, setting.key] = f"[{_dotted(at)}]" if at else "top"

    def _where(self, at: Path) -> str:
        return f"{printable(self.path)}: " + (f"[{_dotted(at)}] " if at else "")


def settings(root: click.Group) -> list[Setting]:
    """All options of all commands that are settings."""
    found = [(path, key, option) for path, option in _options(root, ()) if (key := _key(option))]
    forms: dict[str, set[object]] = {}
    for _, key, option in found:
        forms.setdefault(key, set()).add(_form(option))
    return [
        Setting(path, key, option, len(forms[key]) == 1)
        for path, key, option in found
        if key not in _EACH_TIME and key not in _ONE_RUN and key not in _SECRETS
    ]


def set_variables(every: Sequence[Setting]) -> None:
    """Give each setting its variable."""
    for setting in every:
        if setting.option.envvar is None:
            setting.option.envvar = setting.variable


def show(context: click.Context, command: Path, *, as_json: bool) -> int:
    """Print the settings of a command, or of all, with the origin of each: the exit code.

    Raises:
        click.UsageError: the file or a variable says what makes no sense, or there is no such command.
    """
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    every = settings(root.command)
    file = File(every)
    shown = [setting for setting in every if setting.command[: len(command)] == command]
    if not shown:
        known = {_dotted(setting.command) for setting in every}
        raise click.UsageError(f"{printable(' '.join(command))!r} has no settings{_like(_dotted(command), known)}")
    told = [(setting, *_found(root, file, setting)) for setting in shown]
    strange = _strange_variables(every)
    if as_json:
        each = [
            {"command": " ".join(setting.command), "option": setting.key, "value": value, "origin": origin, "at": at}
            for setting, value, origin, at in told
        ]
        written = {"v": 1, "file": file.path or None, "found": file.found, "settings": each, "unknown": strange}
        import json  # noqa: PLC0415 (slow to import, and seldom needed)

        output.write(json.dumps(written).encode() + b"\n")
        return exits.DONE
    lines = [_first_line(file), *(f"# {name}: no setting is called so" for name in strange)]
    before: Path = ()
    for setting, value, origin, at in told:
        if setting.command != before:
            lines += ["", f"[{_dotted(setting.command)}]"]
            before = setting.command
        # What can be set reads as it would in the file.
        line = f"# {setting.key}" if value is None else f"{setting.key} = {_as_toml(value)}"
        lines.append(f"{line:<32}  # {'not set' if value is None and origin == 'default' else at or origin}")
    output.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    return exits.DONE


def _found(root: click.Context, file: File, setting: Setting) -> tuple[Any, str, str]:
    """A setting's value, its origin (`variable`, `file`, `default`), and which of them."""
    context = root
    command: click.Command = root.command
    for name in setting.command:
        assert isinstance(command, click.Group)
        command = command.commands[name]
        # Without its arguments, which are no settings.
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    assert setting.option.name is not None
    value = context.params[setting.option.name]
    match context.get_parameter_source(setting.option.name):
        case ParameterSource.ENVIRONMENT:
            variable = str(setting.option.envvar)
            try:
                value = setting.option.process_value(context, setting.option.value_from_envvar(context))
            except click.BadParameter as error:
                raise click.UsageError(f"{variable}: {error.message}") from error
            return value, "variable", variable
        case ParameterSource.DEFAULT_MAP:
            at = file.origin(setting)
            return value, "file", file.path if at == "top" else f"{file.path} {at}"
    return value, "default", ""


def _first_line(file: File) -> str:
    if not file.path:
        empty = f"{FILE_VARIABLE} is empty"
        return f"# no file: {empty if FILE_VARIABLE in os.environ else 'this user has no home folder'}"
    return f"# {printable(file.path)}" + ("" if file.found else " (not there)")


def _strange_variables(every: Sequence[Setting]) -> list[str]:
    """Variables that begin as ours do and mean nothing: misspelt, or never to be set so. Their values may be secret."""
    known = _OTHER_VARIABLES.union(str(setting.option.envvar) for setting in every)
    return sorted(printable(name) for name in os.environ if name.startswith(_PREFIX) and name not in known)


def _place() -> tuple[str, bool]:
    """Where the file is, empty where there is to be none; and whether somebody said so: then it has to be there."""
    said = os.environ.get(FILE_VARIABLE)
    if said is not None:
        return said, True
    try:
        return os.path.join(config_folder(), "config.toml"), False
    except StoreError:  # this user has no home
        return "", False


def _read(path: str, wanted: bool) -> dict[str, Any] | None:
    try:
        # Opening a pipe does not wait.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) and path != os.devnull:
                raise OSError(errno.EINVAL, "it is no plain file")
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise OSError(errno.EFBIG, "it is too big")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not wanted:
            return None
        raise click.UsageError(f"{printable(path)}: there is no such file; {FILE_VARIABLE} names it") from error
    except OSError as error:
        told = f"cannot read the settings in {printable(path)}: {error.strerror}"
        raise click.UsageError(f"{told}; with {FILE_VARIABLE}= (empty) it is not looked for") from error
    import tomllib  # noqa: PLC0415 (only where there is a file)

    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{printable(path)} is no TOML: it is not in UTF-8") from error
    except (ValueError, RecursionError) as error:  # not only tomllib's own: a number may be too long for Python
        raise click.UsageError(f"{printable(path)} is no TOML: {printable(str(error))}") from error


def _options(command: click.Command, at: Path) -> Iterator[tuple[Path, click.Option]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _options(inner, (*at, name))
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield at, parameter


def _key(option: click.Option) -> str | None:
    return next((name[2:] for name in option.opts if name.startswith("--")), None)


def _form(option: click.Option) -> object:
    """What is equal for two options that take the same."""
    choices = tuple(option.type.choices) if isinstance(option.type, click.Choice) else ()
    return option.type.name, choices, option.is_flag, option.multiple


def _why_not(key: str, known: set[str], at: Path) -> str:
    """Why there can be no such key."""
    if key in _EACH_TIME:
        return f"this is said each time, as --{key}: {_EACH_TIME[key]}"
    if key in _SECRETS:
        return "a secret does not go into a file; type it when it is asked for"
    if key in _ONE_RUN:
        return f"this is about one run; say --{key}"
    whose = f"`enchufe {' '.join(at)}` has" if at else "there is"
    return f"{whose} no such setting{_like(key, known)}"


def _like(name: str, known: set[str]) -> str:
    import difflib  # noqa: PLC0415 (only where something is misspelt)

    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; is it {near[0]}?" if near else "; `enchufe config show` lists all"


def _wanted(option: click.Option) -> str:
    if option.multiple:
        return "a list of texts"
    if option.is_flag:
        return "true or false"
    if option.type.name in _WHOLE:
        return "a whole number"
    if option.type.name in _NUMBERS:
        return "a number"
    if isinstance(option.type, Size):
        return 'a size, as "20MB"'
    return 'a rate, as "20MB/s"' if isinstance(option.type, Rate) else "a text"


def _fits(option: click.Option, value: object) -> bool:
    if option.is_flag or isinstance(value, bool):
        return option.is_flag and isinstance(value, bool)
    if option.type.name in _NUMBERS:
        return isinstance(value, int if option.type.name in _WHOLE else int | float)
    if isinstance(option.type, Rate) and isinstance(value, float):
        return True
    return isinstance(value, str) or (isinstance(value, int) and isinstance(option.type, Size | Rate))


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return kinds.get(type(value), "that")


def _as_toml(value: object) -> str:
    """As TOML, of which JSON's strings, numbers and lists are a part."""
    import json  # noqa: PLC0415 (slow to import, and seldom needed)

    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _dotted(path: Path) -> str:
    return printable(".".join(path))
