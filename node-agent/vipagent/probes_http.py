"""The door to HTTP: one GET over asyncio's streams, its bytes read and written by h11.

What passes: a status of `expectedStatuses`, by default any of 200 to 399; a redirect is an answer
and is not followed. Where `bodyRegex` is given it must also be found somewhere in the first
`BODY_BYTES` of the body, read as UTF-8; without it the body is not waited for.

HTTPS follows the kubelet: the certificate is *not* verified, for a health check asks whether the
service works, and its certificate seldom names 127.0.0.1. With `tlsServerName` it is: the name is
sent as SNI and the certificate must be valid for it under the system's trusted authorities (those
that OpenSSL finds; `SSL_CERT_FILE` names others), as they are now (`probes_tls`).

Nothing here can hold the event loop up: sizes are bounded, by h11 for the header and here for the body,
and so is the time of a regular expression (`probes_regex`).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import ssl
from typing import TYPE_CHECKING

import h11

from vipagent import probes_regex
from vipagent.health import Result
from vipagent.probes_tls import unverified

if TYPE_CHECKING:
    from vipagent.probes_names import Names
    from vipagent.probes_tls import Authorities
    from vipapi.healthchecks import HTTPGet

BODY_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024
# A body of one-byte chunks, or one "100 Continue" after another, is thousands of events in what has come at
# one time; in between, the loop has other work.
_EVENTS_A_TURN = 16


def url(probe: HTTPGet) -> str:
    """Return the address that is asked."""
    host = probe.host or "127.0.0.1"
    scheme = (probe.scheme or "HTTP").lower()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{probe.port}{_path(probe)}"


def _path(probe: HTTPGet) -> str:
    path = probe.path or "/"
    return path if path.startswith("/") else f"/{path}"


async def get(probe: HTTPGet, names: Names, authorities: Authorities) -> Result:
    """Ask once and judge the answer.

    Waits as long as the server takes: the caller bounds the time. Raises `OSError` where there is no
    connection (a failed TLS handshake is one, too).
    """
    try:
        reader, writer = await _connect(probe, names, authorities)
    except ssl.SSLCertVerificationError as error:
        message = f"{url(probe)}: the certificate is not valid for {probe.tls_server_name}: "
        return Result(is_ok=False, message=message + error.verify_message)
    except ssl.SSLError as error:
        return Result(is_ok=False, message=f"{url(probe)}: no TLS: {error.reason or error}")
    try:
        return await converse(probe, reader, writer)
    finally:
        writer.transport.abort()


async def converse(probe: HTTPGet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Result:
    """Ask once over a connection and judge the answer."""
    try:
        connection = h11.Connection(our_role=h11.CLIENT)
        request = connection.send(_request(probe))
        assert request is not None
        writer.write(request + (connection.send(h11.EndOfMessage()) or b""))
        return await _judge(probe, connection, reader)
    except h11.LocalProtocolError as error:
        return Result(is_ok=False, message=f"{url(probe)}: this cannot be asked: {error}")
    except h11.ProtocolError as error:
        return Result(is_ok=False, message=f"{url(probe)}: not HTTP: {error}")


def _request(probe: HTTPGet) -> h11.Request:
    host = probe.host or "127.0.0.1"
    given = {header.name.lower() for header in probe.headers}
    own = {
        "Host": probe.tls_server_name or f"{f'[{host}]' if ':' in host else host}:{probe.port}",
        "User-Agent": "vipkeeper-check",
        "Accept": "*/*",
        "Connection": "close",
    }
    headers = [(name, value) for name, value in own.items() if name.lower() not in given]
    headers += [(header.name, header.value) for header in probe.headers]
    return h11.Request(method="GET", target=_path(probe), headers=headers)


async def _judge(probe: HTTPGet, connection: h11.Connection, reader: asyncio.StreamReader) -> Result:
    response = await _final(connection, reader)
    if not isinstance(response, h11.Response):
        return Result(is_ok=False, message=f"{url(probe)}: closed without an answer")
    if not _is_expected(probe, response.status_code):
        return Result(is_ok=False, message=f"{url(probe)}: status {response.status_code}")
    if probe.body_regex is None:
        return Result(is_ok=True)
    body = bytearray()
    for count in itertools.count(1):
        event = await _next(connection, reader)
        if not isinstance(event, h11.Data):
            break
        body += event.data
        if len(body) >= BODY_BYTES:
            break
        if count % _EVENTS_A_TURN == 0:
            await asyncio.sleep(0)
    return _search(probe, probe.body_regex, body[:BODY_BYTES].decode(errors="replace"))


async def _final(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    """Return what comes after all that is only on the way to an answer."""
    count = 0
    while isinstance(event := await _next(connection, reader), h11.InformationalResponse):
        count += 1
        if count % _EVENTS_A_TURN == 0:
            await asyncio.sleep(0)
    return event


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    """Return the next event, None where the server wants another protocol."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            return None
        connection.receive_data(await reader.read(_READ_BYTES))


def _is_expected(probe: HTTPGet, status: int) -> bool:
    if probe.expected_statuses:
        return status in probe.expected_statuses
    return 200 <= status < 400  # noqa: PLR2004 - HTTP's classes


def _search(probe: HTTPGet, pattern: str, body: str) -> Result:
    why_not = probes_regex.mismatch("bodyRegex", pattern, body, where=f"{url(probe)}: the body")
    return Result(is_ok=why_not is None, message=why_not or "")


async def _connect(
    probe: HTTPGet, names: Names, authorities: Authorities
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connect = functools.partial(
        names.connect, probe.host or "127.0.0.1", probe.port, server_name=probe.tls_server_name
    )
    if (probe.scheme or "HTTP") != "HTTPS":
        return await connect()
    if probe.tls_server_name is None:
        return await connect(tls=unverified())
    context = await authorities.context()
    try:
        return await connect(tls=context)
    except ssl.SSLCertVerificationError:
        newer = await authorities.newer(context)
        if newer is None:
            raise
        return await connect(tls=newer)
