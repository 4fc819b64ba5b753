"""Random damage of a small quantized checkpoint: it is refused in words, or it draws finite pixels.

2,000 cases, the same ones each time. ``QDIFF_FUZZ_SEED=7 pytest tests/io/test_fuzz.py`` tries others. The
SHA-256 is made right again after each change of a tensor or of the config.
"""

import contextlib
import copy
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.utils import logging
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tampering import CONFIG, INDEX, SAMPLER, TENSORS, write_checkpoint

from qdiff_lib import load, sample
from qdiff_lib.io.native import content_hash

SEED = os.environ.get("QDIFF_FUZZ_SEED")
SECONDS = 30  # for one case, on a busy machine
SMALLEST = dict(block_out_channels=(6,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
REFUSED = (ValueError, FileNotFoundError)

pytestmark = pytest.mark.slow


class Files(dict):
    """Bytes of files by name, which failing tests do not print."""

    def __repr__(self):
        return f"<{len(self)} files>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of the checkpoint's files, by name."""
    folder = tmp_path_factory.mktemp("whole")
    write_checkpoint(folder, **SMALLEST)
    return Files((name, (folder / name).read_bytes()) for name in (CONFIG, INDEX, SAMPLER, TENSORS))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "case"


@pytest.fixture(autouse=True)
def quiet():
    """Neither progress bars nor warnings about unknown entries."""
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


@contextlib.contextmanager
def time_limit(seconds):
    """Fail if the block takes more seconds of the processor, which other programs do not change."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        pytest.fail(f"it takes more than {seconds} seconds of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def write(folder, files, **changed):
    """Write the checkpoint anew. ``changed``: bytes by name."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**files, **changed}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def stated(folder):
    """State the SHA-256 of the folder's tensors and config; nothing if a file cannot be read."""
    with contextlib.suppress(ValueError, AttributeError, SafetensorError, RecursionError, TypeError):
        tensors = load_file(folder / TENSORS)
        save(folder, tensors)


def save(folder, tensors):
    config = json.loads((folder / CONFIG).read_text())
    hashed = content_hash(config.get("quantization_config"), tensors)
    (folder / TENSORS).unlink()
    save_file(tensors, folder / TENSORS, {"qdiff_sha256": hashed})


def draws_or_refuses(folder, plain=False):
    """Load and draw; whether it drew. Any error but a refusal goes on, and fails the test."""
    with time_limit(SECONDS):
        try:
            pipe = load(folder)
            drawn = sample(pipe, 1, 2, record=True)
        except REFUSED as error:
            assert str(error)
            return plain and plain_draws_or_refuses(folder)
        size = pipe.unet.config.sample_size
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        assert drawn.images.shape == (1, pipe.unet.config.in_channels, *size)
        assert torch.isfinite(drawn.trajectory).all()
        return True


@torch.no_grad()
def plain_draws_or_refuses(folder):
    """The same by diffusers alone, which knows the method by the import of this library."""
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet")
    except REFUSED:
        return False
    assert torch.isfinite(unet(torch.ones(1, 1, 8, 8), 3).sample).all()
    return True


def cases(count):
    """Run a test on ``count`` random cases."""

    def decorate(test):
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        options = settings(
            max_examples=count,
            deadline=None,  # a case has ``SECONDS``
            derandomize=SEED is None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=checks,
        )
        test = options(given(data=st.data())(test))
        return test if SEED is None else seed(int(SEED))(test)

    return decorate


# JSON


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


SCALARS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    12,
    15,
    255,
    10**6,
    -(10**12),
    10**400,
    0.5,
    -0.0,
    1e-30,
    1e38,
]
SCALARS += [
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "a",
    "8",
    "../unet",
    "a.b.__class__",
    "\0",
    "é" * 300,
]
SCALARS += [
    "diffusers",
    "transformers",
    "UNet2DModel",
    "DDPMScheduler",
    "silu",
    "scale_shift",
    "linear",
    "conv",
]
MANY = [[], {}, [1], [1, 2], ["a"], [None, None], {"a": 1}, [0] * 1000, nested(50), nested(300), ["x", "y"]]
JUNK = st.sampled_from(SCALARS) | st.sampled_from(MANY) | st.integers(-40, 40) | st.floats()
NAMES = st.sampled_from(
    ["self", "", "more", "_class_name", "sample_size", "auto_map", "kwargs", "cls", "dropout"]
)


def places(value, path=()):
    """The path of every entry of a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


def damaged(data, value):
    """Replace, remove, add, or repeat a random entry. Entries near the root are chosen more often."""
    found = list(places(value))
    near = [path for path in found if len(path) == 1]
    *parents, key = data.draw(st.sampled_from(near) | st.sampled_from(found), label="entry")
    inside = value
    for each in parents:
        inside = inside[each]
    change = data.draw(st.sampled_from(["replace", "replace", "remove", "add", "repeat"]), label="change")
    if change == "remove":
        del inside[key]
    elif change == "repeat" and isinstance(inside, list):
        inside.extend([inside[key]] * data.draw(st.integers(1, 40)))
    elif change == "add" and isinstance(inside, dict):
        inside[data.draw(NAMES)] = copy.deepcopy(data.draw(JUNK))
    elif change == "add":
        inside.insert(key, copy.deepcopy(data.draw(JUNK)))
    else:
        inside[key] = copy.deepcopy(data.draw(JUNK, label="value"))


def json_case(data, files, folder, name):
    value = json.loads(files[name])
    for _ in range(data.draw(st.integers(1, 2))):
        damaged(data, value) if value else None
    write(folder, files, **{name: json.dumps(value).encode()})
    if name == CONFIG:
        stated(folder)
    draws_or_refuses(folder)


@cases(300)
def test_config(files, folder, data):
    json_case(data, files, folder, CONFIG)


@cases(300)
def test_what_the_config_says_of_the_quantization(files, folder, data):
    value = json.loads(files[CONFIG])
    damaged(data, value["quantization_config"])
    write(folder, files, **{CONFIG: json.dumps(value).encode()})
    stated(folder)
    draws_or_refuses(folder)


@cases(250)
def test_index(files, folder, data):
    json_case(data, files, folder, INDEX)


@cases(250)
def test_sampler(files, folder, data):
    json_case(data, files, folder, SAMPLER)


@cases(100)
def test_bytes_of_json(files, folder, data):
    name = data.draw(st.sampled_from([CONFIG, INDEX, SAMPLER]))
    write(folder, files, **{name: cut_or_flipped(data, files[name], len(files[name]))})
    draws_or_refuses(folder)


# Safetensors


def cut_or_flipped(data, content, last):
    """Flip a bit before ``last``, cut, or insert bytes."""
    place = data.draw(st.integers(0, last - 1), label="place")
    change = data.draw(st.sampled_from(["flip", "flip", "cut", "insert"]), label="change")
    if change == "flip":
        flipped = content[place] ^ 1 << data.draw(st.integers(0, 7))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    return content[:place] + (
        b"" if change == "cut" else data.draw(st.binary(min_size=1, max_size=9)) + content[place:]
    )


def header_of(content):
    """The JSON header, and the bytes after it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@cases(200)
def test_bytes_of_the_header(files, folder, data):
    end = 8 + int.from_bytes(files[TENSORS][:8], "little")
    write(folder, files, **{TENSORS: cut_or_flipped(data, files[TENSORS], end + 16)})
    if data.draw(st.booleans()):
        stated(folder)
    draws_or_refuses(folder)


@cases(200)
def test_entries_of_the_header(files, folder, data):
    header, rest = header_of(files[TENSORS])
    damaged(data, header)
    text = json.dumps(header).encode()
    write(folder, files, **{TENSORS: len(text).to_bytes(8, "little") + text + rest})
    if data.draw(st.booleans()):
        stated(folder)
    draws_or_refuses(folder)


NUMBERS = st.sampled_from([0, -1, 1, 255, 1e38, -1e38, 1e-45, 1e5, float("nan"), float("inf"), -float("inf")])
TYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int32, torch.int64, torch.bool]
TYPES += [torch.uint8, torch.float32, torch.complex64, torch.float8_e4m3fn]


