"""The plan as a tree: the networks to train, stages that variants share, stored stages, the cost of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group
from rich.tree import Tree

from ood_core.escapes import to_markup
from ood_core.recipe.build import recipe_text
from ood_core.records.plan import Plan
from ood_core.records.stages import KINDS, ExtractStage, FitStage, MeasureStage, ScoreStage, Stage, TrainStage
from ood_core.store.cost_model import cost_key, format_seconds, image_count
from ood_core.store.store import Store

NAMED = 6
"""Image sets, scorers or variants that a line names."""


def outline(plan: Plan, store: Store, at_once: int) -> Group:
    """Return the plan as text: a tree of trainings with the stages after each, the notes, and a summary.

    Args:
        plan: The plan.
        store: Store of finished stages, with their costs.
        at_once: Number of jobs side by side.
    """
    return _Outline(plan, store).text(at_once)


class _Outline:
    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.stages = plan.stages
        self.extractions = [stage for stage in self.stages if isinstance(stage, ExtractStage)]
        self.stored = {stage.key for stage in self.stages if store.facts(stage) is not None}
        self.rates = store.rates({cost_key(stage) for stage in self._to_do(self.stages)})
        self.variants: dict[str, dict[str, None]] = {}
        for row in plan.rows:
            for key in _behind(row.measure):
                self.variants.setdefault(key, {})[row.variant] = None

    def text(self, at_once: int) -> Group:
        tree = Tree(f"[bold]{to_markup(self.plan.name)}[/]", highlight=False)
        trainings = [stage for stage in self.stages if isinstance(stage, TrainStage)]
        for stage in trainings:
            if stage.start is None:
                self._training(tree, stage, trainings)
        untrained = [stage for stage in self.extractions if stage.weights is None]
        for backbone in dict.fromkeys(recipe_text(stage.backbone) for stage in untrained):
            branch = tree.add(f"{to_markup(backbone)}, as it comes")
            self._evaluation(branch, [stage for stage in untrained if recipe_text(stage.backbone) == backbone])
        notes = [f"note: {to_markup(note)}" for note in self.plan.notes]
        return Group(tree, *notes, *self._summary(at_once))

    def _training(self, above: Tree, stage: TrainStage, trainings: Sequence[TrainStage]) -> None:
        title = to_markup(f"{stage} on {stage.images.name}, seed {stage.seed}")
        branch = above.add(f"{title}  {stage.key[:8]}  {self._state([stage])}{self._variants_of(stage)}")
        self._evaluation(branch, [s for s in self.extractions if s.weights is not None and s.weights.key == stage.key])
        for later in trainings:
            if later.start is not None and later.start.key == stage.key:
                self._training(branch, later, trainings)

    def _evaluation(self, branch: Tree, extractions: Sequence[ExtractStage]) -> None:
        """Add what follows a network: its extractions, and all that is fitted, scored and measured on them."""
        if not extractions:
            return
        keys = {stage.key for stage in extractions}
        fits = [s for s in self.stages if isinstance(s, FitStage) and s.train.base.key in keys]
        fitted = {stage.key for stage in fits}
        rest = [s for s in self.stages if isinstance(s, (ScoreStage, MeasureStage)) and s.fit.key in fitted]
        sets = {str(stage.images) for stage in extractions}
        names = _named(str(stage.images) for stage in extractions)
        branch.add(f"extract {len(sets)} sets: {to_markup(names)}  {self._state(extractions)}")
        scorers = f"fit {len(fits)} scorer{'s' * (len(fits) > 1)}: {to_markup(_named(stage.name for stage in fits))}"
        branch.add(f"{scorers}  {self._state(fits)}")
        branch.add(f"score and measure: {len(rest)} stages  {self._state(rest)}")

    def _variants_of(self, stage: Stage) -> str:
        variants = list(self.variants.get(stage.key, {}))
        every = {row.variant for row in self.plan.rows}
        if len(every) < 2:
            return ""
        return f"  [dim]for {'all variants' if len(variants) == len(every) else to_markup(_named(variants))}[/]"

    def _state(self, stages: Sequence[Stage]) -> str:
        """Return how many of the stages are to do, and the time they take if known."""
        to_do = self._to_do(stages)
        if not to_do:
            return "[green]stored[/]"
        count = "to do" if len(to_do) == len(stages) else f"{len(to_do)} of {len(stages)} to do"
        known = all(cost_key(stage) in self.rates for stage in to_do)
        return f"[yellow]{count}[/]" + (f", about {self._duration(to_do)}" if known else "")

    def _to_do(self, stages: Sequence[Stage]) -> list[Stage]:
        return [stage for stage in stages if stage.key not in self.stored]

    def _duration(self, stages: Sequence[Stage]) -> str:
        """Return the time that stages take, without those of unknown cost."""
        seconds = sum(self.rates.get(cost_key(stage), 0.0) * image_count(stage) for stage in stages)
        return "a second" if seconds < 1 else format_seconds(seconds)

    def _summary(self, at_once: int) -> Iterator[str]:
        to_do = self._to_do(self.stages)
        kinds = Counter(stage.kind for stage in to_do)
        what = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind]) or "nothing to do"
        rows = f"{len(self.plan.rows)} row{'s' * (len(self.plan.rows) != 1)}"
        yield f"{rows}, {len(self.stages)} stages, {len(self.stages) - len(to_do)} stored; {what}"
        if not to_do:
            return
        unknown = [stage for stage in to_do if cost_key(stage) not in self.rates and stage.kind in ("train", "extract")]
        side = f", {at_once} jobs side by side" if at_once > 1 else ""
        if len(unknown) < sum(kinds[kind] for kind in ("train", "extract")) or not unknown:
            without = f", without {len(unknown)} trainings and extractions whose like was never run" if unknown else ""
            yield f"about {self._duration(to_do)} of work, as stages like these took{without}{side}"
        else:
            yield f"no stage like these was ever run in this store, so their cost is unknown{side}"


def _behind(stage: Stage) -> Iterator[str]:
    yield stage.key
    for earlier in stage.inputs:
        yield from _behind(earlier)


def _named(names: Iterable[str]) -> str:
    each = list(dict.fromkeys(names))
    more = f" and {len(each) - NAMED} more" if len(each) > NAMED else ""
    return ", ".join(each[:NAMED]) + more
