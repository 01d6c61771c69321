"""Starts `ood-run` in two forked processes, as torchrun does, but imports everything only once for many launches.

Each line of stdin is a launch as JSON: its arguments, environment, sys.path entries and log file. Each line of stdout
lists the exit codes, negative for a signal. A process that fails takes the other one down.
"""

import json
import os
import signal
import socket
import sys

from ood_core.cli import run
from ood_core.plugins import find


def fork(rank: int, port: int, launch: dict) -> int:
    """Return the id of a process that carries out the command line with this rank."""
    if child := os.fork():
        return child
    log = os.open(launch["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    ranks |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update(launch["environment"] | {name: str(value) for name, value in ranks.items()})
    sys.path[:0] = launch["path"]
    sys.argv = ["ood-run", *launch["arguments"]]
    code = 1
    try:
        run.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def carry_out(launch: dict) -> list[int]:
    """Return the exit codes of two processes."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    running = [fork(rank, port, launch) for rank in range(2)]
    codes = {}
    while len(codes) < 2:
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child]:
            for other in set(running) - codes.keys():
                os.kill(other, signal.SIGTERM)
    return [codes[child] for child in running]


if __name__ == "__main__":
    find()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(carry_out(json.loads(line))) + "\n")
        sys.stdout.flush()
