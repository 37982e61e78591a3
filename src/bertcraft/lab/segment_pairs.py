"""Small encoders that read pairs of sentences: told their order, told whether they belong together, or told nothing.

Sentences of encyclopedia articles. All ways read the same text in the same order with the same words masked; what differs is
what the second classifier is asked (see :data:`ASKED`). Afterwards all are fine-tuned alike on either question.

Shapes: N pairs, L length.
"""

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from bertcraft.bert import Config, encoder, heads
from bertcraft.data.batches import batch_indices, tokenize
from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Context
from bertcraft.lab.pretraining import Setting
from bertcraft.pretrain.held_out import HeldOut, Words, log_frequency, mask
from bertcraft.pretrain.objectives import FIRST_WORD
from bertcraft.techniques import albert_parameter_sharing as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear

ASKED = {"order": technique.order_pairs, "next": masking.sentence_pairs}  # the question: how its pairs are made
SHORTEST = 4  # tokens of a sentence; shorter ones are names and remains
ASIDE = 1000  # articles of the training part for development, and as many for the test: what is held out is too little
TOGETHER = 250  # pairs that are judged together
SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z\"'])")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Articles as sentences of token ids, in parts: train, dev, held_out."""

    tokenizer: Any
    articles: dict[str, list[list[np.ndarray]]]
    words: Words

    def special(self, *tokens: str) -> list[int]:
        """The ids of special tokens."""
        return [self.tokenizer.token_to_id(token) for token in tokens]


@lru_cache(maxsize=1)
def corpus_of(name: str, vocab_size: int) -> Corpus:
    """Articles of a corpus; the word pieces were learnt from its training part, of which some is set aside here."""
    tokenizer, parts = pretraining.documents(name, vocab_size)
    train = parts.pop("train")
    texts = {"train": train[2 * ASIDE :], **{part: parts[part] + train[i * ASIDE :][:ASIDE] for i, part in enumerate(parts)}}
    articles = {part: [_sentences(tokenizer, text) for text in found] for part, found in texts.items()}
    every = np.concatenate([sentence for article in articles["train"] for sentence in article])
    return Corpus(tokenizer, articles, Words(pretraining.vocabulary(tokenizer), log_frequency(every, tokenizer.get_vocab_size())))


def _sentences(tokenizer, text: str) -> list[np.ndarray]:
    """The sentences of an article, those of a line together."""
    sentences = [sentence for line in text.split("\n") for sentence in SENTENCE.split(line)]
    return [ids for ids in tokenize(tokenizer, sentences) if len(ids) >= SHORTEST]


@dataclass(frozen=True)
class Task:
    """What an arm trains on what: ``asked``, a key of :data:`ASKED`, or None."""

    setting: Setting
    corpus: Corpus
    config: Config
    asked: str | None
    start: dict


def task_of(setting: Setting, asked: str | None, seed: int) -> Task:
    """An ALBERT whose layers share everything, with both heads, that knows the word frequencies."""
    corpus = corpus_of(setting.corpus, setting.vocab_size)
    config = pretraining.config_of(
        setting, corpus.tokenizer.get_vocab_size(), family="albert", head="pretraining", embedding_size=setting.hidden,
        num_hidden_groups=setting.layers,
    )  # fmt: skip
    start = technique.initial_params(config, seed)
    start["predictions"]["bias"][:] = corpus.words.log_frequency
    return Task(setting, corpus, config, asked, start)


@lru_cache(maxsize=6)
def pairs_of(corpus: Corpus, part: str, kind: str, length: int, seed: int, reading: int) -> masking.SentencePairs:
    """All pairs of a part, drawn for one reading of them."""
    special = corpus.special("[CLS]", "[SEP]", "[PAD]")
    return ASKED[kind](corpus.articles[part], length, *special, np.random.default_rng((seed, 21, reading)))


def drawn(task: Task, kind: str, seed: int, step: int) -> tuple[dict, np.ndarray, int]:
    """The pairs of a step, their numbers, and how often these were read before; drawn anew each time the articles are read.

    The numbers of a step are the same whatever is asked, and a number's first sentence is, but for those that are exchanged.
    """
    count = sum(max(len(article) - 1, 0) for article in task.corpus.articles["train"])
    rows, reading = batch_indices(count, task.setting.batch, seed, step), step * task.setting.batch // count
    pairs = pairs_of(task.corpus, "train", kind, task.setting.length, seed, reading)
    batch = {
        "input_ids": pairs.input_ids[rows], "attention_mask": (pairs.input_ids[rows] != 0).astype(np.int32),
        "token_type_ids": pairs.token_type_ids[rows], "next_sentence": pairs.labels[rows],
    }  # fmt: skip
    return batch, rows, reading


def masked(task: Task, kind: str, seed: int, step: int) -> dict:
    """The pairs of a step with words to guess."""
    batch, rows, reading = drawn(task, kind, seed, step)
    readings, words = np.full(len(rows), reading), task.corpus.words.vocabulary
    return batch | mask(batch["input_ids"], rows, readings, seed, task.setting.mask_rate, words)


def held_out(task: Task, part: str) -> HeldOut:
    """Pairs with words to guess, half of them exchanged, of articles that are not read."""
    found = HeldOut(pairs_of(task.corpus, part, "order", task.setting.length, 0, 0).input_ids, task.corpus.words)
    ids = found.batch["input_ids"]
    ends = ids == task.corpus.special("[SEP]")[0]
    found.batch["token_type_ids"] = ((np.cumsum(ends, axis=1) - ends) * (ids != 0)).astype(np.int32)
    return found


def train(task: Task, seed: int, context: Context, signature: dict, steps: int | None = None):
    """Pretrain an arm, wholly or for its first steps; a ``FitResult``. One that is asked nothing reads the pairs of "order"."""

    def loss(params, batch, rng):
        if task.asked is None:
            return masking.masked_lm_loss(technique.complete(params, task.config), batch, rng, task.config)
        return technique.albert_loss(params, batch, rng, task.config)

    return pretraining.train(
        task.setting, task.start, loss, partial(masked, task, task.asked or "order", seed), seed=seed, context=context,
        signature=signature, steps=steps,
    )  # fmt: skip


def logits(task: Task, params: dict, batch: dict, rng=None):
    """Of the question: (N, 2). ``params``: they may lack what is shared."""
    whole, first = technique.complete(params, task.config), np.zeros((len(batch["input_ids"]), 1), np.int64)
    hidden = encoder.encode(
        whole, task.config, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], rng=rng, at=first
    )
    return heads.next_sentence_logits(whole, task.config, hidden)


def judged(task: Task, params: dict, kind: str, part: str) -> tuple[float, float]:
    """Of the pairs of a part: the share in % that is told right, and the cross-entropy in nats."""
    pairs = pairs_of(task.corpus, part, kind, task.setting.length, 0, 0)
    found = []
    for start in range(0, len(pairs.labels), TOGETHER):
        ids, types, _ = (array[start : start + TOGETHER] for array in pairs)
        found.append(logits(task, params, {"input_ids": ids, "attention_mask": ids != 0, "token_type_ids": types}))
    all_logits = np.concatenate(found)
    return 100 * float(np.mean(all_logits.argmax(axis=1) == pairs.labels)), float(F.cross_entropy(all_logits, pairs.labels))


def finetuned(task: Task, params: dict, kind: str, seed: int, *, steps: int, rate: float, part: str) -> float:
    """The share in % that is told right after some steps of learning that question alone, all parameters trained."""

    def loss(params, batch, rng):
        return F.cross_entropy(logits(task, params, batch, rng), batch["next_sentence"])

    step = sharded_value_and_grad(
        loss, shard_size=task.setting.batch, weight=lambda batch: len(batch["next_sentence"]), threads=1, seed=seed
    )
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(rate, steps // 10, steps), weight_decay=0.01))
    make_batch = lambda i: drawn(task, kind, seed + 5000, i)[0]  # noqa: E731  drawn and ordered anew
    return judged(task, fit(step, params, rule, make_batch, steps, seed=seed).params, kind, part)[0]


def told_by_words(corpus: Corpus, kind: str, length: int, seed: int, part: str) -> float:
    """The share in % that naive Bayes tells right, which knows the words of each sentence and not where they stand.

    It counts the pairs of training articles as they are drawn for one reading, and is judged as the encoders are.
    """
    from sklearn.naive_bayes import MultinomialNB

    counts = MultinomialNB()
    read = pairs_of(corpus, "train", kind, length, seed, 0)
    counts.fit(_counted(read, len(corpus.words.log_frequency)), read.labels)
    unread = pairs_of(corpus, part, kind, length, 0, 0)
    return 100 * float(counts.score(_counted(unread, len(corpus.words.log_frequency)), unread.labels))


def _counted(pairs: masking.SentencePairs, vocab_size: int):
    """How often each word stands in the first sentence, and how often in the second: sparse (N, 2 * vocabulary)."""
    from scipy.sparse import csr_array

    rows, places = np.nonzero(pairs.input_ids >= FIRST_WORD)
    columns = pairs.input_ids[rows, places] + vocab_size * pairs.token_type_ids[rows, places]
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(pairs.labels), 2 * vocab_size))
