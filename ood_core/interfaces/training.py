"""Training stages: pretext tasks, the tokenizers they may need, and how both are optimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces.data import TrainingData
from ood_core.interfaces.network import Network, PatchNetwork
from ood_core.interfaces.plugin import NonNegativeFloat, Plugin, PositiveFloat, PositiveInt, Views


class Batch(NamedTuple):
    """One step's worth of training data, on the device of the network."""

    views: tuple[Tensor, ...]
    """One tensor [B, ...] for each view of the pretext task; uint8 views are float32 in [0, 1] here."""
    labels: Tensor
    """int64 [B]."""
    outliers: Tensor | None = None
    """Images [B', 3, S, S] of the auxiliary set, for tasks that need one; drawn anew for each step."""
    broken: tuple[str, ...] = ()
    """A line for each unreadable picture that another one replaces, with `unreadable: skip`."""
    drawn: Tensor | None = None
    """The rows of these images in what `Task.draw` gave for the step, on the CPU; None outside a training."""


class Task(nn.Module, ABC):
    """A pretext task around a network. Parameters that require gradients are trained; the rest of the state is saved.

    Randomness comes from torch's global generator alone; it is seeded for each step, so a continued run draws the same.
    What `forward` draws differs by process and by `accumulation`; what `draw` draws does not.
    """

    def draw(self, images: int) -> Tensor | None:
        """Return the random numbers of each image of a step, [B, ...] on the CPU, such as its mask; None for none.

        Called before `forward`, which finds the rows of its images in `batch.drawn`. B, the number of images, is that
        of the whole step: in all processes, and in all parts that `accumulation` cuts a batch into.
        """
        return None

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return a dict with the scalar "loss"; further scalars are averaged over the epoch and reported."""

    def before_step(self, progress: float) -> None:
        """Update schedules before a step of the optimiser; `progress` is the share of the training that is over."""

    def after_epoch(self) -> dict[str, float]:
        """Return metrics of the whole epoch besides the means over its steps, the same in every process."""
        return {}

    def product(self) -> nn.Module:
        """Return the module whose weights are the result of the training; default: the attribute `network`."""
        network = self.network
        assert isinstance(network, nn.Module), "a task without an attribute `network` overrides `product`"
        return network

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return pictures for the report by name, [3, H, W] in [0, 1], of a few images and their views; may be none.

        Called once after the training, in evaluation mode and without gradients.
        """
        return {}

    def patch_errors(self, images: Tensor) -> Tensor | None:
        """Return how badly each patch of images [B, 3, S, S] is predicted while it is hidden; None if none is.

        float32 [B, h, w], 0 or more, in units of the task's loss, without gradients. A function of the image alone:
        masks are fixed, hide every patch at least once and about as many at a time as in training; the errors of a
        patch are averaged over those that hide it. Called in evaluation mode.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Training(Plugin):
    """How a stage is optimised: AdamW, steps of whole batches, half a cosine.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step of the optimiser, in all processes together.
        learning_rate: Peak of the schedule.
        min_learning_rate: Its end.
        warmup_epochs: Linear rise from 0 to the peak, in epochs.
        weight_decay: AdamW's decoupled decay.
        decay_all: Whether it also acts on biases, norms, class tokens and positions.
        layer_decay: Factor on the learning rate from each layer to the one below it; 1 gives all layers the same.
        drop_path: Probability that the last residual branch is dropped in training, falling to 0 at the first.
        max_grad_norm: Gradients are scaled down to this global norm; none leaves them.
        ema_decay: Keep an exponential moving average of the weights instead of the last ones; 0 keeps the last ones.
        accumulation: Parts that each process cuts its share of a batch into, to save memory.
        precision: Of the forward pass; weights and optimiser stay float32. "auto" is bf16 on a GPU that computes in it,
            fp16 with a gradient scaler on an older one, float32 on a CPU.
        gradient_checkpointing: Save memory by computing activations twice.
        compile: Whether torch.compile is used.
    """

    epochs: PositiveInt
    batch_size: PositiveInt = 128
    learning_rate: Annotated[float, Gt(0), Le(1000)] = 1e-3
    min_learning_rate: NonNegativeFloat = 0.0
    warmup_epochs: NonNegativeFloat = 1.0
    weight_decay: NonNegativeFloat = 0.05
    decay_all: bool = False
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    max_grad_norm: PositiveFloat | None = 3.0
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    accumulation: PositiveInt = 1
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False

    picture_legends: ClassVar[Mapping[str, str]] = {}
    """For each picture that `Task.pictures` returns, its rows in words, separated by semicolons, for the report."""

    @abstractmethod
    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation: one image, uint8 [3, H, W], to a tuple of views, each uint8 or float in [0, 1].

        It draws from the global generators of torch, numpy and random, which are seeded for each image. `grid` holds
        the patches of the network along height and width; None where it has none.
        """


