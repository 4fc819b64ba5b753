"""The command line, ``python -m qdiff_lib``. Its imports are fast, so that ``--help`` answers at once."""
