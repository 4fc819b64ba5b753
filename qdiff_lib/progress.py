"""One progress bar over a whole reconstruction."""

from torch import nn
from tqdm import tqdm

from .cost import layer_costs
from .recipes import Recipe
from .tracing import Trace


class ProgressBar:
    """One bar over the whole work, in units of multiply-accumulates so that the remaining time is honest."""

    def __init__(self, trace: Trace, unet: nn.Module, recipe: Recipe, shown: bool):
        macs = {cost.name: cost.macs for cost in layer_costs(unet)}
        each = recipe.iterations + recipe.step_iterations
        self.weight = [sum(macs.get(name, 0) for name in unit.layers) + 1 for unit in trace.units]
        self.total = [weight * each for weight in self.weight]
        self.done, self.index = 0.0, 0
        self.bar = tqdm(
            total=sum(self.total), disable=not shown, unit="MAC", unit_scale=True, smoothing=0.1,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        )  # fmt: skip

    def begin(self, name: str) -> None:
        self.bar.set_description_str(f"reconstructing {name}", refresh=False)

    def tick(self) -> None:
        """One iteration of the current unit is done."""
        self.done += self.weight[self.index]
        self.bar.update(self.weight[self.index])

    def end(self, k: int) -> None:
        """Unit ``k`` is done, whether it was fitted or restored."""
        self.bar.update(sum(self.total[: k + 1]) - self.bar.n)
        self.index = k + 1

    def close(self) -> None:
        self.bar.close()
