"""Run the demonstration and keep its report and pictures in ``data/recorded/demo``, with their provenance.

    python training/record_demo.py --profile tiny

The table of the README is written from the recorded report.
"""

import argparse
import shutil
from pathlib import Path

from qdiff_lib.cli.demo import EDGE_BITS, demo, drawing_time
from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.utils.files import write_json
from qdiff_lib.utils.provenance import provenance

LABELS = {"fp": "full precision", "linear": "linear", "qdiffusion": "Q-Diffusion"}
START, END = "<!-- demo table -->\n", "<!-- end of demo table -->"


def markdown(report: dict) -> str:
    """The report as the README's table."""
    columns = ("method", "bits W/A", "file", "G BOPs", "last-step MSE", "Fréchet distance", "calibration")
    columns += (f"{report['images']} images",)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in report["rows"]:
        seconds = "-" if row["method"] == "fp" else f"{row['seconds']:.0f} s"
        bits = f"{row['weights']}/{row['activations']}"
        lines.append(
            f"| {LABELS[row['method']]} | {bits} | {row['bytes'] / 1e6:.2f} MB | {row['bops'] / 1e9:.1f} "
            f"| {row['trajectory_mse']:.5f} | {row['frechet']:.1f} | {seconds} "
            f"| {drawing_time(row)} |"
        )
    n, made = report["rows"][0]["frechet_n"], report["provenance"]
    lines.append(
        f"\nFréchet distance of the shipped classifier's features (not FID) at n = {n}; real images have "
        f"{report['floor']:.1f}. Q-Diffusion has {EDGE_BITS} bits in its first and last layer; the columns "
        "for file and BOPs include this. It uses both stages after the last unit, which are described below. "
        f"{report['images']} images: time of full precision in torch and of Q-Diffusion in integers by "
        f"{report['rows'][-1]['engine']}, measured in turns. The other rows only simulate integers. "
        f"Recorded on {made['date']} on {made['machine']}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="tiny")
    args = parser.parse_args()
    out = Path("build/recorded-demo") / args.profile
    report = demo(out, args.profile)
    folder = data_folder() / "recorded" / ("demo" if args.profile == "tiny" else f"demo-{args.profile}")
    folder.mkdir(parents=True, exist_ok=True)
    report["provenance"] = provenance(f"python -m qdiff_lib demo --out build/demo --profile {args.profile}")
    write_json(folder / "report.json", report)
    for picture in ("samples.png", "trajectory.png"):
        shutil.copyfile(out / picture, folder / picture)
    if args.profile == "tiny":
        readme = Path("README.md").read_text(encoding="utf-8")
        before, after = readme.split(START)[0], readme.split(END)[1]
        Path("README.md").write_text(before + START + markdown(report) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
