"""The peers: for each, how its receiver is set up and which command then sends.

Every peer is one function of the same shape. It starts what has to listen, waits until that does, and returns
the sender's command, which is where the clock starts. Servers get a fresh directory and a fresh port each time.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.processes import LOCAL, Command, Pipeline, Process, Stage, free_port

CIPHER: Final = "aes128-gcm@openssh.com"
SOCAT_BUFFER: Final = "1048576"


@dataclass(frozen=True)
class Transfer:
    """What is timed: from the start of the sender until it and all of `receivers` have ended."""

    sender: Pipeline
    receivers: Sequence[Process] = field(default=())


Prepare = Callable[[Path, Path, Stage], Transfer]


@dataclass(frozen=True)
class Peer:
    """Somebody who can bring `source` into a directory, under the name it has."""

    name: str
    label: str
    programs: Sequence[str]
    prepare: Prepare
    files: bool = True
    trees: bool = True
    probe: Command = ()  # succeeds where it is really installed

    def absence(self) -> str | None:
        """Why it cannot run here, or None."""
        if missing := [name for name in self.programs if _which(name) is None]:
            return f"there is no {' and no '.join(missing)} here (see packages.sh)"
        if self.probe:
            tried = subprocess.run(self.probe, check=False, capture_output=True, text=True)
            if tried.returncode:
                return f"`{shlex.join(self.probe)}` fails: {tried.stderr.strip()[-300:]}"
        return None


def peers(enchufe_command: Command) -> list[Peer]:
    """All of them, in the order of the table; enchufe is the last."""
    probe = [*enchufe_command, "--help"]
    return [
        Peer("cp", "cp -r", ["cp"], copy),
        Peer("nc", "nc > file", ["nc.openbsd"], netcat, trees=False),
        Peer("socat", f"socat -b {SOCAT_BUFFER}", ["socat"], socat, trees=False),
        Peer("tar", "tar | nc", ["tar", "nc.openbsd"], tar, files=False),
        Peer("rsync", "rsync -a, daemon", ["rsync"], rsync),
        Peer("scp", "scp, aes128-gcm", ["scp", "sshd", "ssh-keygen"], scp),
        Peer("enchufe", "enchufe --plain", [enchufe_command[0]], enchufe(enchufe_command), probe=probe),
    ]


def copy(source: Path, into: Path, _stage: Stage) -> Transfer:
    """No network at all: what the filesystem alone costs."""
    return Transfer(Pipeline([["cp", "-r", str(source), str(into)]]))


def netcat(source: Path, into: Path, stage: Stage) -> Transfer:
    """One file through netcat."""
    port = free_port()
    receivers = stage.start(Pipeline([_nc_listen(port)], stdout=into / source.name))
    stage.listening(receivers, port)
    return Transfer(Pipeline([_nc_connect(port)], stdin=source), receivers)


def socat(source: Path, into: Path, stage: Stage) -> Transfer:
    """One file through socat, with a buffer that suits it better than its own 8 KiB."""
    port = free_port()
    one_way = ["socat", "-u", "-b", SOCAT_BUFFER]
    listen = [*one_way, f"TCP4-LISTEN:{port},bind={LOCAL},reuseaddr", "STDOUT"]
    receivers = stage.start(Pipeline([listen], stdout=into / source.name))
    stage.listening(receivers, port)
    return Transfer(Pipeline([[*one_way, "STDIN", f"TCP4:{LOCAL}:{port}"]], stdin=source), receivers)


def tar(source: Path, into: Path, stage: Stage) -> Transfer:
    """A tree as one stream."""
    port = free_port()
    receivers = stage.start(Pipeline([_nc_listen(port), ["tar", "-C", str(into), "-xf", "-"]]))
    stage.listening(receivers, port)
    pack = ["tar", "-C", str(source.parent), "-cf", "-", source.name]
    return Transfer(Pipeline([pack, _nc_connect(port)]), receivers)


def rsync(source: Path, into: Path, stage: Stage) -> Transfer:
    """Rsync to a daemon of its own, so without ssh."""
    port = free_port()
    config = stage.scratch / "rsyncd.conf"
    # Root's daemon would otherwise become nobody, who may not write here.
    as_root = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
    config.write_text(f"{as_root}use chroot = no\nmunge symlinks = no\n[into]\npath = {into}\nread only = no\n")
    daemon = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--address={LOCAL}", f"--port={port}"]
    stage.listening(stage.start(Pipeline([daemon])), port)
    return Transfer(Pipeline([["rsync", "-a", str(source), f"rsync://{LOCAL}:{port}/into/"]]))


def scp(source: Path, into: Path, stage: Stage) -> Transfer:
    """Scp to an sshd of its own, with keys of its own and the cipher that is fastest where AES is in hardware."""
    port = free_port()
    host_key, user_key = stage.scratch / "host_key", stage.scratch / "user_key"
    for key in (host_key, user_key):
        stage.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", str(key)])
    known_hosts = stage.scratch / "known_hosts"
    known_hosts.write_text(f"[{LOCAL}]:{port} {host_key.with_suffix('.pub').read_text()}")
    config = stage.scratch / "sshd_config"
    config.write_text(
        f"ListenAddress {LOCAL}\nPort {port}\nHostKey {host_key}\nAuthorizedKeysFile {user_key}.pub\n"
        f"Ciphers {CIPHER}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        # Where Debian's service script would make it; without it root's sshd refuses to start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # sshd insists on being called by its full path, since it executes itself again.
    server = [_which("sshd") or "sshd", "-D", "-e", "-f", str(config)]
    stage.listening(stage.start(Pipeline([server])), port)
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
    options += [f"UserKnownHostsFile={known_hosts}", f"User={getpass.getuser()}"]
    client = ["scp", "-r", "-q", "-F", "none", "-c", CIPHER, "-P", str(port), "-i", str(user_key)]
    client += [word for option in options for word in ("-o", option)]
    return Transfer(Pipeline([[*client, str(source), f"{LOCAL}:{into}/"]]))


def enchufe(command: Command) -> Prepare:
    """Ourselves, without encryption as all the others but scp."""

    def prepare(source: Path, into: Path, stage: Stage) -> Transfer:
        events = stage.scratch / "events"
        options = ["-o", str(into), "--plain", "--json", "--quiet"]
        receivers = stage.start(Pipeline([[*command, "receive", "--listen", f"{LOCAL}:0", *options]], stdout=events))
        stage.until(lambda: _address(events) is not None, receivers, "does not say where it listens")
        send = [*command, "send", str(source), "--to", _address(events) or "", "--plain", "--quiet"]
        return Transfer(Pipeline([send]), receivers)

    return prepare


def _address(events: Path) -> str | None:
    # A line counts once its end is there; the rest of it may still be on its way.
    for line in events.read_text().splitlines(keepends=True):
        event = json.loads(line) if line.endswith("\n") else {}
        if event.get("event") == "listening":
            return str(event["address"])
    return None


def _nc_listen(port: int) -> Command:
    return ["nc.openbsd", "-N", "-l", LOCAL, str(port)]


def _nc_connect(port: int) -> Command:
    return ["nc.openbsd", "-N", LOCAL, str(port)]


def _which(name: str) -> str | None:
    # Debian keeps sshd where only root's PATH looks.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
