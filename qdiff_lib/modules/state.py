"""Reading and restoring the tensors that quantization decided, bit for bit."""

from torch import Tensor, nn

from .activation_quantizer import ActivationQuantizer
from .quant_layer import QuantLayer


def quantized_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that quantization decided, by name: codes, biases, scales, zero points."""
    state = {}
    for name, part in module.named_modules():
        if isinstance(part, ActivationQuantizer) or (isinstance(part, QuantLayer) and part.codes is not None):
            own = part.state_dict(prefix=f"{name}." if name else "")
            state |= {key: value.contiguous() for key, value in own.items()}
    return state


def restore_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back the tensors of ``quantized_state``, bit for bit.

    Raises:
        ValueError: the module has no place for a tensor.
    """
    unknown = module.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the state has tensors that the module has no place for: {unknown[:3]}")
