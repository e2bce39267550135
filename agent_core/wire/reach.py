"""May we go there? The one rule for every address that comes from a caller, a model or a web page.

A URL is read once, by one parser, into its normal form; what browsers would repair (backslashes, odd spellings of
numbers, user names before the host) is refused. Addresses are judged by what they are, not by how they are written:
`ipaddress.is_global` alone passes NAT64, 6to4, multicast and more, so what wraps another address is refused whole.
After RFC 6890, and the deny list of https://github.com/stripe/smokescreen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from agent_core.errors import ConfigError, ForbiddenAddressError

LONGEST_URL = 8192
_USUAL = {"https": 443, "http": 80}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT = "/%:@!$&'()*+,;=~-._?[]|{}^`"
_HOST_PATTERN = re.compile(r"(\*\.)?[^*/:@\s]+|\*")
_WRAPPED = tuple(
    map(
        ip_network,
        (
            *(
                "192.0.0.0/24",
                "192.88.99.0/24",
                "168.63.129.16/32",
            ),  # IETF, 6to4 relays, Azure's own services
            *(
                "64:ff9b::/96",
                "64:ff9b:1::/48",
                "2002::/16",
                "2001::/23",
                "::/96",
            ),  # hold an IPv4 address, or may
            *("3fff::/20", "5f00::/16", "fec0::/10"),  # documentation, segment routing, site-local of old
        ),
    )
)
_UNICAST = ip_network("2000::/3")
_PRIVATE_NAMES = (
    *("localhost", "local", "localdomain", "internal", "svc", "intranet", "private", "corp", "home", "lan"),
    "home.arpa",
)
_LAMBDA = frozenset({9001, 2773})
"""Ports of the Lambda runtime API and of its extensions: refused on this machine, whatever else is let through."""


class Place(NamedTuple):
    """Where a URL leads to. `host` is in ASCII and lower case, `url` the URL as it is to be sent, without fragment."""

    scheme: str
    host: str
    port: int
    url: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What must be the same for credentials to go along."""
        return self.scheme, self.host, self.port


