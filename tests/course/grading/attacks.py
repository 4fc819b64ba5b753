"""Answers that try to change a grade, to reach what is outside of the sandbox, or to stop the grader.

Each is the body of an answer ``def answer(*a):``. VICTIM, PACKAGE, MARK, PORT and SEED stand for the path of
another learner's notebook, the folder of the library, a file to leave, a port that listens, and the seed.
"""

WRITE_EVERYWHERE = """
import os
def everywhere(data):
    for number in range(256):
        try:
            os.write(number, data)
        except OSError:
            pass
"""

FOUND_IN_A_NOTEBOOK = {  # those of a course that was graded before there was a sandbox
    "a line of text for the results": WRITE_EVERYWHERE + "everywhere(b'right\\n')\nreturn 0",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)\nreturn 0",
    "rewrite the checks": """
import pathlib
path = pathlib.Path('PACKAGE/course/checks.py')
path.write_text(path.read_text().replace('raise Wrong', 'return '))""",
    "forged results": WRITE_EVERYWHERE
    + """
from qdiff_lib.course.grading.codec import encode
for value in ({'results': [{'value': 18944}]}, {'outcome': 'right'}, ['right', 'exact']):
    everywhere(encode(value))
os._exit(0)""",
    "look at the frames of the check": """
import gc, sys
frame = sys._getframe()
while frame:
    for name in ('expected', 'right', 'codes', 'grids'):
        if name in frame.f_locals:
            return frame.f_locals[name]
    frame = frame.f_back
return [each for each in gc.get_objects() if isinstance(each, dict) and 'expected' in each][0]['expected']""",
    "replace the checks in memory": """
from qdiff_lib.course import checks, exercises
import qdiff_lib.course.exercises.lesson_00, qdiff_lib.course.exercises.lesson_02
for name in list(checks.EXERCISES):
    checks.EXERCISES[name] = checks.Exercise(name, lambda *a: 'fine', ())
checks.check = lambda *a: checks.Outcome(checks.Verdict.RIGHT, 'fine')
return 0""",
    "a number that is equal to all": """
class Equal(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __sub__(self, other): return 0
return Equal(1)""",
    "read and remove another's work": """
import os, shutil
data = open('VICTIM').read()
os.remove('VICTIM')
raise ValueError('READ ' + data)""",
    "a program by ctypes": "import ctypes\nctypes.CDLL(None).system(b'touch MARK')\nreturn 0",
    "a child that lives on": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3)
        open('MARK', 'w').write('lived')
        time.sleep(600)
    os._exit(0)
return 0""",
    "programs": "import os, subprocess\nos.system('touch MARK')\nsubprocess.run(['touch', 'MARK'])\nreturn 0",
    "gigabytes for the results": WRITE_EVERYWHERE + "while True:\n    everywhere(bytes(2**24))",
    "a child keeps the pipe open": """
import os, time
if os.fork():
    os._exit(0)
time.sleep(600)""",
    "memory": "kept = []\nwhile True:\n    kept.append(bytearray(b'x' * 2**27))",
    "an endless loop": """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass""",
    "lines without end": "for _ in range(20000):\n    print('x' * 10_000)\nreturn 0",
}

MORE = {
    "processes without end": "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(60)",
    "kill everything": "import os\nos.kill(-1, 9)\nreturn 0",
    "stop the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nreturn 0",
    "write to the parent's memory": """
import os
open(f'/proc/{os.getppid()}/mem', 'r+b').write(b'x')""",
    "trace the parent": """
import ctypes, os
if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0:
    open('MARK', 'w')
raise ValueError""",
    "the pipes of the parent": """
import os
for number in range(64):
    open(f'/proc/{os.getppid()}/fd/{number}', 'wb').write(b'right')
return 0""",
    "the network": """
import socket
socket.create_connection(('127.0.0.1', PORT), 2).sendall(b'seed')
return 0""",
    "namespaces and mounts": """
import ctypes
libc = ctypes.CDLL(None)
if libc.unshare(0x10000000 | 0x00020000) == 0 and libc.mount(b'none', b'/usr', b'tmpfs', 0, None) == 0:
    raise ValueError('MOUNTED')
return 0""",
    "the seed in another process": """
import glob
for path in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ'):
    try:
        if b'SEED' in open(path, 'rb').read():
            raise ValueError('SEEN ' + path)
    except OSError:
        pass
return 0""",
    "all files that can be found": """
import os
for folder, _, names in os.walk('/'):
    for name in names:
        if name.endswith('.ipynb') and 'site-packages' not in folder or name == 'class.csv':
            raise ValueError('SEEN ' + folder + name)
return 0""",
    "fill the disk": """
for folder in ('/tmp', '/dev/shm', '/var/tmp', '.', '/'):
    try:
        with open(folder + '/MARKfill'.replace('/', '_'), 'wb') as file:
            for _ in range(1000):
                file.write(bytes(2**24))
    except OSError:
        pass
return 0""",
    "an object that runs when it is read": """
class Loaded:
    def __reduce__(self):
        import os
        return os.system, ('touch MARK',)
return Loaded()""",
    "a tensor of an own class": """
import torch
class Always(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
return torch.ones(3).as_subclass(Always)""",
    "a number of a million digits": "return 10**1_000_000",
    "lists in lists": "found = []\nfor _ in range(100_000):\n    found = [found]\nreturn found",
    "keys that collide": "return {i * (2**61 - 1): 0 for i in range(5_000)}",
    "a tensor larger than all memory": "import torch\nreturn torch.zeros(1).expand(2**50)",
    "an iterable without end": "import itertools\nreturn itertools.count()",
    "an error with a page in it": "raise ValueError('<script>1</script>\\x1b[2J\\u202e' + '=x' * 10_000)",
    "an error that cannot be shown": """
class Wrong(Exception):
    def __str__(self): raise SystemExit
    __repr__ = __str__
raise Wrong""",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "what the library says is wrong": """
import torch
torch.equal = torch.allclose = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.__le__ = lambda *a: True
return torch.ones(1)""",
    "another format": """
from qdiff_lib.course.grading import codec, worker
worker.encode = lambda *a, **k: b'\\xff' * 100
worker.packed = lambda *a, **k: b'\\xff' * 8""",
    "arguments of another size": """
for each in a:
    if hasattr(each, 'resize_'):
        each.resize_(2**24)
return a[0]""",
    "threads": """
import threading, time
for _ in range(500):
    threading.Thread(target=time.sleep, args=(60,)).start()
return 0""",
    "leave": "raise SystemExit(0)",
    "leave at once": "import os\nos._exit(0)",
}

CELLS = {  # whole cells, that define ANSWER
    "the course's own answer": """
from qdiff_lib.course.gaussian import accumulated_variance as library
def ANSWER(*a):
    return library(*a)""",
    "leave where it is defined": "import os\nANSWER = os._exit(0)",
    "an endless cell": "ANSWER = [0 for _ in iter(int, 1)]",
}


def as_cell(body: str, answer: str) -> str:
    """A cell that defines the answer with this body."""
    lines = "\n    ".join(body.strip("\n").split("\n"))
    return f"def {answer}(*a):\n    {lines}\n"
