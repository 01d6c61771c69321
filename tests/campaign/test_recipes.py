"""Mutated recipes: each is planned, or refused in lines that name the recipe; none ends in a traceback or never."""

import signal
from contextlib import contextmanager

import pytest

from ood_core.runtime.shipped import shipped_folder

TRIALS = 200
SECONDS = 60
"""Longest time for a plan, also on a busy machine."""

NASTY = (
    "0", "-1", "1e999", ".nan", "9" * 5000, "null", "true", "[]", "{}", "''", "[[[]]]", "{use: none}", "*a", "&a [*a]",
    "!!python/object/apply:os.system [true]", "x" * 300,
    "../../etc/passwd", "/dev/zero", '"\\0"', '"\\ud800"', "\x1b[2J",
    "[" * 300, "{a: " * 300, "=1+1", "~", "1_000", "2026-01-01", "0x10", "{use: noise, count: 1000000000000}",
    "{use: classification, epochs: 0}", "[0, 1, 2, 2]", "{use: timm, model: vit_tiny_patch16_224, options: {depth: 0}}",
)  # fmt: skip
"""Values that were, or might be, somebody's mistake or attack."""


@contextmanager
def time_limit(seconds):
    """Raise TimeoutError in the main thread if the block takes longer."""

    def expire(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutated(text, generator):
    """Return a recipe with a few lines changed."""
    lines = text.splitlines()
    for _ in range(generator.choice((1, 1, 2, 3))):
        place = generator.randrange(len(lines))
        line, indent = lines[place], len(lines[place]) - len(lines[place].lstrip())
        other = generator.choice(lines)
        match generator.randrange(7):
            case 0:
                lines[place] = line.partition(":")[0] + ": " + generator.choice(NASTY)
            case 1:
                del lines[place]
            case 2:
                lines.insert(place, other)
            case 3:
                lines[place] = " " * generator.randrange(8) + line.lstrip()
            case 4:
                lines.insert(place, " " * indent + generator.choice(NASTY) + ": " + generator.choice(NASTY))
            case 5:
                words = line.split(" ")
                words[generator.randrange(len(words))] = generator.choice([*NASTY, *other.split(" ")])
                lines[place] = " ".join(words)
            case _:
                cut = generator.randrange(len(line) + 1)
                lines[place] = (
                    line[:cut] + generator.choice(("", "\t", "'", '"', "}", "]", ":", "#", "\x00", "é")) + line[cut:]
                )
        if not lines:
            lines = [""]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_a_mutated_recipe_is_planned_or_refused_in_lines_that_name_it(generator, tiny_text, ood_run, tmp_path):
    shipped = sorted(path for path in shipped_folder().rglob("*.yaml") if "paper" not in path.parts)
    texts = [tiny_text, *(path.read_text() for path in shipped)]
    for trial in range(TRIALS):
        path = tmp_path / f"trial{trial}.yaml"
        path.write_text(mutated(generator.choice(texts), generator), encoding="utf-8", errors="surrogatepass")
        with time_limit(SECONDS):
            try:
                code, out, err = ood_run(path.name, "--plan")
            except Exception as error:
                raise AssertionError(f"{path}: {type(error).__name__}") from error
        assert code in (0, 2), f"{path}: exit code {code}"
        assert "Traceback" not in out + err, path
        if code == 2:
            assert err.strip(), path
            assert max(map(len, err.splitlines())) < 2000, f"{path}: {err[:300]}"
            assert "\x1b" not in err, path