def read_url(url: str) -> Place:
    """The place of a URL; raises ForbiddenAddressError where it is no plain http or https URL."""
    if not url.isascii() and any("\ud800" <= letter <= "\udfff" for letter in url):
        raise ForbiddenAddressError("the URL has half a surrogate pair in it")
    if len(url) > LONGEST_URL:
        raise ForbiddenAddressError(f"the URL is longer than {LONGEST_URL} characters")
    if "\\" in url or any(letter <= " " or "\x7f" <= letter <= "\xa0" for letter in url):
        raise ForbiddenAddressError("a URL has no spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForbiddenAddressError(f"this is no URL: {error}") from None
    if parts.scheme not in _USUAL:
        raise ForbiddenAddressError("a URL here starts with https:// or http://")
    if "@" in parts.netloc:
        raise ForbiddenAddressError("a URL here has no user name or password")
    if port == 0:
        raise ForbiddenAddressError("there is no port 0")
    if parts.netloc.startswith("[") and ":" not in (parts.hostname or ""):
        raise ForbiddenAddressError("only an IPv6 address stands in brackets")
    host = read_host(parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    number = port or _USUAL[parts.scheme]
    named = shown if number == _USUAL[parts.scheme] else f"{shown}:{number}"
    target = quote(parts.path or "/", safe=_KEPT) + (
        f"?{quote(parts.query, safe=_KEPT)}" if parts.query else ""
    )
    return Place(parts.scheme, host, number, f"{parts.scheme}://{named}{target}")


def read_host(written: str) -> str:
    """The host in its one normal form; raises ForbiddenAddressError for all that is no public host's spelling."""
    if ":" in written:
        try:
            if "%" not in written:  # a zone id names an interface of this machine
                return str(IPv6Address(written))
        except ValueError:
            pass
        raise ForbiddenAddressError(f"{written!r} is no address that is taken here")
    try:
        host = written.encode("idna").decode("ascii").lower().removesuffix(".")
        host.encode("ascii").decode("idna")  # refuses what claims to be punycode and is not
    except UnicodeError:
        raise ForbiddenAddressError(f"{written!r} is no host's name") from None
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ForbiddenAddressError(f"{written!r} is no host's name")
    if _NUMBER.fullmatch(labels[-1]):
        # Only dotted decimal as everybody writes it: resolvers read octal, hexadecimal and short forms, too.
        try:
            if written == str(IPv4Address(written)):
                return written
        except ValueError:
            pass
        raise ForbiddenAddressError(f"{written!r}: write an IPv4 address as four decimal numbers")
    return host


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and of nothing else."""
    try:
        number: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(number, IPv6Address):
        if number.scope_id is not None:
            return False
        if number.ipv4_mapped is not None:
            number = number.ipv4_mapped
        elif number not in _UNICAST:
            return False
    if not number.is_global or number.is_multicast or number.is_reserved or number.is_unspecified:
        return False
    return not any(number in network for network in _WRAPPED if network.version == number.version)


def is_loopback(address: str) -> bool:
    """Whether an IP address is this machine's own."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where requests made on somebody's word may go.

    `hosts` and `denied` are names, `*.example.com` for all below example.com; without `hosts` all public ones are
    allowed. `ports` None allows any. `loopback` lets this machine itself be reached, by http too, for development.
    """

    hosts: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()
    ports: frozenset[int] | None = frozenset({80, 443})
    schemes: tuple[str, ...] = ("https", "http")
    loopback: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError where a host is no pattern."""
        for given in (self.hosts or (), self.denied):
            check_patterns(given)

    def place(self, url: str) -> Place:
        """The place of the URL; raises ForbiddenAddressError where it may not be gone to, whatever it resolves to."""
        place = read_url(url)
        local = self.loopback and (place.host == "localhost" or is_loopback(place.host))
        if local and place.scheme == "http" and place.port not in _LAMBDA:
            return place
        if place.scheme not in self.schemes:
            raise ForbiddenAddressError(f"{place.scheme} is not allowed here; {self.schemes[0]} is")
        if self.ports is not None and place.port not in self.ports:
            raise ForbiddenAddressError(f"port {place.port} is not allowed here; {_listed(self.ports)} are")
        if matches(place.host, self.denied):
            raise ForbiddenAddressError(f"{place.host} is on the list of denied hosts")
        if self.hosts is not None and not matches(place.host, self.hosts):
            raise ForbiddenAddressError(f"{place.host} is not on the list of allowed hosts")
        self._check_name(place.host)
        return place

    def _check_name(self, host: str) -> None:
        if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
            if not is_public(host):
                raise ForbiddenAddressError(f"{host} is not an address of the public internet")
        elif "." not in host or any(f".{host}".endswith(f".{name}") for name in _PRIVATE_NAMES):
            raise ForbiddenAddressError(f"{host} is a name of a private network")

    def check_answer(self, place: Place, addresses: Iterable[str]) -> str:
        """The address to connect to; raises ForbiddenAddressError where any that the name leads to is no public one.

        Any, not only the first: who mixes a private address among public ones waits for the right moment.
        """
        found = list(addresses)
        if not found:
            raise ForbiddenAddressError(f"{place.host} has no address")
        for address in found:
            local = self.loopback and is_loopback(address) and place.port not in _LAMBDA
            if not (is_public(address) or (local and place.scheme == "http")):
                raise ForbiddenAddressError(
                    f"{place.host} leads to {address}, which is not of the public internet"
                )
        return found[0]


def check_patterns(patterns: Iterable[str]) -> None:
    """Raise ConfigError where one of them is no host pattern."""
    if isinstance(patterns, str):
        raise ConfigError(f"{patterns!r}: give hosts as a list, as in [{patterns!r}]")
    for pattern in patterns:
        if not _HOST_PATTERN.fullmatch(pattern):
            raise ConfigError(f"{pattern!r} is no host; write example.com, or *.example.com for all below it")


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is one of those named. `*.example.com` is every host below example.com, not itself."""
    for pattern in patterns:
        name = pattern.lower().removesuffix(".")
        if not name.isascii():
            name = name.encode("idna").decode("ascii")
        if name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def _listed(ports: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(ports)))
