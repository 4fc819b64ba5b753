"""What every test runs under, beside the settings of the root's conftest.py: no other machine."""

import ipaddress
import socket

import pytest

pytest_plugins = ["pytester"]


def is_local(host) -> bool:
    """Whether ``host`` (a name, an IP address or None) is this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def guarded(original, find_host, attempts: list):
    """``original``, failing the test where the host that it would talk to is not this machine."""

    def wrapper(*args, **kwargs):
        host = find_host(*args, **kwargs)
        if not is_local(host):
            attempts.append(host)
            pytest.fail(f"a test may not reach another machine: {original.__name__} to {host!r}")
        return original(*args, **kwargs)

    return wrapper


def peer(sock, *args):
    """The host of a call such as ``sock.connect(address)``; None for other families than IP."""
    has_address = sock.family in (socket.AF_INET, socket.AF_INET6) and isinstance(args[-1], tuple)
    return args[-1][0] if has_address else None


@pytest.fixture(scope="session", autouse=True)
def guarded_sockets():
    """Replace the calls of ``socket`` that reach a host; yields the list of hosts that were refused."""
    attempts = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto", "sendmsg"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name), peer, attempts))
        lookup = guarded(socket.getaddrinfo, lambda host, *args, **kwargs: host, attempts)
        patch.setattr(socket, "getaddrinfo", lookup)
        yield attempts


@pytest.fixture(autouse=True)
def no_network(guarded_sockets):
    """Fail the test also where the refusal was swallowed, or came in another thread."""
    guarded_sockets.clear()
    yield guarded_sockets
    if guarded_sockets:
        pytest.fail(f"this test tried to reach {', '.join(map(repr, guarded_sockets))}")
