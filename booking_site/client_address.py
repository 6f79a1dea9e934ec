"""Where a request comes from, as far as one can know."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

UNKNOWN = "unknown"


def client_address(request: HttpRequest) -> str:
    """The address of the client: of whoever connected, unless that is a trusted proxy.

    Each proxy appends to X-Forwarded-For whom it got the request from, so the list is read from its
    right end, as long as those who wrote it are trusted; what stands further left the client may
    have invented. A server on a Unix socket knows no address: only a proxy of this machine can
    connect to it. UNKNOWN if that one said nothing.
    """
    client = _read(request.META.get("REMOTE_ADDR", ""))
    entries = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    while entries and (client is None or _is_trusted(client)):
        told = _read(entries.pop())
        if told is None:
            break
        client = told
    return UNKNOWN if client is None else str(client)


def _read(text: str) -> IPv4Address | IPv6Address | None:
    """The address written there, if it is one; some proxies add the port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def comes_from_proxy(request: HttpRequest) -> bool:
    """Whether one of the trusted proxies connected, by its address."""
    peer = _read(request.META.get("REMOTE_ADDR", ""))
    return peer is not None and _is_trusted(peer)


def _is_trusted(address: IPv4Address | IPv6Address) -> bool:
    return any(address in ip_network(network) for network in settings.TRUSTED_PROXIES)
