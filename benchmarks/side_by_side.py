"""A run alone and two side by side, by how long OpenMP's idle threads spin: seconds, the best of several repetitions.

    python benchmarks/side_by_side.py

The recipe is `mood` with six epochs for each of its trainings, on all cores. "ours" is what `ood` sets by itself
(`ood_core.runtime.openmp`), the others are a user's own settings, which it leaves alone. The machine must be idle.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ood_core.runtime.openmp import OWN

RUN = [str(Path(sys.executable).with_name("ood-run")), "mood", "--set", "training.0.epochs=6"]
RUN += ["--set", "training.1.epochs=6", "--jobs", "1"]
SETTINGS = {
    "ours": {},
    "GNU's default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
REPETITIONS = 3


def seconds(setting, runs):
    """Return how long so many runs take that begin together, each with an empty store."""
    environment = {name: value for name, value in os.environ.items() if name not in (*OWN, "OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        started = []
        for index in range(runs):
            (place := Path(folder) / str(index)).mkdir()
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(RUN, cwd=place, env=environment | setting, **quiet))
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"a run failed: {' '.join(RUN)}")
        return time.perf_counter() - begun


def main():
    alone, two = {}, {}
    for _ in range(REPETITIONS):
        for name, setting in SETTINGS.items():
            alone[name] = min(seconds(setting, 1), alone.get(name, float("inf")))
            two[name] = min(seconds(setting, 2), two.get(name, float("inf")))
    print(f"{'':14} {'alone':>8} {'two':>8} {'two / alone':>12} {'alone / default':>16}")
    for name in SETTINGS:
        ratio = alone[name] / alone["GNU's default"]
        print(f"{name:14} {alone[name]:6.1f} s {two[name]:6.1f} s {two[name] / alone[name]:12.2f} {ratio:16.2f}")


if __name__ == "__main__":
    main()
