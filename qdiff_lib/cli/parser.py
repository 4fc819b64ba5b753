"""The parser of arguments: errors in one line, and help texts as they are written."""

import argparse

from ..utils.processes import is_first_to_tell
from .failures import one_line

PROGRAM = "python -m qdiff_lib"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that prints errors in one line and keeps the line breaks of help texts."""

    def __init__(self, **settings):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **settings)

    def error(self, message: str):
        """Print the error in one line, once for all processes of a run, and exit with status 2."""
        line = f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n"
        self.exit(2, line if is_first_to_tell() else None)
