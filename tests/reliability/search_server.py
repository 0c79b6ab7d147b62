"""Searches in processes of their own, without the seconds that each would need to import torch.

Reads a line of JSON per process that is wanted, forks, and says on stdout ``pid N``; to ``{"wait": N}`` it says
``ended STATUS`` once that process has. A process that is given a script goes on as ``python -c`` would: it ends as an
interpreter ends. Run with OMP_NUM_THREADS=1: a process with threads is not to be forked.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from faults import Faults

from s3pet_viz.backbones import load_backbone
from s3pet_viz.cli import main
from s3pet_viz.engine import search
from s3pet_viz.errors import S3PETError


def into(path):
    """Everything that this process says from here on; the file."""
    log = sys.stdout = sys.stderr = Path(path).open("a", buffering=1)  # noqa: SIM115 (for the rest of this process)
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


def serve(backbone):
    """Returns in a process that was given a script, with its order; None once nothing more is asked for."""
    load_backbone(backbone)  # what transformers imports late
    assert threading.active_count() == 1
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(f"ended {os.waitstatus_to_exitcode(os.waitpid(order['wait'], 0)[1])}", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if "script" in order:
                return order
            os._exit(child(order))
        print(f"pid {pid}", flush=True)
    return None


if __name__ == "__main__" and (order := serve(sys.argv[1])) is not None:
    into(order["log"])
    os.environ |= order.get("environment", {})
    sys.argv = ["-c", *order["argv"]]
    exec(compile(order["script"], "<script>", "exec"), {"__name__": "__main__"})
