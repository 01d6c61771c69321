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

from ood_core.interfaces.data import DatasetSource as DatasetSource
from ood_core.interfaces.data import EvaluationView as EvaluationView
from ood_core.interfaces.data import ImageSet as ImageSet
from ood_core.interfaces.data import TrainingData as TrainingData
from ood_core.interfaces.network import Backbone as Backbone
from ood_core.interfaces.network import Network as Network
from ood_core.interfaces.network import PatchNetwork as PatchNetwork
from ood_core.interfaces.outputs import Head as Head
from ood_core.interfaces.outputs import Outputs as Outputs
from ood_core.interfaces.plugin import NonNegativeFloat as NonNegativeFloat
from ood_core.interfaces.plugin import NonNegativeInt as NonNegativeInt
from ood_core.interfaces.plugin import Plugin as Plugin
from ood_core.interfaces.plugin import PositiveFloat as PositiveFloat
from ood_core.interfaces.plugin import PositiveInt as PositiveInt
from ood_core.interfaces.plugin import Split as Split
from ood_core.interfaces.plugin import Views as Views
from ood_core.interfaces.scoring import NEEDS as NEEDS
from ood_core.interfaces.scoring import FormulaScorer as FormulaScorer
from ood_core.interfaces.scoring import Probe as Probe
from ood_core.interfaces.scoring import Score as Score
from ood_core.interfaces.scoring import Scorer as Scorer
from ood_core.interfaces.scoring import ScorerInfo as ScorerInfo
from ood_core.interfaces.shaping import ShapedScore as ShapedScore
from ood_core.interfaces.shaping import ShapedScorer as ShapedScorer
from ood_core.interfaces.training import Batch as Batch
from ood_core.interfaces.training import PretextTask as PretextTask
from ood_core.interfaces.training import Task as Task
from ood_core.interfaces.training import Tokenizer as Tokenizer
from ood_core.interfaces.training import TokenizerTraining as TokenizerTraining
from ood_core.interfaces.training import TokenMap as TokenMap
from ood_core.interfaces.training import Training as Training
from ood_core.interfaces.training import refuse_single_images as refuse_single_images
from ood_core.interfaces.training import require_patches as require_patches

PLUGIN_KINDS: dict[str, type[Plugin]] = {
    "backbone": Backbone,
    "pretext": PretextTask,
    "tokenizer": Tokenizer,
    "scorer": Scorer,
    "dataset": DatasetSource,
}
"""The kinds of plugin by the word that messages use for them."""