def one_number(data, value):
    value = value.clone()
    place = data.draw(st.integers(0, value.numel() - 1))
    number = torch.tensor(data.draw(NUMBERS | st.floats(width=32)), dtype=torch.float64)
    value.view(-1)[place] = (
        number.nan_to_num().clamp(-(2**31), 255).to(value.dtype) if integer(value) else number
    )
    return value


def integer(value):
    return not value.is_floating_point()


CHANGES = {
    "number": one_number,
    "fill": lambda data, value: torch.full_like(value, 7 if integer(value) else data.draw(NUMBERS)),
    "bits": lambda data, value: flipped_tensor(data, value),
    "type": lambda data, value: value.to(data.draw(st.sampled_from(TYPES))),
    "view": lambda data, value: value[None].clone() if data.draw(st.booleans()) else value.flatten(),
    "repeat": lambda data, value: value.flatten().repeat(2),
    "cut": lambda data, value: value.flatten()[:-1].clone(),
    "one": lambda data, value: value.flatten()[:1].clone(),
    "none": lambda data, value: value.flatten()[:0].clone(),
}


def flipped_tensor(data, value):
    """Random bits in a few bytes."""
    raw = value.flatten().view(torch.uint8).clone()
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, raw.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return raw.view(value.dtype).view(value.shape)


@cases(400)
def test_tensors(files, folder, data):
    write(folder, files)
    tensors = load_file(folder / TENSORS)
    name = data.draw(st.sampled_from(sorted(tensors)), label="tensor")
    change = data.draw(st.sampled_from(["remove", "rename", *CHANGES, "number", "bits"]), label="change")
    value = tensors.pop(name)
    if change == "rename":
        tensors[data.draw(st.sampled_from(["", "a", f"{name}.more", "__metadata"]))] = value
    elif change != "remove":
        tensors[name] = CHANGES[change](data, value)
    save(folder, tensors)
    draws_or_refuses(folder, plain=True)


def test_the_whole_checkpoint_draws(files, folder):
    write(folder, files)
    assert draws_or_refuses(folder)
    stated(folder)
    assert draws_or_refuses(folder) and plain_draws_or_refuses(folder)
    assert Path(folder / TENSORS).stat().st_size < 50_000
