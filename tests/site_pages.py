"""Reads the pages of the site, serves them, and opens them in Chromium."""

import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

from tools.expansion import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "no Chromium on this machine; Debian and Ubuntu: sudo apt install chromium"


class Page(HTMLParser):
    """What the tests read in a page: its elements in order, as (tag, attributes)."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.found = path, []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]

    @functools.cached_property
    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.found if "id" in attributes}


def small_repository(folder: Path, text: str) -> Path:
    """A repository of one page, with the settings of the site."""
    (folder / "docs").mkdir(parents=True)
    shutil.copytree(ROOT / "site", folder / "site", ignore=shutil.ignore_patterns("api.md"))
    (folder / "site/contents.inc").write_text("```{{toctree}}\n:glob:\n\n*\n```\n{lessons}\n")
    (folder / "pyproject.toml").write_text('[tool.course]\nrepository = ""\ntag = "v1"\n')
    (folder / "README.md").write_text(f"# Page\n\n{text}\n")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""


@contextmanager
def served(site: Path):
    """The address of the site, served on loopback."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def chromium():
    """A browser without a window. Chromium's own sandbox does not start for root."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
