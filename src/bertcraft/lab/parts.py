"""A corpus of short requests in parts: every seed learns from, and is judged on, texts that no other seed has.

So the seeds of an experiment are independent of each other, texts and all, and a paired t interval needs no widening.
"""

from functools import lru_cache

import numpy as np

from bertcraft.lab import pretraining
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain.held_out import log_frequency

CORPUS = "utterances"
PARTS = 12  # of the corpus: seeds 0 to 9 have one each, the seeds of tuning (from 1000 on) the two others
TRAINED, DEVELOPED, TESTED = 3840, 256, 300  # texts of a part; the test texts suffice for seeds 0 to 9, a trial takes none
MASKS = 3  # under which every development or test text is judged


def part_of(seed: int) -> int:
    """Which part of the corpus a seed has."""
    return seed % 10 if seed < 1000 else 10 + seed % 2


@lru_cache(maxsize=2)
def texts_of(setting: Setting, seed: int) -> Texts:
    """The texts of a seed's part, as rows; more of them than a part has go on into the next."""
    from bertcraft.data.batches import frame, pad, tokenize

    tokenizer, texts = pretraining.documents(setting.corpus, setting.vocab_size)
    pad_id, cls_id, sep_id = (tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
    rows = {}
    for name, size, most in (
        ("train", TRAINED, setting.texts), ("dev", DEVELOPED, DEVELOPED), ("held_out", TESTED, setting.held_out),
    ):  # fmt: skip
        numbers = (part_of(seed) * size + np.arange(most)) % len(texts[name])
        framed = frame(tokenize(tokenizer, [texts[name][i] for i in numbers]), cls_id, sep_id, setting.length)
        rows[name] = pad(framed, pad_id, setting.length)[0]
    return Texts(tokenizer, **rows, log_frequency=log_frequency(rows["train"], tokenizer.get_vocab_size()))


def beside(found: dict) -> dict[str, float]:
    """Of what a held-out text's judge found, the losses that are stored beside that at [MASK]: where the word was kept, where it
    is another, and at all chosen positions. The first of them shows copying."""
    return {name: found[name] for name in ("loss_kept", "loss_random", "loss_all")}
