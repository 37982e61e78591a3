"""A model: configuration, parameters and tokenizer of a Hugging Face folder, with plain functions on them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert import checkpoint, encoder, heads, sentence_folder
from bertcraft.bert.config import Config
from bertcraft.bert.sentence_modules import Pipeline
from bertcraft.errors import CheckpointError, InputError


class Output(NamedTuple):
    """What a model computes: float arrays."""

    last_hidden_state: Any  # (batch, length, hidden)
    pooler_output: Any  # (batch, hidden), or None where the model has no pooler
    # (batch, length, vocabulary), (batch, labels), (batch, length, labels), (batch, length, start and end of an answer),
    # (batch, length), or None without a head
    logits: Any
    hidden_states: tuple | None = None  # if asked for: (batch, length, hidden) before the first layer and after each
    attentions: tuple | None = None  # if asked for: (batch, heads, length, length) of each layer, rows sum to 1


@dataclass
class Model:
    """An encoder of the BERT, RoBERTa, ELECTRA, DistilBERT, ALBERT, MPNet or DeBERTa family with the head it was saved with.

    XLM-RoBERTa and CamemBERT are RoBERTas with another tokenizer, RoBERTa-PreLayerNorm is one with its norms elsewhere.

    ``params`` is a tree of arrays under the names of the checkpoint (``params["bert"]["encoder"]["layer"]["0"]...``);
    ``folder`` is where the model came from, or None; ``pipeline`` is how its sentence vectors are made, where a folder of
    sentence-transformers says so.
    """

    config: Config
    params: dict
    folder: Path | None = None
    _tokenizer: Any = None
    _own_tokenizer: bool = True  # whether the tokenizer is that of the folder
    pipeline: Pipeline | None = None

    def __call__(
        self, input_ids, attention_mask=None, token_type_ids=None, *, output_hidden_states=False, output_attentions=False
    ) -> Output:
        """Hidden states, pooled vector and logits.

        input_ids integers (batch, length); attention_mask (batch, length), 1 for tokens and 0 for padding (default: no
        padding); token_type_ids (batch, length), default all 0. ``output_hidden_states`` and ``output_attentions`` also
        give what stands inside: for pictures, or probes of a layer. Raises InputError for ids, lengths or shapes that the
        model does not have.
        """
        ids, mask, segments = check_inputs(self.config, input_ids, attention_mask, token_type_ids)
        sockets, states, attentions = encoder.BERT, [], []
        if output_hidden_states or output_attentions:
            sockets, states, attentions = encoder.watched()
        hidden = encoder.encode(self.params, self.config, ids, mask, segments, sockets=sockets)
        return Output(
            hidden,
            heads.pooled(self.params, self.config, hidden),
            heads.logits(self.params, self.config, hidden),
            (*states, hidden) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    @property
    def own_folder(self) -> Path | None:
        """The folder whose tokenizer this is; None where another was set."""
        return self.folder if self._own_tokenizer else None

    @property
    def tokenizer(self):
        """The folder's tokenizer (``tokenizers.Tokenizer``). Raises CheckpointError or DataError where there is none."""
        if self._tokenizer is None:
            from bertcraft.data.tokenizer import load_tokenizer

            if self.folder is None:
                raise CheckpointError("this model has no tokenizer: set model.tokenizer, or load a folder with one")
            self._tokenizer = load_tokenizer(self.folder)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer) -> None:
        self._tokenizer, self._own_tokenizer = tokenizer, False

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_tokens: int = 768,
        max_length: int | None = None,
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Sentence vectors, float32 (n, width); of one string its vector, (width,).

        A folder of sentence-transformers says itself how they are made: pooling, dense layers, scaling, the longest input
        and the prompt. Any other model gives the mean over a sentence's tokens, scaled to unit length.

        Sentences longer than ``max_length`` tokens are cut (default: what the folder says, or the model can take).
        ``normalize`` is what sentence-transformers calls normalize_embeddings: True scales to unit length whatever the
        folder says, False adds nothing to what it says. ``prompt`` is put before each sentence, or the one that the
        folder has under ``prompt_name``. At most ``batch_size`` sentences, and about ``batch_tokens`` tokens, are computed
        together. ``progress`` shows a bar (default: on a terminal or in a notebook, when the work is long).

        Raises InputError for texts that are not strings or, unless the folder is one of sentence-transformers, are empty.
        """
        from bertcraft.bert.sentences import encode_sentences

        return encode_sentences(
            self, sentences, batch_tokens, max_length, batch_size, normalize, prompt, prompt_name, progress
        )  # fmt: skip

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """The ``top`` most probable words with their probabilities, for each mask token in the text.

        Raises InputError when the text holds no mask token or the model has no masked-LM head.
        """
        from bertcraft.bert.sentences import fill_masks

        return fill_masks(self, text, top)

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer; ``transformers`` opens the folder.

        With a ``pipeline`` sentence-transformers opens it too, with the same vectors.
        Nothing is half written: a file that was there before stays as it was until its successor is complete.
        """
        from bertcraft.data.tokenizer import save_tokenizer

        files = {}
        if self.own_folder is not None:
            files = checkpoint.read_tokenizer_files(self.own_folder)
        more = {} if self.pipeline is None else sentence_folder.writers(self.pipeline, self.config)
        checkpoint.write(folder, self.config, self.params, files, more)
        if self.pipeline is None:  # that of a model saved there before would be taken for this one's
            Path(folder, sentence_folder.MODULES).unlink(missing_ok=True)
        written = {*files}
        if not self._own_tokenizer:
            side = "right" if self.pipeline is None else self.pipeline.truncation_side
            written = save_tokenizer(self._tokenizer, folder, side)
        if written:  # what another tokenizer left there would count as well
            for name in {*checkpoint.TOKENIZER_FILES} - written:
                Path(folder, name).unlink(missing_ok=True)


