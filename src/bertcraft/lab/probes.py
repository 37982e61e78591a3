"""What a frozen encoder knows: linear probes that respond to pretraining and that word counts do not solve.

Three questions, each answered by logistic regression on the last hidden states of an encoder that is not changed any more:

- bigram shift: have these two neighbouring words changed places? (Conneau et al. 2018, arXiv:1805.01070, asked of the two words
  instead of the sentence: a small encoder's vector of a whole sentence hardly keeps their order.)
- replaced word: has this word been put here in place of another one that is about as frequent? The question that ELECTRA
  trains on, with easier replacements.
- intents: what is the request for, 64 classes, ten labels each? (HWU64)

The sentences of the first two come from parts of the corpus that no training reads, the probe's own training from ``dev``, its
test from ``held_out``; how strongly a probe is regularised is chosen on a quarter of ``dev`` (intents: the development texts).
"""

import numpy as np

from bertcraft.bert import Config, encoder
from bertcraft.lab.pretraining import FIRST_WORD, Setting, Texts, documents, tokenize_some

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of scikit-learn: the inverse of the penalty's weight
LABELS = 10  # of each intent
TITLES = {"bigram_shift": "bigram shift", "replaced_word": "replaced word", "intents": "intents"}


class Probes:
    """``probes(params, config)``: accuracy in % of each probe on an encoder; equal parameters give equal figures."""

    def __init__(self, setting: Setting, texts: Texts, sentences: int = 2000):
        """``sentences``: how many the probes of order learn from, and as many to test them, each in its three versions."""
        self.setting, self.tokenizer = setting, texts.tokenizer
        _, parts = documents(setting.corpus, setting.vocab_size)
        whole = whole_words(texts.tokenizer)
        self.sentences = {}
        for number, part in enumerate(("dev", "held_out")):
            lines = [line for document in parts[part] for line in document.split("\n")]
            rng = np.random.default_rng((1, number))
            self.sentences[part] = altered(self._rows(lines, sentences * 20), whole, texts.log_frequency, sentences, rng)
        self.intents = self._intents()

    def __call__(self, params: dict, config: Config) -> dict[str, float]:
        """The accuracies, in %: "bigram_shift", "replaced_word" (both 50 by chance) and "intents"."""
        train, test = (
            {version: _at(params, config, rows, s["at"]) for version, rows in s["rows"].items()}
            for s in (self.sentences["dev"], self.sentences["held_out"])
        )
        texts = {part: (_mean(params, config, rows), labels) for part, (rows, labels) in self.intents.items()}
        return {
            "bigram_shift": _two_versions(train, test, "swapped", slice(0, 2)),
            "replaced_word": _two_versions(train, test, "replaced", slice(0, 1)),
            "intents": linear_probe(*texts["train"], *texts["dev"], *texts["test"]),
        }

    def _rows(self, lines: list[str], enough: int | None = None) -> np.ndarray:
        from bertcraft.data.batches import frame, pad

        tokens = tokenize_some(self.tokenizer, lines, enough)
        special = (self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        return pad(frame(tokens, *special, self.setting.length), 0, self.setting.length)[0]

    def _intents(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        from bertcraft.data import task

        hwu = task("hwu64")
        order = np.random.default_rng(2).permutation(len(hwu.train))
        few = np.concatenate([order[hwu.train.labels[order] == label][:LABELS] for label in range(len(hwu.labels))])
        return {
            "train": (self._rows([hwu.train.texts[i] for i in few]), hwu.train.labels[few]),
            "dev": (self._rows(hwu.dev.texts), hwu.dev.labels),
            "test": (self._rows(hwu.test.texts), hwu.test.labels),
        }


# ----------------------------------------------------------------------------------------------------- altered sentences


def whole_words(tokenizer) -> np.ndarray:
    """Which tokens of a WordPiece vocabulary are words or beginnings of words in letters: bool (vocabulary,)."""
    tokens = (tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size()))
    return np.array([i >= FIRST_WORD and token.isalpha() for i, token in enumerate(tokens)])


def altered(rows: np.ndarray, whole: np.ndarray, log_frequency: np.ndarray, most: int, rng: np.random.Generator) -> dict:
    """Sentences in three versions: "rows" {"plain", "swapped", "replaced"}, each (n, L), and "at" (n, 2).

    At each row's two places stand neighbouring words of one token each, chosen at random: the two that "swapped" exchanges and
    the first of which "replaced" replaces. Rows without such a pair are left out, and those beyond the first ``most``.
    The new word is that of another row and about as frequent. So every word is put in as often as it is taken out, and no word
    by itself tells whether it was replaced.
    """
    ids = np.pad(rows, ((0, 0), (0, 2)))
    word = whole[ids]
    inside = (ids >= FIRST_WORD) & ~word  # what may be the rest of a word: "##ing"
    alone = word[:, :-1] & ~inside[:, 1:]
    pairs = alone[:, :-1] & alone[:, 1:] & (ids[:, :-2] != ids[:, 1:-1])
    usable = np.flatnonzero(pairs.any(axis=1))[:most]
    rows, pairs = rows[usable], pairs[usable]
    first = np.argmax(np.where(pairs, rng.random(pairs.shape), -1.0), axis=1)
    n, at = np.arange(len(rows)), np.stack([first, first + 1], axis=1)
    swapped, replaced = rows.copy(), rows.copy()
    swapped[n[:, None], at] = rows[n[:, None], at[:, ::-1]]
    old = rows[n, first]
    order = np.lexsort((rng.random(len(rows)), old, log_frequency[old]))
    next_word = np.roll(order, np.bincount(old).max())  # as far as the commonest word stands in a row: never the same word
    replaced[order, first[order]] = old[next_word]
    return {"rows": {"plain": rows, "swapped": swapped, "replaced": replaced}, "at": at}


# -------------------------------------------------------------------------------------------- features and logistic regression


def _at(params, config, rows, at) -> np.ndarray:
    """Hidden states of some places: (n, M, H)."""
    return _encoded(params, config, rows, lambda part, mask, at: encoder.encode(params, config, part, mask, at=at), at)


def _mean(params, config, rows) -> np.ndarray:
    """The mean hidden state of each text (n, H). The first token alone is trained by next-sentence prediction only."""

    def mean(part, mask):
        hidden = encoder.encode(params, config, part, mask)
        return (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)

    return _encoded(params, config, rows, mean)


def _encoded(params, config, rows, function, *more) -> np.ndarray:
    """``function`` of all rows, by their length so that little padding is computed, in float64."""
    lengths = (rows != 0).sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    parts = []
    for start in range(0, len(rows), 125):
        some = order[start : start + 125]
        part = rows[some, : lengths[some[0]]]
        parts.append(function(part, (part != 0).astype(np.int32), *(each[some] for each in more)))
    result = np.concatenate(parts)
    back = np.empty(result.shape)
    back[order] = result
    return back


def _two_versions(train: dict, test: dict, version: str, places: slice) -> float:
    """Accuracy at telling a version of the sentences from the plain one by the hidden states at some of the two places."""
    quarter = len(train["plain"]) // 4
    sides = []
    for source, part in ((train, slice(quarter, None)), (train, slice(quarter)), (test, slice(None))):
        plain, other = (source[name][part, places].reshape(len(source[name][part]), -1) for name in ("plain", version))
        sides += [np.concatenate([plain, other]), np.repeat([0, 1], [len(plain), len(other)])]
    return linear_probe(*sides)


def linear_probe(train, train_labels, dev, dev_labels, test, test_labels) -> float:
    """Accuracy in % on ``test`` of the logistic regression on ``train`` whose strength is the best on ``dev``."""
    from sklearn.linear_model import LogisticRegression

    centre, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, dev, test = ((x - centre) / scale for x in (train, dev, test))
    best, chosen = -1.0, None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=500, tol=1e-3).fit(train, train_labels)
        if (score := model.score(dev, dev_labels)) > best:
            best, chosen = score, model
    return 100 * float(chosen.score(test, test_labels))
