"""Measure everything and write ``results.json`` and ``README.md``, alone on the machine.

python benchmarks/run.py                     all of it, into benchmarks/
python benchmarks/run.py --only startup      one part; the others keep their last results
python benchmarks/run.py --quick             tiny numbers that only show that the path works
"""

import argparse
import json
import time
from pathlib import Path

import common
import engines
import memory
import reconstruction
import report
import sampling
import startup

from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.utils.files import write_json

PARTS = {
    "startup": lambda args: startup.measure(args.quick),
    "engines": lambda args: engines.measure(args.quick),
    "memory": lambda args: memory.measure(args.quick),
    "sampling": lambda args: sampling.measure(args.quick),
    "reconstruction": lambda args: reconstruction.measure(args.quick, args.full),
}


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    found = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    for i, name in enumerate(args.only, 1):
        print(f"[{i}/{len(args.only)}] {name} ...", flush=True)
        start, where = time.monotonic(), common.provenance()
        found[name] = {"measured": where, "quick": args.quick, "results": PARTS[name](args)}
        write_json(results, found)
        if name == "engines" and not args.quick:
            record(found[name])
        print(report.section(name, found[name]), flush=True)
        print(f"{name}: {time.monotonic() - start:.0f} s\n", flush=True)
    report.write(args.out / "README.md", found)
    print(f"wrote {results} and {args.out / 'README.md'}")


def record(part: dict) -> None:
    """Keep the times of the engines where lesson 6 reads them, in ``data/recorded/engines.json``."""
    made = part["measured"]
    machine = f"{made['cpu']}, {made['cores']} cores, {made['threads']} threads"
    kept = {name: made[name] for name in ("command", "torch", "python", "date", "commit")}
    path = data_folder() / "recorded" / "engines.json"
    write_json(path, {"data": part["results"], "provenance": kept | {"machine": machine}})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny numbers, into build/bench-quick")
    parser.add_argument("--full", action="store_true", help="the naive scheme on every unit at every size")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/")
    args = parser.parse_args()
    default = common.ROOT / "build" / "bench-quick" if args.quick else Path(__file__).resolve().parent
    args.out = args.out or default
    return args


if __name__ == "__main__":
    main()
