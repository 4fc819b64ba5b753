"""A pipeline's components: their files are checked before they are loaded, and they themselves after it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from ..utils.files import read_json
from .index import COPY, read_config, reason
from .native import METHOD
from .settings import AGAIN, check_limits, check_network, check_sampler, without_memory
from .values import check_numbers

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")  # a tokenizer needs one of these files
ATTENTIONS = (None, "eager", "sdpa")  # all others of transformers can be downloaded code
OTHERS = {"load_in_4bit", "load_in_8bit"}  # entries from which diffusers takes another method
ROOM = 2  # a network has at most so many times the numbers of its files; those that it lacks are named later
LONGEST_TEXT = 10_000  # words that a text encoder without a table of positions reads
KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def check_component(folder: Path, name: str, kind: type) -> None:
    """Check the files of a component. No weights are read.

    Raises:
        ValueError: a file is missing or damaged, or its settings are not those of a ``kind``.
    """
    needed = VOCABULARIES if "Tokenizer" in kind.__name__ else ("*.json",)
    part = folder / name
    if not any(path for pattern in needed for path in part.glob(pattern)):
        raise ValueError(
            f"name_or_path={str(folder)!r} lacks its {name}: model_index.json names a {kind.__name__}, but "
            f"there is no {name}/{' or '.join(needed)}; {COPY}"
        )
    for path in part.glob("*.json"):
        read_config(path) if "config" in path.name else read_json(path)
    for path in part.glob("*.safetensors"):
        check_header(path)
    if issubclass(kind, SchedulerMixin):
        check_sampler(kind, read_json(part / "scheduler_config.json"), part / "scheduler_config.json")
    elif issubclass(kind, ModelMixin):
        check_diffusers_network(kind, part / "config.json")
    elif (part / "config.json").is_file():
        check_transformers_network(part / "config.json")
    if (part / "tokenizer.json").is_file():
        check_tokenizer(part / "tokenizer.json")


def check_header(path: Path) -> None:
    """Raise ValueError if a path is no safetensors file."""
    if not path.is_file():
        raise ValueError(f"{path} is no file: {COPY}")
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({reason(error)}): {COPY}") from error


def check_diffusers_network(kind: type, path: Path) -> None:
    """Raise ValueError if the config of a network of diffusers cannot be used, or is quantized otherwise."""
    config = read_json(path)
    stated = config.get("quantization_config")
    own = isinstance(stated, dict) and stated.get("quant_method") == METHOD and not set(stated) & OTHERS
    if stated is not None and not own:
        raise ValueError(
            f"{path} has quantization_config={stated!r:.60}, which is not of the method {METHOD!r}: load "
            "it with the library that wrote it"
        )
    numbers = check_network(kind, config, path)
    if not own:  # the packed weights of a quantized network are checked one by one
        check_room(path, numbers)


def check_room(path: Path, needed: int) -> None:
    """Check that a network takes about as much memory as its files.

    path: of its config. needed: the number of its parameters.

    Raises:
        ValueError: it has more than ``ROOM`` times the numbers of the files in the same folder.
    """
    held = 0
    for file in path.parent.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            held += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    if held and needed > ROOM * held:
        raise ValueError(
            f"{path} describes a network of {needed:,} numbers, and its files hold {held:,}: {AGAIN}"
        )


def check_transformers_network(path: Path) -> None:
    """Raise ValueError if a config of transformers names other code, another quantization, or huge sizes."""
    inside = [read_json(path)]
    while inside:  # a config may hold the configs of its parts
        config = inside.pop()
        for name in KERNELS:
            if config.get(name) not in ATTENTIONS:
                raise ValueError(
                    f"{path} has {name}={config[name]!r:.60}, which can be code: remove the entry"
                )
        if config.get("quantization_config") is not None:
            raise ValueError(
                f"{path} has a quantization_config, which is not supported: give a plain network"
            )
        for name, value in config.items():
            check_limits(name, value, path)
            inside += [value] if isinstance(value, dict) else []


def check_tokenizer(path: Path) -> None:
    """Raise ValueError if a ``tokenizer.json`` has no vocabulary."""
    model = read_json(path).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list) or not vocabulary:
        raise ValueError(f"{path} is damaged, it has no vocabulary under model: {COPY}")


def reads_all(kind: type) -> bool:
    """Whether a class is a network of transformers, which would fill missing weights with random numbers."""
    return "PreTrainedModel" in (base.__name__ for base in kind.__mro__)


def check_text_network(kind: type, folder: Path) -> None:
    """Check that a network of transformers can be built from its config, without memory.

    Raises:
        ValueError: it cannot, or it would take far more memory than its files have.
    """
    path = folder / "config.json"
    try:
        with without_memory():
            network = kind(kind.config_class.from_dict(read_json(path)))
    except Exception as error:
        raise ValueError(
            f"{path}: no {kind.__name__} has these settings ({reason(error)}): {AGAIN}"
        ) from error
    check_room(path, sum(value.numel() for value in network.parameters()))


@contextmanager
def without_reports() -> Iterator[None]:
    """Within the block, transformers does not print its table of the weights that do not fit."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def text_network(kind: type, folder: Path) -> nn.Module:
    """A network of transformers from its folder.

    Raises:
        ValueError: its file lacks a weight, or has more layers than its config.
    """
    check_text_network(kind, folder)
    with without_reports():
        network, found = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    for name in sorted([*found["missing_keys"], *mismatched]):
        raise ValueError(f"{folder} lacks the weight {name!r} in the shape of its config.json: {COPY}")
    lists = {name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    for name in sorted(found["unexpected_keys"]):
        if any(name[: place.start()] in lists for place in re.finditer(r"\.\d+\.", name)):
            raise ValueError(
                f"{folder} has the weight {name!r}, and its config.json has fewer layers: {COPY}"
            )
    return network


def check_loaded(folder: Path, part: Any, reader: Any = None) -> None:
    """Check a component after it was loaded.

    reader: of a tokenizer, the text encoder that reads its words, if there is one.

    Raises:
        ValueError: a network lacks a weight, or has one that is not finite or too large; a tokenizer gives
            words that the text encoder does not know, or more words than it reads at a time.
    """
    if isinstance(part, nn.Module):
        for name, value in part.named_parameters():
            if value.is_meta:
                raise ValueError(f"{folder} lacks the weight {name!r} of this network: {COPY}")
            check_numbers(str(folder), name, value)
    elif hasattr(part, "get_vocab") and hasattr(reader, "config"):
        config, last = reader.config, max(part.get_vocab().values(), default=-1)
        words, longest = config.vocab_size, getattr(config, "max_position_embeddings", LONGEST_TEXT)
        if not 0 <= last < words:
            raise ValueError(
                f"{folder} has a last word of number {last}, and the text encoder has {words} words: {COPY}"
            )
        length = part.model_max_length
        if not isinstance(length, int) or not 1 <= length <= longest:
            raise ValueError(
                f"{folder} has model_max_length={length!r:.60}, and the text encoder reads 1 to {longest} "
                f"words: {COPY}"
            )
