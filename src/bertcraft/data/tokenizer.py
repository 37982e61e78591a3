"""Tokenizers: train a WordPiece vocabulary, load and save one as Hugging Face folders hold it."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bertcraft.data import cache
from bertcraft.data.tokenizer_settings import CONFIG, configured, of_wordpiece, text_of
from bertcraft.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
OF_MPNET = ("<s>", "<pad>", "</s>", "<mask>")  # in a vocabulary that holds BERT's five as well
RAREST = 1e-6  # share of a character in all text below which it is not worth an entry (or two)
_ROLES = {  # the name of each special token in tokenizer_config.json, and what it may be called
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def train_wordpiece(texts: Iterable[str], vocab_size: int, name: str) -> "Tokenizer":
    """A lower-case BERT tokenizer whose WordPieces are learnt from ``texts``; cached under ``name``.

    The same texts give the same ids in every process. Ids 0 to 4 are [PAD], [UNK], [CLS], [SEP] and [MASK].
    The vocabulary is smaller than ``vocab_size`` when the texts hold too few words. Characters rarer than
    one in a million are left out (words with them become [UNK]), and characters take at most one entry in
    20.
    Raises DataError when there is no text, or when ``vocab_size`` leaves no room for words.
    """
    import tokenizers

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError(f"cannot train the tokenizer {name!r}: expected texts, got none that is not empty")
    if vocab_size < 200:
        raise DataError(f"vocab_size is {vocab_size}: expected at least 200, room for some words")
    digest = hashlib.sha256(f"1 {tokenizers.__version__} {vocab_size}".encode())
    for text in texts:
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    file = cache.folder("tokenizers") / f"{name}-{vocab_size}-{digest.hexdigest()[:12]}.json"
    if file.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(file))
        except Exception:  # damaged: it is made again
            file.unlink()
    tokenizer = _bert(_learn(texts, vocab_size))
    cache.write(file, tokenizer.to_str().encode())
    return tokenizer


def _learn(texts: list[str], vocab_size: int) -> dict[str, int]:
    """Token to id: special tokens, characters, characters inside words (``##a``), then merges as they were
    learnt.

    The library's trainer numbers the ``##`` characters in the order of a hash table that differs from
    process to process, and breaks ties between merges by those numbers. Naming all characters beforehand,
    in order, makes its result a function of the texts.
    """
    from tokenizers import Tokenizer, models, trainers

    blank = _bert({})
    count: Counter[str] = Counter()
    for text in texts:
        count.update(blank.normalizer.normalize_str(text))
    common = [c for c in count if not c.isspace() and count[c] >= RAREST * count.total()]
    alphabet = sorted(sorted(common, key=lambda c: (-count[c], c))[: vocab_size // 20])
    inside = [f"##{character}" for character in alphabet if _stands_inside_words(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *alphabet, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    learner.train_from_iterator(texts, trainer)
    return learner.get_vocab()


def _stands_inside_words(character: str) -> bool:
    """Whether BERT's splitting leaves a character in a word: not punctuation, not a Chinese character."""
    if unicodedata.category(character).startswith("P") or unicodedata.name(character, "").startswith("CJK"):
        return False
    return not character.isascii() or character.isalnum()


def _bert(vocabulary: dict[str, int], lowercase: bool = True) -> "Tokenizer":
    """A BERT tokenizer with a given vocabulary, or MPNet's where it has its special tokens; without truncation or padding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if vocabulary:
        of_mpnet = vocabulary.keys() >= {*OF_MPNET}
        first, last, special = ("<s>", "</s>", (*OF_MPNET, "[UNK]")) if of_mpnet else ("[CLS]", "[SEP]", SPECIAL)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} {last} $B {last}" if of_mpnet else f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(token, vocabulary[token]) for token in (first, last)],
        )
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def load_tokenizer(folder: str | Path) -> "Tokenizer":
    """The tokenizer of a model folder: its tokenizer.json, else built from vocab.txt (BERT, MPNet and their like).

    Truncation and padding that the file asks for are switched off: texts come back whole. What tokenizer_config.json says of
    case, accents and Chinese characters counts for a BERT's tokenizer, and what it says of a space before the first word for a
    RoBERTa's, also against tokenizer.json; where it is silent, or missing, transformers' defaults count: lower case, no space.
    Added tokens that only the files beside it name are added.
    Raises DataError when the folder has neither file, or a file that is not what its name says.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    file, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if file.exists():
        text = text_of(file)
        try:
            tokenizer = Tokenizer.from_str(text)
        except BaseException as error:
            # The library reports some damage by a panic, which is no Exception: its name is all there is to
            # go by.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise DataError(f"{file} is not a tokenizer that can be read: {str(error)[:200]}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return configured(tokenizer, folder)
    if vocabulary.exists():
        return configured(_bert(_vocabulary(vocabulary)), folder)
    raise DataError(
        f"{folder} holds no tokenizer: expected tokenizer.json or vocab.txt; "
        "with transformers, AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one"
    )


def mask_id(tokenizer: "Tokenizer") -> int | None:
    """The id of the mask token, or None where the tokenizer has none."""
    token = special_token(tokenizer, "mask_token")
    return None if token is None else tokenizer.token_to_id(token)


def special_token(tokenizer: "Tokenizer", role: str) -> str | None:
    """The token that has a role, such as "mask_token", or None where the tokenizer has none.

    Of two names the one that is marked as special counts: the words of MPNet are all those of BERT, [MASK] among them, but
    its own mask is <mask>.
    """
    marked = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    names = [name for name in _ROLES[role] if tokenizer.token_to_id(name) is not None]
    return next((name for name in names if name in marked), names[0] if names else None)


def frame_ids(tokenizer: "Tokenizer") -> tuple[int, int]:
    """The ids of the special tokens before and after a text, [CLS] and [SEP] in BERT.

    Raises DataError when the tokenizer puts others than these two around it.
    """
    around = tokenizer.encode("").ids
    if len(around) != 2:
        found = [tokenizer.id_to_token(number) for number in around]
        raise DataError(f"the tokenizer puts {found} around a text: expected one special token before and one after it")
    return around[0], around[1]


def word_ids(tokenizer: "Tokenizer") -> tuple[int, int]:
    """First id of a word and the one after the last: the longest run of ids without a special token.

    Below or behind it stand special tokens, in BERT's vocabulary also ids that no text has ([unused0] ...).
    """
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special |= {mask_id(tokenizer), *frame_ids(tokenizer)} - {None}
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    edges = [-1, *sorted(special), size]
    first, stop = max(zip(edges, edges[1:], strict=False), key=lambda edge: edge[1] - edge[0])
    return first + 1, stop


def _vocabulary(file: Path) -> dict[str, int]:
    """Token to id out of a vocab.txt: one token a line, its id is the number of the line."""
    tokens = text_of(file).removesuffix("\n").split("\n")
    tokens = [token.removesuffix("\r") for token in tokens]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing or len(vocabulary) < len(tokens):
        problem = f"{', '.join(missing)} missing" if missing else "a token stands there twice"
        raise DataError(f"{file} is no vocabulary of a BERT: {problem}; expected one token a line, each once")
    return vocabulary


def save_tokenizer(tokenizer: "Tokenizer", folder: str | Path, truncation_side: str = "right") -> set[str]:
    """Write tokenizer.json, tokenizer_config.json and (WordPiece only) vocab.txt; AutoTokenizer gives the same ids.

    Returns the names of these files. ``truncation_side``: where texts are cut, "right" or "left".
    Raises DataError when the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the folder {folder}: {error.strerror}") from None
    tokens = tokenizer.get_vocab()
    roles = {role: special_token(tokenizer, role) for role in _ROLES}
    settings: dict[str, object] = {role: token for role, token in roles.items() if token is not None}
    if truncation_side != "right":
        settings["truncation_side"] = truncation_side
    is_wordpiece = type(tokenizer.model).__name__ == "WordPiece"
    if is_wordpiece:
        settings |= of_wordpiece(tokenizer, roles["cls_token"])
        lines = "".join(f"{token}\n" for token in sorted(tokens, key=tokens.__getitem__))
        cache.write(folder / "vocab.txt", lines.encode())
    else:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    cache.write(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())
    cache.write(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    return {CONFIG, "tokenizer.json"} | ({"vocab.txt"} if is_wordpiece else set())
