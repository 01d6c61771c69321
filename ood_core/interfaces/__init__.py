"""The interfaces of plugins, and the values that the core passes to them.

Every plugin class is a frozen, keyword-only dataclass: its fields are the options a recipe may set, the class attribute
`name` is what a recipe writes behind `use:`, and one verb makes the live thing.

| kind            | verb                   | makes                                                    |
|-----------------|------------------------|----------------------------------------------------------|
| `Backbone`      | `build(...)`           | a `Network`                                              |
| `PretextTask`   | `views`, `build(...)`  | the augmentation, and a `Task` whose forward has a loss  |
| `Tokenizer`     | `fit(data, grid)`      | a `TokenMap`: images to token ids                        |
| `Scorer`        | `fit(train)`           | a `Score`: outputs to one number a row                   |
| `DatasetSource` | `open(split)`          | an `ImageSet`                                            |

Letters in shapes: N samples, B samples of a batch, D embedding, C classes, L patches, S image size in pixels.
Images are RGB: uint8 [3, H, W] between modules, float32 [B, 3, S, S] in [0, 1] as the input of a network. Every network
normalises for itself, with the statistics that it was trained with.
Scores: float64, higher means more out-of-distribution, everywhere.
"""

from __future__ import annotations

from ood_core.interfaces.data import DatasetSource, EvaluationView, ImageSet, TrainingData
from ood_core.interfaces.network import Backbone, Network, PatchNetwork
from ood_core.interfaces.outputs import Head, Outputs
from ood_core.interfaces.plugin import (
    NonNegativeFloat,
    NonNegativeInt,
    Plugin,
    PositiveFloat,
    PositiveInt,
    Split,
    Views,
)
from ood_core.interfaces.scoring import NEEDS, FormulaScorer, Probe, Score, Scorer, ScorerInfo
from ood_core.interfaces.shaping import ShapedScore, ShapedScorer
from ood_core.interfaces.training import (
    Batch,
    PretextTask,
    Task,
    Tokenizer,
    TokenizerTraining,
    TokenMap,
    Training,
    refuse_single_images,
    require_patches,
)

__all__ = (
    "NEEDS",
    "Backbone",
    "Batch",
    "DatasetSource",
    "EvaluationView",
    "FormulaScorer",
    "Head",
    "ImageSet",
    "Network",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Outputs",
    "PatchNetwork",
    "Plugin",
    "PositiveFloat",
    "PositiveInt",
    "PretextTask",
    "Probe",
    "Score",
    "Scorer",
    "ScorerInfo",
    "ShapedScore",
    "ShapedScorer",
    "Split",
    "Task",
    "TokenMap",
    "Tokenizer",
    "TokenizerTraining",
    "Training",
    "TrainingData",
    "Views",
    "refuse_single_images",
    "require_patches",
)

PLUGIN_KINDS: dict[str, type[Plugin]] = {
    "backbone": Backbone,
    "pretext": PretextTask,
    "tokenizer": Tokenizer,
    "scorer": Scorer,
    "dataset": DatasetSource,
}
"""The kinds of plugin by the word that messages use for them."""
