"""The line for an error: what was done, what was lacking, how to go on; never too long, always printable."""

import argparse
import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from qdiff_lib.cli.failures import LACKING, LONGEST, during, explained, one_line

QUANTIZE = argparse.Namespace(command="quantize", resume=False)
SAMPLE = argparse.Namespace(command="sample")
MEMORY = "not enough memory"


def raised(error, doing="loading a model"):
    """The error as the command line gets it, with its notes."""
    try:
        with during("a longer work"), during(doing):
            raise error
    except type(error) as found:
        return found


def wrapped(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.bin"),
            "the disk is full (a.bin): free some room",
        ),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full: free"),
        (wrapped(ValueError("cannot be loaded"), OSError(errno.ENOSPC, "full")), "the disk is full: free"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "your share of the disk"),
        (OSError(errno.EFBIG, "File too large"), "larger than this system allows: raise the limit"),
        (SafetensorError("I/O error: File too large (os error 27)"), "larger than this system allows"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "no permission (out): change"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "the disk is read-only (out): name"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "cannot be printed"),
        (MemoryError(), f"{MEMORY}: close other programs, or use a smaller --"),
        (MemoryError("Unable to allocate 3.2 TiB for an array"), f"{MEMORY} (3.2 TiB): close"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), f"{MEMORY}: close"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), f"{MEMORY} (20.00 GiB)"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), f"{MEMORY}: close"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), f"{MEMORY}: close"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."),
            "(7 bytes)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_lacking(error, text):
    line = explained(raised(error), QUANTIZE)
    assert line.startswith("while loading a model: ") and text in line
    assert line.endswith("; then repeat the command with --resume")
    assert explained(error, SAMPLE).endswith("; then repeat the command")


def test_every_lack_has_a_cure():
    assert all(what and cure for what, cure in LACKING.values())


def test_an_allocation_that_the_system_refuses():
    """The real error of this version of torch."""
    with pytest.raises(RuntimeError) as stop:
        torch.empty(2**60, dtype=torch.uint8)
    assert MEMORY in explained(stop.value, SAMPLE)


@pytest.mark.parametrize("kind", [ValueError, TypeError, OSError, FileNotFoundError])
def test_our_own_errors_are_told_as_they_are(kind):
    assert (
        explained(raised(kind("n=0 must be at least 1;\n use 1")), SAMPLE) == "n=0 must be at least 1; use 1"
    )


def test_an_error_of_a_library_is_not_taken_for_our_own():
    with pytest.raises(ValueError) as stop, during("writing a.png"):
        save("no tensors")
    line = explained(stop.value, SAMPLE)
    assert line.startswith("while writing a.png: ValueError: Expected a dict") and "--traceback" in line


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, SafetensorError, RecursionError, AssertionError])
def test_errors_of_libraries_have_their_type_and_what_was_done(kind):
    line = explained(raised(kind("odd")), SAMPLE)
    assert line.startswith(f"while loading a model: {kind.__name__}: ") and "odd" in line
    assert line.endswith("; add --traceback to see where")
    assert explained(ValueError(), SAMPLE).startswith("ValueError: ")


@pytest.mark.parametrize("length", [501, 5000, 10**7])
def test_a_long_line_is_cut_in_the_middle(length):
    line = one_line("first" + "x" * length + "last")
    assert len(line) <= LONGEST + 5 and line.startswith("first") and line.endswith("last") and " ... " in line
    assert one_line("y" * LONGEST) == "y" * LONGEST


def test_what_cannot_be_printed_is_escaped():
    assert one_line("a\x1b[2J\x00 \udcff é\t\n日本") == "a\\x1b[2J\\x00 \\udcff é 日本"
    one_line(os.fsdecode(bytes(range(1, 256)))).encode()
