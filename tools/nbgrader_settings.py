"""nbgrader's settings for this course. nbgrader reads this file from the folder in which its command runs."""

import os

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
)
from nbgrader.utils import is_grade, is_locked

from qdiff_lib.course.grading.lesson_cells import idle_cells

SKIPPED = "skip-execution"  # the tag of cells that are not run


class SkipLessonCells(NbGraderPreprocessor):
    """Skip the lesson's own cells that no answer needs: a notebook then takes seconds.

    A notebook without tests is graded by hand. None of its cells runs: they may calibrate for an hour.

    No other cell keeps a tag: with the tag above, a test would not run, and would earn all its points.
    """

    def preprocess(self, nb, resources):
        cells = [cell for cell in nb.cells if cell.cell_type == "code"]
        lesson = {i for i, cell in enumerate(cells) if i and is_locked(cell) and not is_grade(cell)}
        tested = any(is_grade(cell) for cell in cells)
        idle = idle_cells([cell.source for cell in cells], lesson) if tested else set(range(len(cells)))
        for i, cell in enumerate(cells):
            cell.metadata["tags"] = [SKIPPED] if i in idle else []
        return nb, resources


c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "quantization"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("your turn")'}  # as in the course's checks
c.Execute.timeout = 120  # seconds for a cell
c.Autograde.sanitize_preprocessors = [
    ClearOutput, DeduplicateIds, OverwriteKernelspec, OverwriteCells, SkipLessonCells, CheckCellMetadata,
]  # fmt: skip
os.environ |= {"QDIFF_PROFILE": "tiny", "QDIFF_PROGRESS": "off", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
