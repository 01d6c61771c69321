"""The Mahalanobis distance at the size of ImageNet, beside its bare matrix products and pytorch-ood.

python benchmarks/mahalanobis.py           100 000 x 768, 1000 classes; then 5.2 GB of mapped features
python benchmarks/mahalanobis.py small     both, smaller, in seconds

The comparison needs pytorch-ood: pip install '.[bench]', as `make bench` does.
"""

import mmap
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ood_core.interfaces import Outputs
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_mahalanobis.scorers import Mahalanobis

REPETITIONS, THEIR_ROWS, CHUNK = 5, 256, 8192
LIBRARY = prepare_torchvision()  # kept alive: pytorch-ood imports torchvision


def best(*actions):
    """Return the least time of each, run in turn, so that a busy machine is unfair to all alike."""
    times = [[] for _ in actions]
    for _ in range(REPETITIONS):
        for action, spent in zip(actions, times, strict=True):
            begun = time.perf_counter()
            action()
            spent.append(time.perf_counter() - begun)
    return [min(spent) for spent in times]


def draw(rows, dimension, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(classes, dimension, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(classes, (rows,), generator=generator)
    embeddings = means[labels] + torch.randn(rows, dimension, generator=generator) + 3
    return Outputs(embeddings, torch.zeros(rows, 0), labels, classes)


def theirs():
    """Return pytorch-ood's detector, or None where it cannot be imported."""
    try:
        from pytorch_ood.detector import Mahalanobis as Theirs
    except ImportError as error:
        print(f"pytorch-ood is not installed ({error}): no comparison with it")
        return None
    return Theirs(None)


def fit(train, detector):
    ours = lambda: Mahalanobis().fit(train)  # noqa: E731
    gram = lambda: [(rows := part.embeddings.double()).T @ rows for part in train.chunks()]  # noqa: E731
    actions = [ours, gram] + ([lambda: detector.fit_features(train.embeddings, train.labels)] if detector else [])
    seconds, product, *their = best(*actions)
    print(f"fit, {len(train)} rows: {seconds:.2f} s")
    print(f"    {seconds / product:.2f} x the product X'X in float64 ({product:.2f} s)")
    for other in their:
        print(f"    {seconds / other:.2f} x pytorch-ood's fit in float32 ({other:.2f} s)")


def score(train, test, detector):
    fitted = Mahalanobis().fit(train)
    transform, means = fitted.whitening.transform, fitted.means
    single, single_means = transform.float(), means.float()
    ours, float64, float32 = best(
        lambda: torch.cat([fitted(part) for part in test.chunks(CHUNK)]),
        lambda: [(part.embeddings.double() @ transform) @ means.T for part in test.chunks(CHUNK)],
        lambda: [(part.embeddings @ single) @ single_means.T for part in test.chunks(CHUNK)],
    )
    print(f"score, {len(test)} rows: {ours:.3f} s")
    print(f"    {ours / float64:.2f} x both products, N D D and N D C, in float64 ({float64:.3f} s)")
    print(f"    {ours / float32:.2f} x both products in float32 ({float32:.3f} s)")
    few = test[:200]
    white = fitted.whitening(few.embeddings)
    plain = torch.cat([(row - means).square().sum(1).amin(0, keepdim=True) for row in white])
    print(f"    relative error against plain float64: {((fitted(few) - plain).abs() / plain).max().item():.1e}")
    if detector:
        rows = test.embeddings[:THEIR_ROWS]
        begun = time.perf_counter()
        detector.predict_features(rows)  # once: it is seconds
        their = time.perf_counter() - begun
        ratio = their / len(rows) / (ours / len(test))
        print(f"    {ratio:.0f} x as fast a row as pytorch-ood's predict ({1e3 * their / len(rows):.2f} ms a row)")


def memory(rows, dimension, classes):
    """Fit to mapped features in a process of its own, and ask it how much memory it had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dimension))
        drawn = draw(CHUNK, dimension, classes, seed=3).embeddings.numpy()
        for start in range(0, rows, CHUNK):
            array[start : start + CHUNK] = drawn[: rows - start] * (1 + start / rows)
        array.flush()
        del array
        subprocess.run([sys.executable, __file__, "fit-mapped", str(path), str(classes)], check=True)


def fit_mapped(path, classes):
    array = np.load(path, mmap_mode="c")
    mapping, row = array._mmap, array.nbytes // len(array)

    def release(_start, stop):
        mapping.madvise(
            mmap.MADV_DONTNEED, 0, (len(mapping) - array.nbytes + stop * row) // mmap.PAGESIZE * mmap.PAGESIZE
        )

    labels = torch.arange(len(array)) % classes
    train = Outputs(torch.from_numpy(array), torch.zeros(len(array), 0), labels, classes, release=release)
    begun = time.perf_counter()
    Mahalanobis().fit(train)
    seconds = time.perf_counter() - begun
    # not ru_maxrss, which begins at the peak of the process that started this one
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6
    print(f"fit, {len(array)} x {array.shape[1]}, {array.nbytes / 1e9:.1f} GB mapped: {seconds:.0f} s")
    print(f"    {peak:.2f} GB resident at most, imports included")


def main(rows=100_000, scored=20_000, mapped=1_280_000, dimension=768, classes=1000):
    train, test = draw(rows, dimension, classes, seed=1), draw(scored, dimension, classes, seed=2)
    print(f"{dimension} dimensions, {classes} classes, {torch.get_num_threads()} threads")
    detector = theirs()
    fit(train, detector)
    score(train, test, detector)
    memory(mapped, 1024, classes)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fit-mapped", path, classes]:
            fit_mapped(path, int(classes))
        case ["small"]:
            main(rows=20_000, scored=4_000, mapped=100_000)
        case _:
            main()
