"""The command ``python -m qdiff_lib``; see ``cli.main``."""

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C prints no traceback during imports
    from .cli.main import main

    sys.exit(main())
