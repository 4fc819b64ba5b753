"""``python -m qdiff_lib``: see ``cli.main``."""

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # before and after the command, Ctrl-C needs no words
    from .cli.main import main

    sys.exit(main())
