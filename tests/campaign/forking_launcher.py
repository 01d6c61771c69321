"""Starts `ood-run` in a forked process for each line of stdin, arguments as JSON; prints its id, then its exit code."""

import json
import os
import sys

from ood_core.cli import launch, run
from ood_core.plugins import find

if __name__ == "__main__":
    find()
    assert launch  # what a run imports, once for all
    for line in sys.stdin:
        child = os.fork()
        if not child:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            sys.argv = ["ood-run", *json.loads(line)]
            code = 1
            try:
                run.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                os._exit(code)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
