"""Kernels that start in a moment: forks of one process that has imported torch and diffusers.

They are real kernels, each with names of its own. A lesson's first cell runs as in any kernel, and finds the
packages imported. That it also runs in a fresh kernel is tested where the notebooks are run.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as kernel:
    kernel.connect(sys.argv[1])
    asked = {"file": sys.argv[2], "folder": os.getcwd(), "environment": dict(os.environ)}
    kernel.sendall(json.dumps(asked).encode() + b"\\n")
    kernel.recv(1)  # it never writes: this waits for its end
"""


def serve(listening: socket.socket) -> None:
    """Start a kernel for each launcher that connects."""
    import diffusers.utils  # noqa: F401
    import ipykernel.kernelapp  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        connection, _ = listening.accept()
        asked = json.loads(connection.makefile().readline())
        if os.fork() == 0:
            listening.close()
            run_kernel(asked)
        connection.close()


def run_kernel(asked: dict) -> None:
    """Be the kernel that a launcher asks for, until it is shut down."""
    from ipykernel.kernelapp import launch_new_instance

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.environ.pop("JPY_PARENT_PID", None)  # the kernel is no child of the process that it names
    sys.path[0] = ""  # as in a kernel of its own: the folder of the notebook, not that of this script
    sys.argv = ["ipykernel", "-f", asked["file"]]
    try:
        launch_new_instance()
    finally:
        os._exit(0)


@contextlib.contextmanager
def warm_kernels():
    """The folder for JUPYTER_PATH whose kernel python3 is such a fork."""
    with tempfile.TemporaryDirectory() as folder:
        place, spec = f"{folder}/socket", Path(folder, "kernels/python3")
        spec.mkdir(parents=True)
        command = [sys.executable, "-I", "-S", "-c", LAUNCHER, place, "{connection_file}"]
        kernel = {"argv": command, "display_name": "Python 3", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        command = [sys.executable, __file__, place]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert server.stdout.readline() == "ready\n", "the process that kernels fork from did not start"
            yield folder
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            server.stdout.close()


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        serve(listening)
