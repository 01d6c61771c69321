"""Bitwise comparison of two commits: core scorers, protocols and a detector's scores, through the command lines.

python benchmarks/same_numbers.py before.json     at one commit; minutes
python benchmarks/same_numbers.py after.json      at another, with its own environment, on the same machine
python benchmarks/same_numbers.py before.json after.json
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

CORE = "scorers=[mahalanobis, softmax, entropy, energy, gradnorm]"
RUNS = {
    "mood": ["mood", "--set", CORE],
    "one_class": ["protocols/one_class"],
    "open_set": ["protocols/open_set"],
    "pairs": ["protocols/pairs"],
    "few_shot": ["protocols/few_shot"],
}
IMAGES = 32


def main(paths):
    if len(paths) == 2:
        before, after = (json.loads(Path(path).read_text()) for path in paths)
        different = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        for name in sorted(different):
            print(f"{name}: {before.get(name)} before, {after.get(name)} after")
        print(f"{len(different)} of {len(before)} values differ")
        return 1 if different else 0
    with tempfile.TemporaryDirectory() as folder:
        Path(paths[0]).write_text(json.dumps(collect_numbers(Path(folder)), indent=1))
    return 0


def collect_numbers(folder):
    """Return every number by its name: measured rates, digests of arrays of scores, scores of new images."""
    found = {}
    for name, arguments in RUNS.items():
        call("ood-run", *arguments, "--out", f"runs/{name}", folder=folder)
        report = json.loads((folder / "runs" / name / "report.json").read_text())
        found |= leaves(f"{name}.rows", report["rows"])
        for array, values in load_file(folder / "runs" / name / "scores.safetensors").items():
            found[f"{name}.scores.{array}"] = hashlib.sha256(values.tobytes()).hexdigest()
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        pixels = generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index:02}.png")
    call("ood", "score", "runs/mood", "images", "--all-scores", "--out", "scored.jsonl", folder=folder)
    for index, line in enumerate((folder / "scored.jsonl").read_text().splitlines()):
        found |= leaves(f"scored.{index}", json.loads(line))
    return found


def leaves(name, value):
    """Return the plain values within lists and mappings, each by its dotted name; times and keys of stages left out."""
    if isinstance(value, dict):
        inner = {key: part for key, part in value.items() if key not in ("seconds", "fit", "score", "measure", "key")}
        return {leaf: v for key, part in inner.items() for leaf, v in leaves(f"{name}.{key}", part).items()}
    if isinstance(value, list):
        return {leaf: v for key, part in enumerate(value) for leaf, v in leaves(f"{name}.{key}", part).items()}
    return {name: value}


def call(command, *arguments, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = str(Path(sys.executable).with_name(command))
    subprocess.run([program, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
