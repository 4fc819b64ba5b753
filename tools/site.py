"""Builds the static site of the course: ``make site``, or ``python -m tools.site --out build/site``.

The pages are files of this repository: its Markdown, and the notebooks with their outputs. They are copied
into a folder beside the site. There, links to files that are no pages are replaced. Then Sphinx makes the
site with the settings of ``site/``. No cell is run.
"""

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from .expansion import ROOT, Address, read_address
from .site_lessons import exercise_page, lesson_title, prepare

PAGES = ("README.md", "README.ko.md", "RESULTS.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.ipynb")
PAGES += ("notebooks/README.md", "benchmarks/README.md", "experiments/README.md")
PICTURES = (".png", ".svg", ".jpg", ".gif")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```.*?^```|~~~.*?^~~~)", re.MULTILINE | re.DOTALL)


class SiteError(RuntimeError):
    """Raised if the site cannot be built; the message names the file and the reason."""


@dataclass(frozen=True)
class Sources:
    """What the site is made from.

    root: the repository. folder: where the pages are copied to. address: where the course is published.
    """

    root: Path
    folder: Path
    address: Address

    def pages(self) -> list[Path]:
        """The paths of all pages, relative to the root."""
        return sorted(path.relative_to(self.root) for rule in PAGES for path in self.root.glob(rule))

    def relinked(self, text: str, page: Path) -> str:
        """The Markdown of ``page`` with links that work on the site. Fenced code stays as it is."""
        parts = FENCE.split(text)
        for i in range(0, len(parts), 2):
            parts[i] = LINK.sub(lambda found: self.link(*found.groups(), page), parts[i])
        return "".join(parts)

    def link(self, mark: str, label: str, target: str, page: Path) -> str:
        """One link or picture. A picture is copied. A picture from elsewhere becomes its words.

        A file that is no page becomes a link to the published code, or its words if there is none.
        Raises SiteError if the target does not exist.
        """
        name, _, anchor = target.partition("#")
        if not name or re.match(r"\w+:", target):
            return label if mark else f"[{self.relinked(label, page)}]({target})"
        path = (self.root / page.parent / name).resolve()
        if not path.exists() or not path.is_relative_to(self.root):
            raise SiteError(f"{page}: the link to {target!r} leads to no file of the repository")
        path = path.relative_to(self.root)
        if path.suffix in PICTURES:
            (self.folder / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / path, self.folder / path)
            return f"{mark}[{label}]({target})"
        if path in self.pages():
            return f"[{label}](/{home(path).as_posix()}{'#' + anchor if anchor else ''})"
        if self.address.repository:
            return f"[{label}](https://github.com/{self.address.repository}/blob/{self.address.tag}/{path.as_posix()})"
        return label

    def copy(self, page: Path) -> None:
        """Write the page into the folder, as Sphinx reads it."""
        target = self.folder / home(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".md":
            text = (self.root / page).read_text(encoding="utf-8")
            target.write_text(self.relinked(text, page), encoding="utf-8")
            return
        notebook = prepare(nbformat.read(self.root / page, as_version=4), page, self.address)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.relinked(cell.source, page)
        nbformat.write(notebook, target)


def home(page: Path) -> Path:
    """The place of a page on the site: the README of a folder is its first page."""
    return page.with_name("index.md") if page.name == "README.md" else page


def stage(sources: Sources) -> None:
    """Fill the folder with all pages, the table of exercises, and the pages of ``site/``."""
    shutil.rmtree(sources.folder, ignore_errors=True)
    for page in sources.pages():
        sources.copy(page)
    lessons = {
        path: nbformat.read(sources.root / path, as_version=4)
        for path in sources.pages()
        if path.suffix == ".ipynb"
    }
    (sources.folder / "exercises.md").write_text(exercise_page(lessons), encoding="utf-8")
    shutil.copytree(sources.root / "site", sources.folder, dirs_exist_ok=True)
    front = sources.folder / "index.md"
    entries = "\n".join(f"{lesson_title(*lesson)} </{lesson[0]}>" for lesson in lessons.items())
    contents = (sources.folder / "contents.inc").read_text(encoding="utf-8").format(lessons=entries)
    front.write_text(f"{front.read_text(encoding='utf-8')}\n{contents}", encoding="utf-8")


def build(out: Path, root: Path = ROOT) -> None:
    """Build the site in ``out``, which is replaced. Raises SiteError if Sphinx warns or fails."""
    sources = Sources(root, out.with_name(out.name + "-pages"), read_address(root / "pyproject.toml"))
    stage(sources)
    shutil.rmtree(out, ignore_errors=True)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-d", str(sources.folder / ".doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(sources.folder), str(out)]
    if subprocess.run(command, cwd=root).returncode:
        raise SiteError("Sphinx has warnings or errors: see above")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Build the static site of the course.")
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="folder of the site")
    out = parser.parse_args(arguments).out.resolve()
    try:
        build(out)
    except SiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"open {out / 'index.html'}, or: python -m http.server --directory {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
