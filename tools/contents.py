"""Makes the tables of lessons in README.md and notebooks/README.md from the lessons' sources.

python -m tools.contents
"""

import re
from pathlib import Path

from .expansion import (
    ASSIGNMENTS,
    ROOT,
    SOURCES,
    Address,
    SourceError,
    badges,
    is_exercise,
    notebook_names,
    read_address,
    read_source,
)

BEGIN, END = "<!-- lessons -->", "<!-- end of lessons -->"
MINUTES = re.compile(r"\| Time \| about (\d+) minutes")


def minutes(card: str, name: str) -> int:
    """The minutes to work through the lesson ``name``, read from its card, the text of the first cell.

    Raises SourceError if the card does not state them.
    """
    if not (found := MINUTES.search(card)):
        raise SourceError(f"{name}.py: the card must have a line | Time | about NN minutes |")
    return int(found[1])


def row(name: str, folder: str, sources: Path) -> list[str]:
    """The cells of a notebook's row: number, question, minutes, functions that learners write.

    An assignment has its name in place of the number, and no functions but a recipe.

    folder: the path of the notebooks, relative to the page. sources: the folder of the sources.
    """
    cells = read_source(sources / f"{name}.py")
    question = cells[0].source.partition("\n")[0].removeprefix("# ")
    functions = [cell.metadata["exercise"].partition(".")[2] for cell in cells if is_exercise(cell)]
    assignment = name in ASSIGNMENTS
    return [
        name if assignment else str(int(name[:2])),
        f"[{question}]({folder}{name}.ipynb)",
        str(minutes(cells[0].source, name)),
        "your own recipe" if assignment else ", ".join(f"`{function}`" for function in functions),
    ]


def table(folder: str, address: Address, sources: Path = SOURCES) -> str:
    """The table in Markdown, with one row for each notebook, and with badges if the address has a repository.

    folder: the path of the notebooks, relative to the page.
    """
    rows = [["", "question", "minutes", "you implement"], ["---"] * 4]
    rows += [row(name, folder, sources) for name in notebook_names(sources)]
    if address.repository:
        found = [badges(f"notebooks/{name}.ipynb", address) for name in notebook_names(sources)]
        rows = [cells + [last] for cells, last in zip(rows, ["open", "---", *found], strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def renewed(page: str, lessons: str) -> str:
    """The page with the table ``lessons`` between the two marks. Raises ValueError if a mark is missing."""
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}{lessons}\n{end}{after}"


def pages(address: Address) -> dict[Path, str]:
    """The new text of both pages, by path. Learners get a copy of the second page, so it has no badges."""
    tables = {
        ROOT / "README.md": table("notebooks/", address),
        ROOT / "notebooks" / "README.md": table("", Address("", address.tag)),
    }
    return {path: renewed(path.read_text(encoding="utf-8"), lessons) for path, lessons in tables.items()}


if __name__ == "__main__":
    for path, page in pages(read_address()).items():
        path.write_text(page, encoding="utf-8", newline="\n")