@dataclass(frozen=True, kw_only=True)
class PretextTask(Training):
    """A training stage of the network: a task and its optimisation."""

    trains_head: ClassVar[bool] = False
    """Whether the classifier of the network is trained, so that logits can be scored."""

    uses_labels: ClassVar[bool] = False
    """Whether the loss reads the labels of the images."""

    least_classes: ClassVar[int] = 1
    """Number of ID classes that the task needs; checked in the plan."""

    def auxiliary_images(self) -> int:
        """Return the number of auxiliary OOD images of each batch, in all processes together."""
        return 0

    @abstractmethod
    def build(self, network: Network, data: TrainingData) -> Task:
        """Return the task around this network; OODError if the network cannot do it."""

    def build_empty(self, network: Network, image_size: int) -> Task | None:
        """Return the task as `build` does, without training data; None if it is of no use after the training.

        Its state dict without that of the network, which is not to be changed, is saved beside the weights of the
        network. It is loaded again where the trained task is used: for its `patch_errors`, in detectors. The values of
        its tensors are arbitrary. OODError if the network cannot do this task.
        """
        return None


def require_patches(network: Network, task: PretextTask) -> PatchNetwork:
    """Return the network; raise OODError if it does not work on patches."""
    if isinstance(network, PatchNetwork):
        return network
    raise OODError(f"pretext '{task.name}' needs a backbone that works on patches, such as a ViT, BEiT or MLP-Mixer")


def refuse_single_images(task: PretextTask) -> None:
    """Raise OODError if a task that compares the images of a batch could get a single one."""
    least = 2 * task.accumulation
    if task.batch_size < least:
        reason = "it compares the images of a batch, or of each part that 'accumulation' cuts it into"
        raise OODError(f"pretext '{task.name}' needs a batch_size of {least} or more: {reason}")


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(Training):
    """A training stage of a tokenizer; the network has no part in it."""

    @abstractmethod
    def build(self, data: TrainingData) -> Task:
        """Return the task; the tokenizer needs its `product`."""


class TokenMap(nn.Module, ABC):
    """A fitted tokenizer, frozen."""

    vocabulary: int
    """Number of different tokens."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return token ids, int64 [B, L], of images [B, 3, V, V] in [0, 1]; patches row by row.

        V is the tokenizer's `view_size`.
        """

    def decode(self, tokens: Tensor) -> Tensor | None:
        """Return images [B, 3, V, V] in [0, 1] for token ids [B, L]; None if there is no decoder."""
        return None


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Plugin):
    """Turns patches into visual tokens, the targets of masked image modelling."""

    def training(self) -> TokenizerTraining | None:
        """Return the stage that trains the tokenizer; None if `fit` is enough."""
        return None

    def view_size(self, image_size: int, grid: tuple[int, int]) -> int:
        """Return V, the size in pixels of the tokenizer's view of an image of which the network's has S."""
        return image_size

    @abstractmethod
    def fit(self, data: TrainingData, grid: tuple[int, int]) -> TokenMap:
        """Return the map from images to tokens on this patch grid (rows, columns).

        A tokenizer with a `training` finds its weights in `data.tokenizer_weights(self)`.
        """

    def build_empty(self, grid: tuple[int, int], image_size: int) -> TokenMap | None:
        """Return the map as `fit` does, without training data and files; None if tasks with it are not restored.

        Its state dict is saved and loaded as that of `PretextTask.build_empty`. It may lack what `decode` needs. The
        network is shown images of `image_size` S.
        """
        return None
