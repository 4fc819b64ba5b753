"""``make lab``: JupyterLab shows the course, and what the lessons link to."""

import json
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds until the server answers
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine


@pytest.fixture(scope="module")
def server():
    """The address of the server that ``make lab`` starts, on a free port and without a browser."""
    recipe = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    line = re.search(r"^JUPYTER_CONFIG_PATH=.*jupyter lab.*$", recipe, re.MULTILINE).group()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command = ["env", *shlex.split(line), *more, "--allow-root"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answer(url):
    """The text that the server gives, as soon as it runs."""
    for _ in range(PATIENCE):
        try:
            with DIRECT.open(url, timeout=PATIENCE) as response:
                return response.geturl(), response.read().decode()
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(1)
    raise TimeoutError(url)


@pytest.mark.slow
def test_it_opens_the_contents_which_are_shown_as_a_page(server):
    place, _ = answer(server)
    assert place == f"{server}/lab/tree/notebooks/README.md"
    assert (
        "Markdown Preview" in answer(f"{server}/lab/api/settings/@jupyterlab/docmanager-extension:plugin")[1]
    )


@pytest.mark.slow
def test_pages_that_lessons_link_to_are_there(server):
    sources = [ROOT / "notebooks/README.md", *(ROOT / "notebooks/src").glob("*.py")]
    linked = {
        name for path in sources for name in re.findall(r"\]\(\.\./([^)#]+)\)", path.read_text("utf-8"))
    }
    assert "docs/notation.md" in linked
    for name in linked:
        assert json.loads(answer(f"{server}/api/contents/{name}?content=0")[1])["path"] == name
