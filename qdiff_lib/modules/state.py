"""The tensors of a quantized network that quantization decided: taken out, and put back bit for bit."""

from torch import Tensor, nn

from .activation_quantizer import ActivationQuantizer
from .quant_layer import QuantLayer


def quantized_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that quantization decided: codes, biases, scales, zero points, by name."""
    state = {}
    for name, part in module.named_modules():
        if isinstance(part, ActivationQuantizer) or (isinstance(part, QuantLayer) and part.codes is not None):
            own = part.state_dict(prefix=f"{name}." if name else "")
            state |= {key: value.contiguous() for key, value in own.items()}
    return state


def restore_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what ``quantized_state`` gave, bit for bit.

    Raises ValueError for a tensor that has no place in the module.
    """
    unknown = module.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the state has tensors that the module has no place for: {unknown[:3]}")
