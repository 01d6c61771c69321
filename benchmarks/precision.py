"""Speed and error of bfloat16 autocast on this machine: ViT-B/16 inference, and a training step of a small ViT.

    python benchmarks/precision.py

Times as ratios to float32, interleaved; embeddings by their largest and mean relative difference. Random weights.
"""

import statistics
import time

import torch

from ood_core.plugins import find

REPETITIONS = 3


def network(plugins, model, size, **options):
    torch.manual_seed(0)
    return plugins.get("backbone", "timm")(model=model, options=options).build(size, 10)


def timed(run):
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def both(run):
    """Return the ratio of float32's time to bfloat16's, and the last results of both."""

    def rounded():
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    run(), rounded()  # warm
    pairs = [(timed(run), timed(rounded)) for _ in range(REPETITIONS)]
    ratio = statistics.median(exact[0] / fast[0] for exact, fast in pairs)
    return ratio, pairs[-1][0][1], pairs[-1][1][1]


def inference(plugins):
    large = network(plugins, "vit_base_patch16_224", 224).eval()
    images = torch.rand(4, 3, 224, 224)
    with torch.inference_mode():
        ratio, exact, rounded = both(lambda: large.forward_head(large.forward_features(images), pre_logits=True))
    relative = (rounded.float() - exact).norm(dim=1) / exact.norm(dim=1)
    print(f"ViT-B/16 inference, batch 4: bf16 is {ratio:.2f}x as fast; ", end="")
    print(f"embeddings differ by {relative.mean():.2%} of their length, at most {relative.max():.2%}")


def training(plugins):
    options = {"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4}
    small = network(plugins, "vit_tiny_patch16_224", 32, **options).train()
    images = torch.rand(64, 3, 32, 32)

    def step():
        small.zero_grad()
        loss = small(images).float().logsumexp(1).mean()
        loss.backward()
        return loss.detach()

    ratio, _, _ = both(step)
    print(f"small ViT, training step, batch 64: bf16 is {ratio:.2f}x as fast")


if __name__ == "__main__":
    found = find()
    print(f"CPU, {torch.get_num_threads()} threads")
    inference(found)
    training(found)
