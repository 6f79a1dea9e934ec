import pytest
from django.test import RequestFactory, override_settings

from booking_site.client_address import UNKNOWN, client_address


@pytest.mark.parametrize(
    ("connected", "forwarded", "client"),
    [
        # Who connects without a proxy cannot choose an address.
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        # Of a trusted proxy, what it appended is believed, and nothing left of it.
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "127.0.0.1, 10.1.2.3, 203.0.113.7", "203.0.113.7"),
        # Through two of them.
        ("127.0.0.1", "198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        # A client within the trusted network.
        ("127.0.0.1", "10.1.2.4, 10.1.2.3", "10.1.2.4"),
        ("127.0.0.1", None, "127.0.0.1"),
        # What cannot be read ends the list: whoever wrote it is the last that is known.
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, unknown", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, garbage, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "198.51.100.1,", "127.0.0.1"),
        ("127.0.0.1", "\0\xff, ' OR 1=1", "127.0.0.1"),
        ("127.0.0.1", "," * 5000, "127.0.0.1"),
        ("127.0.0.1", "999.1.1.1", "127.0.0.1"),
        # Other ways to write an address.
        ("127.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("127.0.0.1", "2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("::1", "203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "203.0.113.7", "2001:db8::1"),
        # On a Unix socket there is no address; a proxy is behind it.
        ("", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("", "198.51.100.1, garbage", UNKNOWN),
        ("", None, UNKNOWN),
    ],
)
@override_settings(TRUSTED_PROXIES=["127.0.0.1", "::1", "10.1.0.0/16"])
def test_client_is_whoever_the_last_trusted_one_names(
    connected: str, forwarded: str | None, client: str
) -> None:
    header = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}
    assert client_address(RequestFactory(REMOTE_ADDR=connected).get("/", **header)) == client


def test_request_without_any_address_is_answered() -> None:
    request = RequestFactory().get("/")
    del request.META["REMOTE_ADDR"]
    assert client_address(request) == UNKNOWN
