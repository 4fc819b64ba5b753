"""Write RESULTS.md, its plots, and the manifest that lists the plots.

python -m tools.results
python -m tools.results --data build/tables-tiny --page build/tables-tiny/RESULTS.md
"""

import argparse
from pathlib import Path

from qdiff_lib.utils.files import atomic_path, write_json
from training.manifest import manifest

from ..expansion import ROOT
from .page import draw, page
from .source import read


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data", metavar="FOLDER", help="default: data")
    parser.add_argument("--page", type=Path, default=ROOT / "RESULTS.md", help="default: RESULTS.md")
    args = parser.parse_args()
    found, plots = read(args.data), args.data / "recorded" / "plots"
    draw(found, plots)
    write_json(args.data / "MANIFEST.json", manifest(args.data))
    with atomic_path(args.page) as temporary:
        text = page(found, plots.resolve().relative_to(args.page.resolve().parent).as_posix())
        temporary.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
