"""Registration of the tokenizers with an autoencoder."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Tokenizer
from ood_dvae.published import DalleTokenizer
from ood_dvae.tokenizer import DiscreteVAE


@hookimpl
def ood_register_tokenizers() -> list[type[Tokenizer]]:
    return [DalleTokenizer, DiscreteVAE]
