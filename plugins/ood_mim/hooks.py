"""Registration of masked image modelling and its tokenizer."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask, Tokenizer
from ood_mim.pretext import MaskedImageModelling
from ood_mim.tokenizer import KMeansTokenizer


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [MaskedImageModelling]


@hookimpl
def ood_register_tokenizers() -> list[type[Tokenizer]]:
    return [KMeansTokenizer]
