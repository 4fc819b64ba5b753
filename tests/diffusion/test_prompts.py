"""Prompt files and what is wrong with them; prompts that were calibrated on are not evaluated on."""

import numpy as np
import pytest

from qdiff_lib.diffusion.prompts import check_disjoint, checked_prompts, read_prompts


def test_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffred apple\r\n\n  a café,  with a view \n\n旗\n".encode())
    assert read_prompts(path) == ["red apple", "a café,  with a view", "旗"]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prompts file '.*absent.txt': give a text file"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(FileNotFoundError, match="no prompts file"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n\t\n"], ids=["empty", "blank"])
def test_an_empty_file(tmp_path, content):
    (tmp_path / "prompts.txt").write_text(content)
    with pytest.raises(ValueError, match=r"prompts.txt' holds \[\]: give at least one"):
        read_prompts(tmp_path / "prompts.txt")


def test_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("red apple\ncafé".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 \(byte 13\)"):
        read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize("prompts", [[], ["flag", " "], [None]], ids=["none", "blank", "no-text"])
def test_wrong_prompts(prompts):
    with pytest.raises(ValueError, match="give at least one prompt, and none that is empty"):
        checked_prompts(prompts)


def test_one_string_is_no_list_of_prompts():
    with pytest.raises(TypeError, match="prompts='flag' must be a list"):
        checked_prompts("flag")


def test_an_overlap_is_named_whatever_its_case_and_spaces():
    check_disjoint(["red apple", "flag"], ["red apples", "green apple"])
    check_disjoint([], ["flag"])
    with pytest.raises(ValueError, match=r"2 of 3 prompts were calibrated on, the first is ' Red  APPLE'"):
        check_disjoint(["flag", "red apple"], ["cat", " Red  APPLE", "flag"])


@pytest.mark.parametrize("prompts", [np.array(["a", "b"]), ("a", "b"), {"a": 1, "b": 2}.keys()])
def test_prompts_may_be_any_sequence(prompts):
    found = checked_prompts(prompts)
    assert found == ("a", "b") and all(type(prompt) is str for prompt in found)
