"""Texts through a model: sentence vectors without padding, and words for masks.

Sentences of one pack are laid end to end. Everything but attention works on single tokens and does not notice; attention
(a socket of the encoder) goes through the sentences of equal length together. No time is spent on padding.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from bertcraft.bert import encoder, families, heads, sentence_folder
from bertcraft.bert.config_tables import COUNTED_POSITIONS
from bertcraft.bert.relative_positions import attention_bias
from bertcraft.bert.sentence_modules import Pipeline
from bertcraft.errors import InputError
from bertcraft.progress import counted
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import cpu_count, one_blas_thread, pool

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bertcraft.bert.model import Model

_HALF = re.compile("[\ud800-\udfff]")
CHUNK = 4096  # texts tokenized at a time: enough to be sorted well by length, few enough for the memory


def packs(lengths: np.ndarray, batch_tokens: int, threads: int = 1) -> list[np.ndarray]:
    """Sentence numbers, sorted by length and cut into packs of about ``batch_tokens`` tokens (or one sentence).

    There are as many packs for each thread and all are of one size, to a sentence: no thread works while another is done.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    total = int(ends[-1]) if len(ends) else 0
    count = -(-total // (batch_tokens * threads)) * threads
    cuts = np.searchsorted(ends, total * np.arange(1, count) / max(count, 1), side="right")
    return [part for part in np.split(order, cuts) if len(part)]


def _join(inner: dict) -> dict:
    """Queries, keys and values as one linear map: one large product is faster than three."""
    maps = [inner[name] for name in ("query", "key", "value")]
    return {part: np.concatenate([each[part] for each in maps]) for part in ("weight", "bias")}


def packed_attention(lengths: Sequence[int], join: Callable[[dict], dict] = _join, relative: np.ndarray | None = None):
    """An attention socket for sentences of these lengths laid end to end in one row (1, tokens, H).

    ``join`` gives a layer's joined projections, for instance from memory where many packs need the same. ``relative`` is the
    bias of relative positions, (1, heads, L, L) for the longest sentence or a longer one, where the model has them.
    """
    runs, start = [], 0
    for length, group in groupby(lengths):
        count = len(list(group))
        runs.append((slice(start, start + count * length), count, length))
        start += count * length

    def attention(layer: dict, x, source, bias, config, rng=None):
        projected = encoder.dense(join(layer["attention"]["self"]), x)[0]
        context = np.empty_like(x)
        for part, count, length in runs:
            q, k, v = np.split(projected[part].reshape(count, length, -1), 3, axis=-1)
            near = None if relative is None else relative[..., :length, :length]  # it depends on distances alone
            context[0, part] = F.attention(q, k, v, near, heads=config.num_attention_heads).reshape(count * length, -1)
        return encoder.dense(layer["attention"]["output"]["dense"], context)

    return attention


def _encode_pack(
    model: "Model",
    pipeline: Pipeline,
    token_ids: list[list[int]],
    skip: int,
    join: Callable[[dict], dict],
    relative: np.ndarray | None,
) -> np.ndarray:
    """The pipeline's vectors (n, width) of some sentences."""
    config, lengths, first = model.config, [len(ids) for ids in token_ids], model.config.first_position
    if config.family == "deberta":  # distances, and a convolution over neighbours, end where the sentence ends
        groups = [np.array(list(group)) for _, group in groupby(token_ids, len)]
        each = [encoder.encode(model.params, config, ids).reshape(-1, config.hidden_size) for ids in groups]
        return pipeline(np.concatenate(each), np.array(lengths), skip)
    ids = np.concatenate(token_ids)[None]
    positions = np.concatenate([np.arange(first, first + n) for n in lengths])[None]
    if config.family in COUNTED_POSITIONS and np.any(ids == config.pad_token_id):  # a text that names <pad>: it is not counted
        positions = np.concatenate([encoder.counted_positions(np.array([each]), config)[0] for each in token_ids])[None]
    sockets = encoder.of_family(encoder.Sockets(attention=packed_attention(lengths, join, relative)), config)
    x = encoder.embed(model.params, config, ids, position_ids=positions)
    for layer in families.layers(model.params, config):
        x = sockets.wiring(layer, x, x, None, config, sockets)
    return pipeline(encoder.finished(model.params, config, x)[0], np.array(lengths), skip)


def tokenize(model: "Model", texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Token ids of each text with the model's special tokens, cut to what the model can take, on the side its folder says.

    Raises InputError for anything that is not a list of texts with something in them.
    """
    if isinstance(texts, str):
        raise InputError("got one text, expected a list of texts: put it in brackets")
    texts = _listed(texts)
    _check(texts)
    side = "right" if model.own_folder is None else sentence_folder.reading(model.own_folder, model.config)[1]
    return _token_ids(model, _cutting(model, max_length, side), texts)


def _listed(texts: Iterable[str]) -> list[str]:
    """The texts in their order, which sets have not; the keys of a dict are hardly meant."""
    if isinstance(texts, bytes | dict | set | frozenset) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0:
        raise InputError(f"got {type(texts).__name__}, expected a text or a list of texts")
    return list(texts)


def _check_number(name: str, value: int | None, least: int, why: str = "") -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is not None and not (whole and value >= least):
        got = value if whole else f"{value!r:.40}, no whole number"
        raise InputError(f"{name}: got {got}, expected at least {least}{why}")


def _check(texts: Sequence[str], empty: bool = False) -> None:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text number {i + 1}: got {type(text).__name__}, expected a string")
        if not empty and not text.strip():
            raise InputError(f"text number {i + 1} is empty: leave it out")
        if not text.isascii() and _HALF.search(text):
            raise InputError(f"text number {i + 1} holds half a character (a surrogate): decode it with errors='replace'")


def _copy(tokenizer: "Tokenizer") -> "Tokenizer":
    """The same tokenizer, neither cutting nor padding; its settings are its own, its words are shared.

    Writing all of it down and reading it again, the library's own way to a copy, takes a tenth of a second.
    """
    copy = type(tokenizer)(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(copy, part, getattr(tokenizer, part))
    copy.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return copy


def _cutting(model: "Model", max_length: int | None, side: str = "right", lower_case: bool = False) -> "Tokenizer":
    """The model's tokenizer with the special tokens and the longest input; a copy: these settings are not the caller's."""
    _check_number("max_length", max_length, 3, " (a token between two special tokens)")
    room, tokenizer = model.config.max_tokens, _copy(model.tokenizer)
    if model.config.position_biased_input is False:  # distances alone know no longest text
        room = max_length or sentence_folder.LONGEST
    tokenizer.enable_truncation(int(min(room, max_length or room)), direction=side)
    if lower_case:
        from tokenizers import normalizers

        steps = [normalizers.Lowercase()] + ([tokenizer.normalizer] if tokenizer.normalizer is not None else [])
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _token_ids(model: "Model", tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    token_ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    highest = max((max(ids) for ids in token_ids if ids), default=0)
    if highest >= model.config.vocab_size:
        raise InputError(
            f"the tokenizer gave the id {highest}, but the model's vocabulary has ids 0 to {model.config.vocab_size - 1}: "
            "tokenizer.json does not belong to this model"
        )
    return token_ids


def _prompt_tokens(tokenizer: "Tokenizer", prompt: str) -> int:
    """How many tokens of a sentence are the prompt's, counted as sentence-transformers does: without a special one at the end."""
    ids = tokenizer.encode(prompt).ids
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return len(ids) - bool(ids and ids[-1] in special)


def _reading(
    model: "Model", pipeline: Pipeline, max_length: int | None, prompt: str | None, prompt_name: str | None
) -> tuple["Tokenizer", str, int]:
    """How a pipeline has texts read: the tokenizer that cuts them, the prompt, and how many of its tokens no pooling counts."""
    before = pipeline.prompt(prompt, prompt_name)
    if _HALF.search(before):
        raise InputError("the prompt holds half a character (a surrogate): decode it with errors='replace'")
    longest = pipeline.max_length if max_length is None else max_length
    tokenizer = _cutting(model, longest, pipeline.truncation_side, pipeline.lower_case)
    skip = _prompt_tokens(tokenizer, before) if before and not pipeline.pooling.include_prompt else 0
    return tokenizer, before, skip


def as_read(model: "Model", texts: Sequence[str], max_length: int) -> tuple[list[list[int]], int]:
    """The token ids of each text as ``model.pipeline`` has it read, with the default prompt, and how many of the prompt's tokens
    no pooling counts.

    Raises InputError as :func:`tokenize` does.
    """
    _check(texts)
    tokenizer, before, skip = _reading(model, model.pipeline, max_length, None, None)
    return _token_ids(model, tokenizer, [before + text for text in texts]), skip


def encode_sentences(
    model: "Model", sentences: str | Iterable[str], batch_tokens: int, max_length: int | None, batch_size: int | None,
    normalize: bool | None, prompt: str | None, prompt_name: str | None, progress: bool | None,
) -> np.ndarray:  # fmt: skip
    """See :meth:`bertcraft.bert.model.Model.encode`."""
    for name, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
        _check_number(name, value, 1)
    texts = [sentences] if isinstance(sentences, str) else _listed(sentences)
    pipeline = model.pipeline or sentence_folder.plain(model.own_folder, model.config)
    _check(texts, empty=model.pipeline is not None)
    tokenizer, before, skip = _reading(model, pipeline, max_length, prompt, prompt_name)
    unit = normalize or (normalize is None and model.pipeline is None)
    vectors = np.empty((len(texts), pipeline.width(model.config.hidden_size)), np.float32)
    threads = cpu_count()
    joined = {}
    if model.config.family != "deberta":
        inners = [layer["attention"]["self"] for layer in families.layers(model.params, model.config)]
        joined = {id(inner["query"]["weight"]): _join(inner) for inner in inners}  # ALBERT's layers share theirs

    def work(numbers, first, token_ids, relative):
        ids = [token_ids[i] for i in numbers]
        found = _encode_pack(model, pipeline, ids, skip, lambda inner: joined[id(inner["query"]["weight"])], relative)
        vectors[first + numbers] = F.normalize(found) if unit else found
        return len(numbers)

    with one_blas_thread(), counted("encoding", len(texts), progress) as advance:
        for first in range(0, len(texts), CHUNK):
            token_ids = _token_ids(model, tokenizer, [before + text for text in texts[first : first + CHUNK]])
            lengths = np.array([len(ids) for ids in token_ids], int)
            if skip >= lengths.min():
                short = first + int(lengths.argmin())
                why = "the prompt leaves no token of it; shorten it or raise max_length" if skip else "it has no token"
                raise InputError(f"text number {short + 1}: {why}")
            groups = packs(lengths, batch_tokens, threads)
            if batch_size is not None:
                groups = [part[i : i + batch_size] for part in groups for i in range(0, len(part), batch_size)]
            relative = attention_bias(model.params, model.config, int(lengths.max()))
            for count in pool(threads).map(partial(work, first=first, token_ids=token_ids, relative=relative), groups):
                advance(count)
    return vectors[0] if isinstance(sentences, str) else vectors


def mask_token(model: "Model") -> str:
    """The tokenizer's own mask token. Raises InputError where it has none."""
    from bertcraft.data.tokenizer import special_token

    token = special_token(model.tokenizer, "mask_token")
    if token is None:
        raise InputError("the model's tokenizer has no mask token ([MASK] or <mask>)")
    return token


def fill_masks(model: "Model", text: str, top: int) -> list[list[tuple[str, float]]]:
    """See :meth:`bertcraft.bert.model.Model.fill`."""
    if model.config.head not in ("masked_lm", "pretraining"):
        raise InputError(f"this model has no masked-LM head (its head is {model.config.head!r}): it cannot fill masks")
    if not isinstance(text, str):
        raise InputError(f"expected one text with a mask, got {type(text).__name__}: call fill for each text")
    _check_number("top", top, 1)
    token = mask_token(model)
    text = text.replace("[MASK]", token).replace("<mask>", token)
    if token not in text:
        raise InputError(f"the text has no mask: write {token} where a word is missing")
    ids = np.array(tokenize(model, [text]))
    mask = model.tokenizer.token_to_id(token)
    places, masks = np.flatnonzero(ids[0] == mask), _copy(model.tokenizer).encode(text).ids.count(mask)
    if len(places) < masks:
        beyond = "the mask lies" if masks == 1 else f"{masks - len(places)} of {masks} masks lie"
        raise InputError(f"{beyond} beyond what the model can take: shorten the text")
    hidden = encoder.encode(model.params, model.config, ids, at=places[None])
    probabilities = F.softmax(heads.masked_lm_logits(model.params, model.config, hidden)[0])
    top = min(top, model.config.vocab_size)
    return [
        [(model.tokenizer.decode([i]).strip() or model.tokenizer.id_to_token(i) or f"[{i}]", float(p[i])) for i in best.tolist()]
        for p, best in zip(probabilities, np.argsort(-probabilities, axis=1, kind="stable")[:, :top], strict=True)
    ]
