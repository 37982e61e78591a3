"""How large a model is: the published sizes by name."""

import math
from dataclasses import dataclass
from typing import Any

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import COUNTED_POSITIONS
from bertcraft.errors import InputError


@dataclass(frozen=True)
class Size:
    """Layers, hidden size, attention heads, feed-forward size; for ELECTRA, embedding size and the generator's width."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    embedding: int
    generator: float


# tiny and mini: Turc et al. 2019, arXiv:1908.08962, table 1; small is ELECTRA-Small and with base and large that of Clark et
# al. 2020, appendix A, table 6, whose base and large are BERT's.
SIZES = {
    "tiny": Size(2, 128, 2, 512, 128, 0.5),
    "mini": Size(4, 256, 4, 1024, 128, 0.25),
    "small": Size(12, 256, 4, 1024, 128, 0.25),
    "base": Size(12, 768, 12, 3072, 768, 1 / 3),
    "large": Size(24, 1024, 16, 4096, 1024, 0.25),
}

# What a family has besides sizes, where transformers' defaults are not the published models': distances in place of places
# (He et al. 2021; as in microsoft/deberta-base). And where padding stands in the vocabularies that are learnt here.
OWN: dict[str, dict[str, Any]] = {
    "deberta": {
        "relative_attention": True, "pos_att_type": ("c2p", "p2c"), "position_biased_input": False, "type_vocab_size": 0,
    },
    "roberta_prelayernorm": {"pad_token_id": 0},
}  # fmt: skip


def config_of(family: str, head: str, size: str, vocab_size: int, length: int, dropout: float = 0.1) -> Config:
    """The configuration of a named size; an ALBERT's words are 128 wide whatever the size (Lan et al. 2020, table 1).

    Raises InputError for a name that is not in :data:`SIZES`.
    """
    if size not in SIZES:
        raise InputError(f"size: got {size!r}, expected one of {', '.join(SIZES)}")
    s = SIZES[size]
    narrow = {"embedding_size": s.embedding} if family == "electra" else {}
    before = 1 if family in COUNTED_POSITIONS else 0  # padding has a position of its own
    return Config(
        family=family, head=head, vocab_size=vocab_size, hidden_size=s.hidden, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, intermediate_size=s.intermediate,
        max_position_embeddings=max(512, 2 ** math.ceil(math.log2(length))) + before, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, **narrow, **OWN.get(family, {}),
    )  # fmt: skip
