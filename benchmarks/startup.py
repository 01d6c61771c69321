"""Startup time of the command line, beside a bare `import torch`.

python benchmarks/startup.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

OOD, OOD_RUN = (str(Path(sys.executable).with_name(name)) for name in ("ood", "ood-run"))
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "ood-run --help": [OOD_RUN, "--help"],
    "ood list plugins": [OOD, "list", "plugins"],
    "ood plan mood": [OOD, "plan", "mood"],
}
REPETITIONS = 5


def seconds(command, folder):
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def main():
    with tempfile.TemporaryDirectory() as folder:
        best = {name: min(seconds(command, folder) for _ in range(REPETITIONS)) for name, command in COMMANDS.items()}
    base = best["import torch"]
    for name, value in best.items():
        print(f"{name:22} {value:6.2f} s   {value / base:5.2f} x import torch")


if __name__ == "__main__":
    main()
