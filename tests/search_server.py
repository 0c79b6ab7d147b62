"""Searches in processes of their own, without the seconds that each would need to import torch.

Reads a line of JSON per process that is wanted, forks, and says on stdout ``pid N``; to ``{"wait": N}`` it says
``ended STATUS`` once that process has, to ``{"poll": N}`` at once, or ``lives``. A process that is given a script goes on
as ``python -c`` would: it ends as an interpreter ends. Its "output" is a path, or None for a file that comes through the
socket. To ``{"import": [...]}`` it imports these, for all that it forks from then on. Argument: that socket's number. Run with OMP_NUM_THREADS=1: a process with threads is not to be forked.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback

import measured_once
from faults import Faults
from problems import save_tiny
from transformers.utils import logging

from s3pet_viz.backbones import load_backbone
from s3pet_viz.cli import main
from s3pet_viz.engine import search
from s3pet_viz.errors import S3PETError


def into(output):
    """Everything that this process says from here on, to a path or an open file's number; the file."""
    log = sys.stdout = sys.stderr = open(output, "a", buffering=1)  # noqa: PTH123, SIM115 (for the rest of this process)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    return log


def child(order):
    """The exit status: 0 done, 2 an error of the package, 1 any other; what was said lies in order["log"]."""
    with into(order["log"]) as log:
        fault = order.get("fault") or {"folder": "/nowhere"}
        try:
            with Faults(**fault) as faults:
                if "argv" in order:
                    sys.argv = ["s3pet", *order["argv"]]
                    main()
                else:
                    search(**order["options"], progress=False)
            if faults.action == "count":
                log.write("operations " + json.dumps(faults.seen) + "\n")
        except SystemExit as end:
            return int(end.code or 0)
        except KeyboardInterrupt:
            return 130
        except S3PETError as error:
            log.write(f"error: [{type(error).__name__}] {error}\n")
            return 2
        except BaseException:
            traceback.print_exc(file=log)
            return 1
        return 0


def status_of(pid, options):
    done, status = os.waitpid(pid, options)
    return f"ended {os.waitstatus_to_exitcode(status)}" if done else "lives"


def settle():
    """What is here is not looked through, and so not copied, in each process."""
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()


def begin_session(pid):
    """In both processes, after a fork: whoever is told of the new one can signal its group, and no other."""
    if pid == 0:
        os.setsid()
    else:
        while os.getpgid(pid) != pid:
            time.sleep(0.001)


def serve(files):
    """Returns in a process that was given a script, with its order; None once nothing more is asked for."""
    logging.disable_progress_bar()  # a bar begins a thread
    with tempfile.TemporaryDirectory() as place:
        for form in ("t5", "bert"):  # what transformers imports late
            load_backbone(save_tiny(form, f"{place}/{form}"))
    logging.enable_progress_bar()
    measured_once.share()
    settle()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order or "poll" in order:
            print(status_of(order["wait"], 0) if "wait" in order else status_of(order["poll"], os.WNOHANG), flush=True)
            continue
        if "import" in order:
            for name in order["import"]:
                importlib.import_module(name)
            settle()
            print("imported", flush=True)
            continue
        output = order["log"] if order["log"] is not None else socket.recv_fds(files, 1, 1)[1][0]
        pid = os.fork()
        if order.get("session"):
            begin_session(pid)
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            order["log"] = output
            if "script" in order:
                return order
            os._exit(child(order))
        if not isinstance(output, str):
            os.close(output)
        print(f"pid {pid}", flush=True)
    return None


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as files:
        order = serve(files)
    if order is None:
        sys.exit()
    if order.get("folder"):
        os.chdir(order["folder"])
    into(order["log"])
    os.environ |= order.get("environment", {})
    sys.argv = ["-c", *order["argv"]]
    exec(compile(order["script"], "<script>", "exec"), {"__name__": "__main__"})