def load(folder_or_hub_id: str | Path) -> Model:
    """Open a Hugging Face folder: config.json, model.safetensors and, for texts, its tokenizer.

    The modules of a folder of sentence-transformers are read as well; those that cannot be computed are refused by name.
    A name that is no folder is taken for a hub id and goes through ``huggingface_hub``, if that is installed. Nothing is
    ever unpickled. Raises CheckpointError when the folder does not hold a complete model of a known family.
    """
    folder = checkpoint.resolve(folder_or_hub_id)
    encoder_folder = sentence_folder.encoder_folder(folder)
    # The first module is the base model: config.json may name a head that the weights have lost (all-mpnet-base-v2 does).
    config, params = checkpoint.read(encoder_folder, may_lack_head=sentence_folder.has_vectors(folder))
    return Model(config, params, encoder_folder, pipeline=sentence_folder.read(folder, config))


def check_inputs(config: Config, input_ids, attention_mask=None, token_type_ids=None):
    """The three inputs as integer arrays of one shape, checked against the model; masks may be None.

    Raises InputError that says which input is wrong, what was got and what the model accepts.
    """
    ids = _integers("input_ids", input_ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise InputError(f"input_ids: got shape {ids.shape}, expected (batch, length) with at least one token in a row")
    room = config.max_tokens
    if ids.shape[1] > room and config.position_biased_input is not False:  # distances alone know no longest text
        raise InputError(f"input_ids: got {ids.shape[1]} tokens in a row, this model takes at most {room}; cut the texts")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise InputError(
            f"input_ids: got the id {wrong}, but the vocabulary has ids 0 to {config.vocab_size - 1}; "
            "is this the tokenizer of this model?"
        )
    mask = _integers("attention_mask", attention_mask)
    if mask is not None:
        _same_shape("attention_mask", mask, ids)
        if not np.isin(mask, (0, 1)).all():
            raise InputError(f"attention_mask: got the value {mask[~np.isin(mask, (0, 1))][0]}, expected 0 or 1")
        if not mask.any(axis=1).all():
            raise InputError(f"attention_mask: row {int(np.argmin(mask.any(axis=1)))} is all padding: leave it out")
        mask = None if mask.all() else mask
    segments = _integers("token_type_ids", token_type_ids)
    if segments is not None:
        _same_shape("token_type_ids", segments, ids)
        types = config.type_vocab_size or 0
        if types == 0:
            segments = None
        elif segments.min() < 0 or segments.max() >= types:
            wrong = segments.min() if segments.min() < 0 else segments.max()
            raise InputError(f"token_type_ids: got the id {wrong}, this model has ids 0 to {types - 1}")
    return ids, mask, segments


def _integers(name: str, values) -> np.ndarray | None:
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name}: the rows differ in length; pad them to one length and pass attention_mask") from None
    if array.dtype == bool:
        array = array.astype(np.int64)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name}: got an array of {array.dtype}, expected integers (encode texts with model.tokenizer)")
    return array.astype(np.int64, copy=False)


def _same_shape(name: str, array: np.ndarray, ids: np.ndarray) -> None:
    if array.shape != ids.shape:
        raise InputError(f"{name}: got shape {array.shape}, expected that of input_ids, {ids.shape}")
