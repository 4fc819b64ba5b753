"""The guard of conftest.py: other machines are out of reach, this one is not."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ELSEWHERE = ("192.0.2.1", 80)  # TEST-NET-1 of RFC 5737: belongs to nobody

SWALLOWED = """
import socket, threading
def call():
    socket.create_connection(("192.0.2.1", 80), timeout=1)
def test_in_a_thread():
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
def test_swallowed():
    try:
        call()
    except BaseException:
        pass
def test_innocent():
    pass
"""


def udp(method):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        getattr(sock, method)(*(([b"x"], [], 0) if method == "sendmsg" else (b"x",)), ELSEWHERE)


@pytest.mark.parametrize(
    "reach",
    [
        pytest.param(lambda: socket.create_connection(ELSEWHERE, timeout=1), id="address"),
        pytest.param(lambda: socket.create_connection(("example.org", 80), timeout=1), id="name"),
        pytest.param(lambda: socket.socket().connect_ex(ELSEWHERE), id="connect_ex"),
        pytest.param(lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)), id="ipv6"),
        pytest.param(lambda: urllib.request.urlopen("http://192.0.2.1/", timeout=1), id="urllib"),
        pytest.param(lambda: udp("sendto"), id="udp-sendto"),
        pytest.param(lambda: udp("sendmsg"), id="udp-sendmsg"),
    ],
)
def test_another_machine_fails_the_test(reach, no_network, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.fail.Exception, match="another machine"):
        reach()
    assert len(no_network) == 1
    no_network.clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_allowed(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
            client.sendall(b"x")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no AF_UNIX")
def test_unix_sockets_are_allowed():
    left, right = socket.socketpair(socket.AF_UNIX)
    with contextlib.closing(left), contextlib.closing(right):
        left.sendall(b"x")
        assert right.recv(1) == b"x"


@pytest.fixture
def inner(pytester, monkeypatch):
    """Another pytest under the same conftest.py, without the plugins that start slowly."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(Path(__file__).parents[1].joinpath("conftest.py").read_text())
    return pytester


def test_threads_and_swallowed_refusals_fail_too(inner):
    inner.makepyfile(SWALLOWED)
    result = inner.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=2)  # the calls end quietly, the guard reports at their end
    result.stdout.fnmatch_lines(["*this test tried to reach '192.0.2.1'*"])


def test_slow_tests_come_last(inner):
    inner.makeconftest(Path(__file__).parents[2].joinpath("conftest.py").read_text())
    inner.makeini("[pytest]\nmarkers = slow: last")
    inner.makepyfile("import pytest\n@pytest.mark.slow\ndef test_a(): pass\ndef test_b(): pass\n")
    result = inner.runpytest_subprocess("--collect-only", "--quiet")
    result.stdout.fnmatch_lines(["*::test_b", "*::test_a"])


def test_children_stay_offline_and_frugal():
    show = "import os; print(os.environ['HF_HUB_OFFLINE'], os.environ['OMP_NUM_THREADS'])"
    shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["1", os.environ["OMP_NUM_THREADS"]]
