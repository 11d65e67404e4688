"""The side that dials: it knocks, proves who it is, and makes sure who answers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import field

from enchufe.access import messages as m
from enchufe.access.admitted import Admitted, Identity, Introduction
from enchufe.access.binding import Binding, derived
from enchufe.access.codes import Code
from enchufe.access.exchange import Exchange
from enchufe.access.refusals import AnotherMachine, UnknownMachine
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.transports.tls import TlsTransport


@dataclass(frozen=True, slots=True)
class ByCode:
    """I was told a code."""

    code: Code


@dataclass(frozen=True, slots=True)
class ByKey:
    """We know each other.

    Attributes:
        identity: this machine's key.
        whom: the other's public key.
    """

    identity: Identity
    whom: bytes


@dataclass(frozen=True, slots=True)
class ByToken:
    """I was given a token, and told the listener's certificate.

    Attributes:
        token: its key.
    """

    token: Identity = field(repr=False)


@dataclass(frozen=True, slots=True)
class ByPass:
    """I was here before.

    Attributes:
        secret: of the connection before.
    """

    secret: bytes = field(repr=False)


Proof = ByCode | ByKey | ByToken | ByPass


async def knock(
    transport: TlsTransport,
    proof: Proof,
    deadline: float,
    *,
    introduction: Introduction | None = None,
    certificate: bytes | None = None,
) -> Admitted:
    """Be let in. What the other side says after that is still to be received.

    Args:
        transport: over `dialing_context`, after its handshake; the caller closes it, whatever happens.
        proof: what lets us in.
        deadline: for all of it, on the clock of the transport's waiter.
        introduction: how this machine introduces itself, if it is to.
        certificate: the SHA-256 of the certificate that it must be, where a link says so; by token it must.

    Raises:
        WrongCode, CodeGone, UnknownMachine, TokenRefused: we were denied; Refused: for a reason of a later version.
        AnotherMachine: it is not the one that was wanted, or does not prove it.
        RemoteProtocolError: it broke the protocol.
        BrokenError: the connection was cut or ended.
        DeadlineExceeded: it was not done in time.
        LocalProtocolError: a token without a certificate.
    """
    talk = Exchange(transport, deadline, "dialer")
    shown = shown_by(transport)
    if certificate is None and isinstance(proof, ByToken):
        raise LocalProtocolError("a token needs the certificate of whom it is for", hint="Use the whole link.")
    if certificate is not None and not hmac.compare_digest(certificate, shown):
        raise AnotherMachine(
            f"{transport.peer} is not the one that the link is for: it shows another certificate",
            hint="If the link is an old one, ask for a new one; else somebody may stand between.",
        )
    hello = m.Knock(m.MAGIC, m.VERSION, m.VERSION, secrets.token_bytes(32))
    await talk.say(hello)
    nonce = await talk.hear(m.Nonce)
    if nonce.version != m.VERSION:
        raise RemoteProtocolError(
            f"{transport.peer} lets in by version {nonce.version} only; this is {m.VERSION}",
            hint=m.whom_to_update(nonce.version),
        )
    binding = Binding.of(shown, hello, nonce)
    match proof:
        case ByCode(code):
            return await _by_code(talk, binding, code, introduction)
        case ByKey(identity, whom):
            return await _by_key(talk, binding, identity, whom, introduction)
        case ByToken(token):
            return await _by_token(talk, binding, token, introduction)
        case ByPass(secret):
            return await _again(talk, binding, secret, introduction)


def shown_by(transport: TlsTransport) -> bytes:
    """The SHA-256 of the certificate that the other side showed, as links have it.

    Raises:
        LocalProtocolError: before the handshake.
    """
    return hashlib.sha256(transport.peer_certificate() or b"").digest()


async def _by_code(talk: Exchange, binding: Binding, code: Code, introduction: Introduction | None) -> Admitted:
    from enchufe.access.pairing import DialerPairing  # noqa: PLC0415 (slow to import, and who is known needs none of it)

    pairing = DialerPairing(code, binding)
    await talk.say(m.Code(pairing.message))
    await talk.say(m.Confirm(pairing.hear((await talk.hear(m.Code)).spake)))
    secret = pairing.finish((await talk.hear(m.Confirm)).mac)
    await talk.say(talk.welcome(binding, introduction))
    introduced = talk.introduced(binding, await talk.hear(m.Welcome))
    return Admitted(talk.transport, secret, "code", introduced=introduced)


async def _by_key(
    talk: Exchange, binding: Binding, identity: Identity, whom: bytes, introduction: Introduction | None
) -> Admitted:
    await talk.say(m.Whom(binding.whom(whom)))
    theirs = await talk.hear(m.Proof)
    known = hmac.compare_digest(theirs.public, whom)
    if not known or not binding.is_signature(whom, b"enchufe listener", theirs.signature):
        raise AnotherMachine(AnotherMachine.told.format(peer=talk.transport.peer))
    ours = identity.sign(binding.signed(b"enchufe dialer" + whom))
    await talk.say(m.Proof(identity.public, ours), talk.welcome(binding, introduction))
    introduced = talk.introduced(binding, await talk.hear(m.Welcome), whom)
    return Admitted(talk.transport, binding.secret(), "key", introduced=introduced)


async def _by_token(talk: Exchange, binding: Binding, token: Identity, introduction: Introduction | None) -> Admitted:
    await talk.say(m.Token(token.public, token.sign(binding.signed(b"enchufe token"))))
    introduced = talk.introduced(binding, await talk.hear(m.Welcome))
    await talk.say(talk.welcome(binding, introduction))
    return Admitted(talk.transport, binding.secret(), "token", introduced=introduced)


async def _again(talk: Exchange, binding: Binding, before: bytes, introduction: Introduction | None) -> Admitted:
    key = derived(before, "pass key", 32)
    await talk.say(m.Again(derived(before, "pass", 16), binding.mac(key, b"dialer")))
    try:
        confirm = await talk.hear(m.Confirm)
    except UnknownMachine:
        raise UnknownMachine(
            f"{talk.transport.peer} does not remember the connection that was cut",
            hint="It may have been started anew: begin again, with a new code where there was one.",
        ) from None
    if not binding.is_mac(key, b"listener", confirm.mac):
        raise AnotherMachine(
            f"{talk.transport.peer} is not the one that was connected before", hint="Somebody may stand between."
        )
    introduced = talk.introduced(binding, await talk.hear(m.Welcome))
    await talk.say(talk.welcome(binding, introduction))
    return Admitted(talk.transport, binding.secret(), "again", introduced=introduced)
