"""The record of a quantization: recipe, calibration set, and the error of each unit."""

from dataclasses import asdict, dataclass, field

from ..graph.tracing import Trace
from ..recipes.recipe import Recipe


@dataclass(frozen=True)
class UnitReport:
    """The result of fitting one unit, or of one stage after the last unit.

    name, index: the unit's name, and its number in execution order; a stage counts on after the last unit.
    error: the reconstruction loss at the end; for bias correction, the mean squared error of x_t after the
    last denoising step. seconds: time taken. note: what failed; empty if nothing did.
    """

    name: str
    index: int
    error: float
    seconds: float
    note: str = ""


@dataclass(repr=False)
class Quantization:
    """How a UNet was quantized; found at ``pipe.unet.quantization``.

    recipe: the recipe. calibration: how the calibration set was made, with the prompts. trace: the units, and
    the input channels of each half for every shortcut layer. seconds: duration of the whole quantization.
    units: one report for each unit, then one for each stage after the last unit; empty for recipes that
    learn nothing. A network that was loaded from files has ``recipe`` and ``calibration`` only.
    """

    recipe: Recipe
    calibration: dict = field(default_factory=dict)
    trace: Trace | None = None
    seconds: float = 0.0
    units: list[UnitReport] = field(default_factory=list)

    def __repr__(self) -> str:
        bits = f"W{self.recipe.grids.weights}A{self.recipe.grids.activations}"
        learned = f", {len(self.units)} units and stages" if self.units else ""
        return f"<Quantization: {self.recipe.method} {bits}{learned}; report() has the rest>"

    def report(self) -> dict:
        """The JSON form, as in ``report.json``."""
        splits = self.trace.concat_splits if self.trace else {}
        return {
            "recipe": self.recipe.to_dict(),
            "calibration": self.calibration,
            "seconds": self.seconds,
            "concat_splits": {name: list(sizes) for name, sizes in splits.items()},
            "units": [asdict(unit) for unit in self.units],
        }
