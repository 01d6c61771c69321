"""A campaign against the framework: random damage of everything that comes from outside, from a seed.

`make campaign` runs it; `CAMPAIGN_SEED=7 make campaign` tries other damage. A failure names its trial, which the same
seed repeats.
"""

import os
import random

import pytest

SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))


@pytest.fixture
def generator(request):
    """The random numbers of a test."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="session")
def cut_or_changed():
    """`cut_or_changed(content, generator)`: bytes with a few random changes."""
    return _damaged


def _damaged(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(len(changed) + 1)
        match generator.randrange(5):
            case 0 if changed:
                changed[min(place, len(changed) - 1)] ^= 1 << generator.randrange(8)
            case 1:
                changed[place : place + generator.randrange(1, 40)] = b""
            case 2:
                changed[place:place] = generator.randbytes(generator.randrange(1, 12))
            case 3:
                changed[place:place] = changed[place : place + generator.randrange(1, 60)]
            case _:
                changed = changed[: max(place, 1)]
    return bytes(changed)
