"""Bring checkpoints of earlier versions up to date: recipes without parts become recipes with parts.

python tools/nest_recipes.py data/models/*/quantized.json
"""

import json
import sys
from pathlib import Path

from qdiff_lib import Recipe
from qdiff_lib.files import write_json
from qdiff_lib.timestep_rules import rule_from_dict

RENAMED = {
    "rounding": "weight_rounding",
    "step_iterations": "step_size_iterations",
    "lr_steps": "lr_step_sizes",
}


def nested(flat: dict) -> dict:
    """The JSON form of today's recipe for a recipe whose fields stood side by side."""
    changes = {RENAMED.get(name, name): value for name, value in flat.items()}
    return Recipe().replace(**{**changes, "rule": rule_from_dict(flat["rule"])}).to_dict()


def main(paths: list[str]) -> None:
    """Rewrite each ``quantized.json`` whose recipe has no parts."""
    for path in map(Path, paths):
        about = json.loads(path.read_text(encoding="utf-8"))
        if "grids" not in about["recipe"]:
            write_json(path, {**about, "recipe": nested(about["recipe"])})
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
