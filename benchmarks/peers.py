"""The peers: for each, how its receiver is set up and which command then sends.

Every peer is one function of the same shape. It starts what has to listen, waits until that does, and returns
the sender's command, which is where the clock starts. Servers get a fresh directory and a fresh port each time.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.ourselves import Ourselves
from benchmarks.processes import LOCAL, Command, Pipeline, Process, Stage, free_port

CIPHER: Final = "aes128-gcm@openssh.com"
SOCAT_BUFFER: Final = "1048576"


@dataclass(frozen=True)
class Transfer:
    """What is timed: from the start of the sender until it and all of `receivers` have ended.

    Attributes:
        events: where enchufe's receiver tells its receipt.
    """

    sender: Pipeline
    receivers: Sequence[Process] = field(default=())
    events: Path | None = None


Prepare = Callable[[Path, Path, Stage], Transfer]


@dataclass(frozen=True)
class Peer:
    """Somebody who can bring `source` into a directory, under the name it has.

    Attributes:
        files, trees: whether it can send one file, and a tree.
        delivers: whether there is a result to look at.
        probe: a command that succeeds where it is really installed.
    """

    name: str
    label: str
    programs: Sequence[str]
    prepare: Prepare
    files: bool = True
    trees: bool = True
    delivers: bool = True
    probe: Command = ()

    def absence(self) -> str | None:
        """Why it cannot run here, or None."""
        if missing := [name for name in self.programs if _which(name) is None]:
            return f"there is no {' and no '.join(missing)} here (see packages.sh)"
        if self.probe:
            tried = subprocess.run(self.probe, check=False, capture_output=True, text=True)
            if tried.returncode:
                return f"`{shlex.join(self.probe)}` fails: {tried.stderr.strip()[-300:]}"
        return None


def peers(ours: Ourselves, variants: Sequence[Ourselves] = ()) -> list[Peer]:
    """All of them, in the order of the table; enchufe is the last: plain, by a code, by a key, with other options."""
    return [
        Peer("cp", "cp -r", ["cp"], copy),
        Peer("nc", "nc > file", ["nc.openbsd"], netcat, trees=False),
        Peer("socat", f"socat -b {SOCAT_BUFFER}", ["socat"], socat, trees=False),
        Peer("tar", "tar | nc", ["tar", "nc.openbsd"], tar, files=False),
        Peer("rsync", "rsync -a, daemon", ["rsync"], rsync()),
        Peer("rsync-ssh", "rsync -a, ssh", ["rsync", "ssh", "sshd", "ssh-keygen"], rsync_over_ssh),
        Peer("scp", "scp, aes128-gcm", ["scp", "sshd", "ssh-keygen"], scp),
        Peer("wormhole", "magic-wormhole", ["wormhole"], wormhole, trees=False, probe=["wormhole", "--version"]),
        Peer("wdt", "wdt, crc32c", ["wdt"], wdt("none", "-enable_checksum")),
        Peer("wdt-gcm", "wdt, aes128-gcm", ["wdt"], wdt("aes128gcm")),
        enchufe(ours),
        enchufe(replace(ours, plain=False), name="encrypted"),
        enchufe(replace(ours, plain=False, known=True), name="known"),
        *(enchufe(variant, name=variant.label) for variant in variants),
    ]


def absences(chosen: Sequence[Peer]) -> dict[str, str]:
    """Who of them cannot run here, and why."""
    return {peer.name: why for peer in chosen if (why := peer.absence()) is not None}


def copy(source: Path, into: Path, _stage: Stage) -> Transfer:
    """No network at all: what the filesystem alone costs."""
    return Transfer(Pipeline([["cp", "-r", str(source), str(into)]]))


def netcat(source: Path, into: Path, stage: Stage) -> Transfer:
    """One file through netcat."""
    port = free_port()
    network = stage.network
    listen = _nc_listen(network.address, port)
    receivers = stage.start(Pipeline([listen], stdout=into / source.name, inside=network.receiver))
    stage.listening(receivers, port)
    return Transfer(Pipeline([_nc_connect(network.address, port)], stdin=source, inside=network.sender), receivers)


def socat(source: Path, into: Path, stage: Stage) -> Transfer:
    """One file through socat, with a buffer that suits it better than its own 8 KiB."""
    port = free_port()
    network = stage.network
    one_way = ["socat", "-u", "-b", SOCAT_BUFFER]
    listen = [*one_way, f"TCP4-LISTEN:{port},bind={network.address},reuseaddr", "STDOUT"]
    receivers = stage.start(Pipeline([listen], stdout=into / source.name, inside=network.receiver))
    stage.listening(receivers, port)
    connect = [*one_way, "STDIN", f"TCP4:{network.address}:{port}"]
    return Transfer(Pipeline([connect], stdin=source, inside=network.sender), receivers)


def tar(source: Path, into: Path, stage: Stage) -> Transfer:
    """A tree as one stream."""
    port = free_port()
    network = stage.network
    unpack = ["tar", "-C", str(into), "-xf", "-"]
    receivers = stage.start(Pipeline([_nc_listen(network.address, port), unpack], inside=network.receiver))
    stage.listening(receivers, port)
    pack = ["tar", "-C", str(source.parent), "-cf", "-", source.name]
    return Transfer(Pipeline([pack, _nc_connect(network.address, port)], inside=network.sender), receivers)


def rsync(*options: str) -> Prepare:
    """Rsync to a daemon of its own, so without ssh."""

    def prepare(source: Path, into: Path, stage: Stage) -> Transfer:
        port = free_port()
        network = stage.network
        config = stage.scratch / "rsyncd.conf"
        # Root's daemon would otherwise become nobody, who may not write here.
        as_root = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
        config.write_text(f"{as_root}use chroot = no\nmunge symlinks = no\n[into]\npath = {into}\nread only = no\n")
        daemon = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
        daemon += [f"--address={network.address}", f"--port={port}"]
        stage.listening(stage.start(Pipeline([daemon], inside=network.receiver)), port)
        client = ["rsync", "-a", *options, str(source), f"rsync://{network.address}:{port}/into/"]
        return Transfer(Pipeline([client], inside=network.sender))

    return prepare


def rsync_locally(source: Path, into: Path, _stage: Stage) -> Transfer:
    """Rsync without a network."""
    return Transfer(Pipeline([["rsync", "-a", str(source), f"{into}/"]]))


@dataclass(frozen=True)
class _Sshd:
    """An sshd of its own, with keys of its own and the cipher that is fastest where AES is in hardware.

    Attributes:
        options: what ssh and scp must be told, but for the port.
    """

    port: int
    options: Command

    @classmethod
    def start(cls, stage: Stage) -> _Sshd:
        """Start it and wait until it listens."""
        port = free_port()
        network = stage.network
        host_key, user_key = stage.scratch / "host_key", stage.scratch / "user_key"
        for key in (host_key, user_key):
            stage.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", str(key)])
        known_hosts = stage.scratch / "known_hosts"
        known_hosts.write_text(f"[{network.address}]:{port} {host_key.with_suffix('.pub').read_text()}")
        config = stage.scratch / "sshd_config"
        config.write_text(
            f"ListenAddress {network.address}\nPort {port}\nHostKey {host_key}\nAuthorizedKeysFile {user_key}.pub\n"
            f"Ciphers {CIPHER}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            # Where Debian's service script would make it; without it root's sshd refuses to start.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # sshd insists on being called by its full path, since it executes itself again.
        server = [_which("sshd") or "sshd", "-D", "-e", "-f", str(config)]
        stage.listening(stage.start(Pipeline([server], inside=network.receiver)), port)
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={known_hosts}", f"User={getpass.getuser()}"]
        words = ["-F", "none", "-c", CIPHER, "-i", str(user_key)]
        return cls(port, words + [word for option in options for word in ("-o", option)])


def scp(source: Path, into: Path, stage: Stage) -> Transfer:
    """Scp to an sshd of its own."""
    sshd = _Sshd.start(stage)
    client = ["scp", "-r", "-q", "-P", str(sshd.port), *sshd.options, str(source), f"{stage.network.address}:{into}/"]
    return Transfer(Pipeline([client], inside=stage.network.sender))


def rsync_over_ssh(source: Path, into: Path, stage: Stage) -> Transfer:
    """Rsync as most people run it."""
    sshd = _Sshd.start(stage)
    shell = shlex.join(["ssh", "-p", str(sshd.port), *sshd.options])
    client = ["rsync", "-a", "-e", shell, str(source), f"{stage.network.address}:{into}/"]
    return Transfer(Pipeline([client], inside=stage.network.sender))


def wormhole(source: Path, into: Path, stage: Stage) -> Transfer:
    """Magic-wormhole with a mailbox server of its own, from the same environment; no transit relay is needed."""
    port = free_port()
    program = Path(shutil.which("wormhole") or "wormhole").resolve()
    mailbox = [str(program.with_name("twist")), "wormhole-mailbox", f"--port=tcp:{port}:interface={LOCAL}"]
    mailbox.append(f"--channel-db={stage.scratch / 'mailbox.sqlite'}")
    stage.listening(stage.start(Pipeline([mailbox])), port)
    command = [str(program), "--relay-url", f"ws://{LOCAL}:{port}/v1", "--transit-helper", f"tcp:{LOCAL}:{port}"]
    code = f"{port}-benchmark-{secrets.token_hex(4)}"
    receive = [*command, "receive", "--accept-file", "--hide-progress", "-o", str(into / source.name), code]
    receivers = stage.start(Pipeline([receive]))
    stage.connected(receivers, port)
    send = [*command, "send", "--hide-progress", "--no-qr", "--code", code, str(source)]
    return Transfer(Pipeline([send]), receivers)


def wdt(encryption: str, *options: str) -> Prepare:
    """Facebook's Warp speed Data Transfer; all that is beside `source` goes too."""

    def prepare(source: Path, into: Path, stage: Stage) -> Transfer:
        network = stage.network
        said = stage.scratch / "url"
        program = ["wdt", "-ipv4", f"-encryption_type={encryption}", *options]
        listen = [*program, f"-hostname={network.address}", f"-directory={into}"]
        receivers = stage.start(Pipeline([listen], stdout=said, inside=network.receiver))
        stage.until(lambda: said.read_text().endswith("\n"), receivers, "prints no URL")
        send = [*program, f"-directory={source.parent}", f"-connection_url={said.read_text().strip()}"]
        return Transfer(Pipeline([send], inside=network.sender), receivers)

    return prepare


def enchufe(ours: Ourselves, *receiving: str, name: str = "enchufe") -> Peer:
    """Ourselves; `receiving` are more options of the receiver."""

    def prepare(source: Path, into: Path, stage: Stage) -> Transfer:
        receiver = ours.receive(into, stage, *receiving)
        return Transfer(ours.send(source, receiver, stage), [receiver.process], receiver.events)

    return Peer(name, ours.label, [ours.command[0]], prepare, probe=[*ours.command, "--help"])


def _nc_listen(address: str, port: int) -> Command:
    return ["nc.openbsd", "-N", "-l", address, str(port)]


def _nc_connect(address: str, port: int) -> Command:
    return ["nc.openbsd", "-N", address, str(port)]


def _which(name: str) -> str | None:
    # Debian keeps sshd where only root's PATH looks.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
