"""Runs a Python command in a sandbox that the machine already has: bubblewrap, podman or docker.

The command has no network, sees the system's programs and the folders that it is given, read-only, and can
write only to small folders in memory. It sees no other process, and all that it starts ends with it.
"""

import atexit
import contextlib
import errno
import functools
import json
import os
import secrets
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
SCRATCH = 2**26  # bytes of each folder in memory that the command can write to
PROCESSES = 64
EMPTY_IMAGE = "qdiff-empty"  # of containers: they see the host's programs, read-only, as bubblewrap does
PROBE_SECONDS = 60
NAMESPACES = 0x7E020000  # the flags of clone() that make a namespace
HELP = "install bubblewrap (Debian, Ubuntu: sudo apt install bubblewrap), podman or docker"


@dataclass
class Running:
    """A command in a sandbox. stop_command: ends what ending the process would leave."""

    process: subprocess.Popen
    stop_command: list[str] = field(default_factory=list)

    def stop(self) -> None:
        """End the command and everything that it started."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        if self.stop_command:
            subprocess.run(self.stop_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def usage(self) -> tuple[int, int]:
        """The number of processes of the command, and their memory in bytes, as far as they are seen here."""
        count, memory = 0, 0
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found = child.memory_info()
                    count, memory = count + 1, memory + found.rss - getattr(found, "shared", 0)
        return count, memory


@dataclass(frozen=True)
class Sandbox:
    """name: "bubblewrap", "podman", "docker", or "none" for a command that runs unprotected."""

    name: str

    @property
    def safe(self) -> bool:
        return self.name != "none"

    def start(self, arguments: list[str], readable: Iterable[Path], environment: dict[str, str]) -> Running:
        """Start this Python with ``arguments``; its standard input and output are pipes.

        readable: files and folders that the command can read, besides Python and its packages.
        environment: all variables that the command gets.
        """
        command, stop, kept = [sys.executable, *arguments], [], environment
        folders = [*python_folders(), *map(str, readable)]
        if self.name == "bubblewrap":
            command = [*bubblewrap(folders), *command]
        elif self.safe:
            label = f"qdiff-{secrets.token_hex(8)}"
            command = [*container(self.name, label, folders, environment), *command]
            stop, kept = [self.name, "kill", label], dict(os.environ)
        process = subprocess.Popen(
            command,
            cwd="/",
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return Running(process, stop)


def python_folders() -> list[str]:
    """The folders of this Python and of its packages, outermost only."""
    places = [sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parent)]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    kept: list[str] = []
    for place in sorted({os.path.abspath(place) for place in places}, key=len):
        if os.path.isdir(place) and not any(is_below(place, other) for other in (*kept, *SYSTEM)):
            kept.append(place)
    return kept


def is_below(path: str | Path, folder: str | Path) -> bool:
    """Whether ``path`` is ``folder`` or in it."""
    return Path(path).is_relative_to(folder)


def bubblewrap(folders: Iterable[str]) -> list[str]:
    """The start of a command for bubblewrap; the folders are visible and read-only."""
    options = ["--unshare-user", "--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    options += ["--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    program = shutil.which("bwrap") or "bwrap"  # the command's own PATH may be another
    options += ["--disable-userns"] if can_disable_namespaces(program) else []
    for place in SYSTEM:
        if os.path.islink(place):
            options += ["--symlink", os.readlink(place), place]
        elif os.path.exists(place):
            options += ["--ro-bind", place, place]
    for scratch in ("/tmp", "/dev/shm"):
        options += ["--size", str(SCRATCH), "--tmpfs", scratch]
    for folder in folders:  # after /tmp, as they may be below it
        options += ["--ro-bind", folder, folder]
    return [program, *options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]


@functools.cache
def can_disable_namespaces(program: str) -> bool:
    """Whether this bubblewrap can forbid new user namespaces, as versions from 0.8 on can."""
    return "--disable-userns" in subprocess.run([program, "--help"], capture_output=True, text=True).stdout


def container(engine: str, label: str, folders: Iterable[str], environment: dict[str, str]) -> list[str]:
    """The start of a command for podman or docker, with the same view of the system as in ``bubblewrap``."""
    options = ["run", "--rm", "--interactive", "--name", label, "--network", "none", "--read-only"]
    options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534"]
    if engine == "podman":  # docker forbids namespaces without being told
        options += ["--security-opt", f"seccomp={system_calls_without_namespaces()}"]
    options += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    options += ["--pids-limit", str(PROCESSES), "--memory", "4g", "--tmpfs", f"/tmp:size={SCRATCH}"]
    for place in [*filter(os.path.exists, SYSTEM), *folders]:
        options += ["--volume", f"{place}:{place}:ro"]
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    return [engine, *options, EMPTY_IMAGE]


@functools.cache
def system_calls_without_namespaces() -> str:
    """The path of podman's list of system calls, less those that make namespaces or mounts, as JSON.

    Raises OSError or SubprocessError if podman has no such list.
    """
    ask = ["podman", "info", "--format", "{{.Host.Security.SECCOMPProfilePath}}"]
    place = subprocess.run(
        ask, capture_output=True, text=True, check=True, timeout=PROBE_SECONDS
    ).stdout.strip()
    profile = json.loads(Path(place).read_text(encoding="utf-8"))
    forbidden = {"clone", "clone3", "unshare", "setns", "mount", "mount_setattr", "move_mount", "open_tree"}
    forbidden |= {"fsopen", "fsconfig", "fsmount", "fspick", "pivot_root", "umount", "umount2"}
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in forbidden]
    threads = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]] + [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [threads]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},  # then clone is called
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="qdiff-", delete=False) as file:
        json.dump(profile, file)
    atexit.register(os.remove, file.name)
    return file.name


def why_not(name: str) -> str:
    """Why a sandbox cannot be used on this machine; an empty text if it can."""
    program = {"bubblewrap": "bwrap"}.get(name, name)
    if not shutil.which(program):
        return "not installed"
    try:
        if name != "bubblewrap":
            make_empty_image(name)
        running = Sandbox(name).start(["-S", "-c", "print(1)"], [], {"PATH": "/usr/bin:/bin"})
        try:
            said, _ = running.process.communicate(timeout=PROBE_SECONDS)
        finally:
            running.stop()
        return "" if said.strip() == b"1" else failure_text(name)
    except (OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())


def failure_text(name: str) -> str:
    """What the program says where it cannot start a sandbox."""
    folders = python_folders()
    start = bubblewrap(folders) if name == "bubblewrap" else container(name, "qdiff-probe", folders, {})
    run = subprocess.run([*start, "/usr/bin/true"], capture_output=True, text=True, timeout=PROBE_SECONDS)
    return f"installed, but it does not work here: {' '.join(run.stderr.split()) or 'no reason given'}"


def make_empty_image(engine: str) -> None:
    """Make the image of the containers. Raises SubprocessError if the engine does not answer."""
    quiet = dict(capture_output=True, timeout=PROBE_SECONDS)
    if subprocess.run([engine, "image", "inspect", EMPTY_IMAGE], **quiet).returncode:
        subprocess.run([engine, "import", "-", EMPTY_IMAGE], input=bytes(10240), check=True, **quiet)


@functools.cache
def survey() -> dict[str, str]:
    """For each kind of sandbox why it cannot be used. The first that can, with an empty text, ends it."""
    found: dict[str, str] = {}
    for name in ("bubblewrap", "podman", "docker"):
        found[name] = why_not(name)
        if not found[name]:
            break
    return found


def find_sandbox() -> Sandbox | None:
    """The best sandbox of this machine, or None."""
    usable = [name for name, reason in survey().items() if not reason]
    return Sandbox(usable[0]) if usable else None
