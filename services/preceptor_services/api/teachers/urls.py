"""Which URLs a teacher may have. The control plane calls them, so they must not lead where only it can go.

Refused: other schemes than http and https, credentials in the URL, and hosts of which any address lies in a refused
network (link-local, metadata services). Redirects are not followed, by anybody. Not covered: a name that resolves to
something else when it is called than when it was checked; registering a teacher is therefore an admin's privilege.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from preceptor.errors import Invalid

Resolve = Callable[[str, int], Iterable[str]]
"""Addresses of a host and port. Raises OSError where there are none."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses that this machine's resolver gives."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]).partition("%")[0] for each in found]


def check_url(url: str, refused: Iterable[str], resolver: Resolve = resolve) -> None:
    """Raises Invalid, saying why, where a teacher may not have this URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid(f"{url[:200]!r} is not a URL ({error})", "Write http://host:port.") from error
    if parts.scheme not in ("http", "https"):
        raise _invalid(f"the scheme {parts.scheme!r} is not http or https", "Write http://host:port.")
    if not parts.hostname:
        raise _invalid("it names no host", "Write http://host:port.")
    if "@" in parts.netloc:
        raise _invalid("it holds credentials", "Put the key into an environment variable and name that as key_env.")
    if parts.query or parts.fragment:
        raise _invalid("it has a query or a fragment", "Write http://host:port, with a path if need be.")
    try:
        addresses = list(resolver(parts.hostname, port or (443 if parts.scheme == "https" else 80)))
    except (OSError, UnicodeError) as error:
        raise _invalid(f"the host {parts.hostname[:200]!r} cannot be resolved ({error})", "Check its name.") from error
    networks = [ip_network(each) for each in refused]
    for address in map(_plain, addresses):
        for network in networks:
            if address.version == network.version and address in network:
                raise _invalid(
                    f"{parts.hostname[:200]} leads to {address} in {network}, where no teacher may be",
                    "Use an address of the teacher that is not link-local.",
                )


def _plain(text: str) -> IPv4Address | IPv6Address:
    """The address that is really meant: IPv6 has ways to write IPv4 ones."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _invalid(why: str, remedy: str) -> Invalid:
    return Invalid(f"url: {why}.", field="url", remedy=remedy)
