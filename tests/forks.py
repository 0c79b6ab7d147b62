"""Processes that import nothing anew: a server that has torch and forks, one for all tests of a process (`shared`)."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

#: The variable with the folder in which the processes of a test session leave what they measured for each other.
MEASURED = "S3PET_TESTS_MEASURED"

#: What a kernel imports, beside torch; not plotly, which looks whether it is in a notebook.
KERNEL = ["ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "IPython"]


class Server:
    """`search_server.py`, asked for processes."""

    def __init__(self, folder):
        here = Path(__file__).parent
        paths = [str(here / "reliability"), str(here.parent), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._files, theirs = socket.socketpair(socket.AF_UNIX)
        said = folder / "server.txt"
        with theirs, said.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(here / "search_server.py"), str(theirs.fileno())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                pass_fds=[theirs.fileno()], env={**os.environ, **environment},
            )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n", said.read_text()
        self._folder, self._logs, self._turn = folder, [], threading.Lock()

    def close(self):
        self._files.close()
        with self._process:
            self._process.stdin.close()

    def start(self, **order):
        """The id of a process that does this; see `end`."""
        self._logs.append(self._folder / f"{len(self._logs)}.txt")
        return int(self._ask({**order, "log": str(self._logs[-1])}))

    def end(self, pid):
        """Exit status of the process, once it has ended: negative for a signal."""
        return int(self._ask({"wait": pid}))

    def popen(self, command, *, stdout, env, **_):
        """In the place of `subprocess.Popen`, for `s3pet_viz.runs.process.spawn`."""
        assert command[:3] == [sys.executable, "-m", "s3pet_viz"]
        script = "from s3pet_viz.cli import main\nmain()"
        order = {"script": script, "argv": command[3:], "environment": env, "session": True, "folder": str(Path.cwd())}
        return Forked(self, int(self._ask({**order, "log": None}, stdout)))

    def kernel(self, command, env, folder):
        """A Jupyter kernel in this folder, in the place of `jupyter_client.launcher.launch_kernel`."""
        self._ask({"import": KERNEL})
        module, argv = command[command.index("-m") + 1], command[command.index("-m") + 2 :]
        wide = "import pandas\npandas.set_option('display.max_columns', 20)\n"  # as where it is imported in a kernel
        script = f"{wide}import runpy\nrunpy.run_module({module!r}, run_name='__main__')"
        order = {"script": script, "argv": argv, "environment": env, "session": True, "folder": str(folder)}
        return Forked(self, self.start(**order))

    def poll(self, pid):
        """As `end`, but None while it lives."""
        said = self._ask({"poll": pid})
        return None if said is None else int(said)

    def run(self, **order):
        return self.end(self.start(**order))

    def run_and_kill(self, seconds, **order):
        """SIGKILL it after so many seconds; False where it had ended by then."""
        pid = self.start(**order)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # it stays a zombie until `end`, so it is no other process
        return self.end(pid) == -signal.SIGKILL

    def said(self, back=1):
        """What the process said that was started last (or before it: back=2)."""
        return self._logs[-back].read_text()

    def _ask(self, order, file=None):
        with self._turn:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            if file is not None:
                socket.send_fds(self._files, [b"."], [file.fileno()])
            return (*self._process.stdout.readline().split(), None)[1]


_shared = ExitStack()


@functools.cache
def shared():
    """The server of this process, begun when it is first asked for: that costs more than a search."""
    folder = _shared.enter_context(tempfile.TemporaryDirectory(prefix="s3pet-forks-"))
    return _shared.enter_context(closing(Server(Path(folder))))


def close():
    _shared.close()
    shared.cache_clear()


class Forked:
    """What a launcher, and the manager of a kernel, need of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, server, pid):
        self._server, self.pid, self.returncode = server, pid, None
        self._turn = threading.Lock()

    def poll(self):
        with self._turn:
            if self.returncode is None:
                self.returncode = self._server.poll(self.pid)
            return self.returncode

    def wait(self, timeout=600):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # it stays a zombie until it was asked for, so it is no other process
            self.wait(60)
