"""The command line, ``python -m qdiff_lib``. Light to import, so that ``--help`` answers at once."""
