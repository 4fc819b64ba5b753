"""What is known of a quantized network: the recipe, the calibration, and how each unit went."""

from dataclasses import asdict, dataclass, field

from ..graph.tracing import Trace
from ..recipes.recipe import Recipe


@dataclass(frozen=True)
class UnitReport:
    """How one unit, or a stage after them all, went.

    Its name and place, the reconstruction loss at the end (of bias correction: the mean squared error of the
    drawn x_t), and the seconds it took. note: what did not work, where something did not.
    """

    name: str
    index: int
    error: float
    seconds: float
    note: str = ""


@dataclass
class Quantization:
    """What was done to a UNet; found at ``pipe.unet.quantization``.

    recipe: how. calibration: how its inputs were made, with the prompts. trace: its units and concat splits.
    seconds: calibration, from start to end. units: how the reconstruction of each went, and the
    stages after them that the recipe asks for; empty for recipes without one. A network that was loaded has
    the first two alone.
    """

    recipe: Recipe
    calibration: dict = field(default_factory=dict)
    trace: Trace | None = None
    seconds: float = 0.0
    units: list[UnitReport] = field(default_factory=list)

    def report(self) -> dict:
        """A JSON form."""
        splits = self.trace.concat_splits if self.trace else {}
        return {
            "recipe": self.recipe.to_dict(),
            "calibration": self.calibration,
            "seconds": self.seconds,
            "concat_splits": {name: list(sizes) for name, sizes in splits.items()},
            "units": [asdict(unit) for unit in self.units],
        }
