"""What a model is (family, head, sizes), read from and written to the ``config.json`` of Hugging Face.

One set of names, BERT's, serves eight families; DistilBERT's own (``dim``, ``n_heads``, ...) are translated on
the way in and out. Everything is validated here, so that the code behind it can rely on every field.
"""

import reprlib
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from bertcraft.bert.config_checks import checked, is_integer, setting, wrong
from bertcraft.bert.config_tables import (
    ALIASES,
    ARCHITECTURES,
    COUNTED_POSITIONS,
    DEFAULTS,
    FAMILIES,
    FIELDS,
    HEAD_TENSORS,
    KEYS,
    MODEL_TYPES,
    OWN_TYPES,
    POOLED,
    SIZES,
    TASK_HEADS,
    UNSUPPORTED,
    UNSUPPORTED_IN,
    UNWRITTEN,
    V2_ONLY,
)
from bertcraft.errors import CheckpointError, InputError

MAX_PARAMETERS = 2**34  # 64 GiB in float32: many times the largest published encoder of these families
MAX_LAYERS = 1000
MAX_LABELS = 100_000  # their names must fit into a config.json

# Keys of a config.json that are not fields of Config but are read (or dropped) all the same.
_HANDLED = ("architectures", "model_type", "id2label", "label2id", "num_labels", "dtype", "torch_dtype")
_DEFAULT: Any = type("FamilyDefault", (), {"__repr__": lambda self: "<the family's default>"})()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Family, head and sizes of an encoder: immutable, valid; `dataclasses.replace` makes a changed copy.

    A field left out takes the family's default in transformers. A field that the family does not have is None
    (only ALBERT has `num_hidden_groups`; DistilBERT and MPNet have no `type_vocab_size`), but for two that every family
    computes with: `embedding_size` is `hidden_size` where the family does not factorise, `layer_norm_eps` is
    1e-12 in DistilBERT.

    `model_type` is what config.json calls the family: left out, its own name; XLM-RoBERTa and CamemBERT are RoBERTas with
    another tokenizer and the `model_type` xlm-roberta or camembert. The family deberta is DeBERTa's first version, or with the
    `model_type` deberta-v2 its second and third; `relative_attention` is False unless it is asked for, as in transformers.

    `classifier_dropout` None means `hidden_dropout_prob`; `id2label` None means LABEL_0, LABEL_1, ...;
    `label2id` None means its inverse. `add_pooling_layer` False is a base model saved without its pooler.
    `extra` keeps the unknown keys of a config.json, so that saving loses nothing.

    Raises InputError when a field has the wrong type, is out of range or contradicts another.
    """

    family: str
    model_type: str = ""
    head: str = "base"
    vocab_size: int = _DEFAULT
    hidden_size: int = _DEFAULT
    embedding_size: int = _DEFAULT
    num_hidden_layers: int = _DEFAULT
    num_attention_heads: int = _DEFAULT
    intermediate_size: int = _DEFAULT
    max_position_embeddings: int = _DEFAULT
    type_vocab_size: int | None = _DEFAULT
    num_hidden_groups: int | None = _DEFAULT
    inner_group_num: int | None = _DEFAULT
    relative_attention_num_buckets: int | None = _DEFAULT
    hidden_act: str = _DEFAULT
    hidden_dropout_prob: float = _DEFAULT
    attention_probs_dropout_prob: float = _DEFAULT
    classifier_dropout: float | None = _DEFAULT
    qa_dropout: float | None = _DEFAULT
    summary_type: str | None = _DEFAULT
    summary_use_proj: bool | None = _DEFAULT
    summary_activation: str | None = _DEFAULT
    summary_last_dropout: float | None = _DEFAULT
    layer_norm_eps: float = _DEFAULT
    initializer_range: float = _DEFAULT
    position_embedding_type: str = _DEFAULT
    sinusoidal_pos_embds: bool | None = _DEFAULT
    relative_attention: bool | None = _DEFAULT
    pos_att_type: tuple[str, ...] | None = _DEFAULT
    max_relative_positions: int | None = _DEFAULT
    position_buckets: int | None = _DEFAULT
    share_att_key: bool | None = _DEFAULT
    norm_rel_ebd: str | None = _DEFAULT
    position_biased_input: bool | None = _DEFAULT
    conv_kernel_size: int | None = _DEFAULT
    conv_groups: int | None = _DEFAULT
    conv_act: str | None = _DEFAULT
    pooler_dropout: float | None = _DEFAULT
    pooler_hidden_act: str | None = _DEFAULT
    legacy: bool | None = _DEFAULT
    pad_token_id: int | None = _DEFAULT
    tie_word_embeddings: bool = _DEFAULT
    problem_type: str | None = _DEFAULT
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    add_pooling_layer: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise wrong("family", self.family, f"one of {', '.join(FAMILIES)}")
        if self.head not in [*ARCHITECTURES[self.family]]:
            raise wrong("head", self.head, f"one of {', '.join(ARCHITECTURES[self.family])} ({self.family})")
        names = [name for name, (family, *_) in MODEL_TYPES.items() if family == self.family]
        if self.model_type not in ["", *names]:
            raise wrong("model_type", self.model_type, f"one of {', '.join(names)}")
        self._set("model_type", self.model_type or OWN_TYPES.get(self.family, self.family))
        own, defaults = FIELDS[self.family], dict(DEFAULTS[self.model_type])
        if "embedding_size" not in own:
            hidden = self.hidden_size
            defaults["embedding_size"] = defaults["hidden_size"] if hidden is _DEFAULT else hidden
        for each in fields(self):
            value, default = getattr(self, each.name), defaults.get(each.name)
            if value is _DEFAULT:
                self._set(each.name, default)
            elif each.default is _DEFAULT and each.name not in own and value != default:
                raise wrong(each.name, value, f"{default!r}: {self.family} does not have this setting")
        for name in ("num_labels", *own):
            self._set(name, checked(name, getattr(self, name), self.family))
        self._check_agreement()
        if self.family == "deberta":
            self._check_deberta()
        self._check_size()
        self._check_labels()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the way past `frozen`, used by __post_init__ alone

    def _check_agreement(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            expected = f"a divisor of {setting('hidden_size', self.family)}, which is {self.hidden_size}"
            raise wrong(setting("num_attention_heads", self.family), self.num_attention_heads, expected)
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise wrong("pad_token_id", self.pad_token_id, f"less than vocab_size ({self.vocab_size})")
        if self.first_position >= self.max_position_embeddings:
            expected = f"at least {self.first_position + 1}: the positions of {self.family} start at pad_token_id + 1"
            raise wrong("max_position_embeddings", self.max_position_embeddings, expected)
        if self.num_labels == 1 and self.problem_type == "single_label_classification":
            raise wrong("num_labels", 1, "at least 2 for the problem_type 'single_label_classification'")
        if self.head == "question_answering" and self.num_labels != 2:
            raise wrong("num_labels", self.num_labels, "2 for answers: where they start and where they end")
        if self.add_pooling_layer not in ((True, False) if self.head == "base" else (True,)):
            raise wrong("add_pooling_layer", self.add_pooling_layer, "True (or False, with the head 'base')")
        if not isinstance(self.extra, dict) or not all(isinstance(key, str) for key in self.extra):
            raise wrong("extra", self.extra, "a dict of config.json keys that Config has no field for")
        own = {*_keys(self.family).values(), *ALIASES.get(self.family, ()), *_HANDLED}
        if own := sorted(self.extra.keys() & own):
            raise wrong("extra", own, "only keys that Config has no field for")

    def _check_deberta(self) -> None:
        for name in V2_ONLY if self.model_type == "deberta" else ():
            if getattr(self, name) != DEFAULTS["deberta"][name]:
                raise wrong(name, getattr(self, name), f"{DEFAULTS['deberta'][name]!r}: only deberta-v2 has this setting")
        taps, buckets, longest = self.conv_kernel_size, self.position_buckets, self.relative_reach
        if taps and (taps % 2 == 0 or self.num_hidden_layers == 1):
            raise wrong("conv_kernel_size", taps, "0, or an odd number and more than one layer")
        if self.hidden_size % self.conv_groups:
            raise wrong("conv_groups", self.conv_groups, f"a divisor of hidden_size, which is {self.hidden_size}")
        if buckets > 0 and not 1 <= buckets // 2 < longest - 1:
            raise wrong("position_buckets", buckets, f"-1 for none, or 2 to {2 * longest - 3}: fewer than the distances")
        implied = {"embedding_size": self.hidden_size, "pooler_hidden_size": self.hidden_size}
        for name, size in (implied | {"attention_head_size": self.head_size}).items():
            if isinstance(self.extra, dict) and self.extra.get(name, size) != size:
                raise wrong(name, self.extra[name], f"{size}, which follows from hidden_size and num_attention_heads")

    def _check_size(self) -> None:
        blocks = self.num_hidden_layers
        if self.family == "albert":
            blocks = self.num_hidden_groups * self.inner_group_num
        if (most := max(blocks, self.num_hidden_layers)) > MAX_LAYERS:
            raise wrong(setting("num_hidden_layers", self.family), most, f"at most {MAX_LAYERS} layers")
        hidden, labels = self.hidden_size, self.num_labels if self.head in TASK_HEADS else 0
        rows = self.vocab_size + self.max_position_embeddings + (self.type_vocab_size or 0)
        parameters = rows * self.embedding_size + labels * hidden
        parameters += blocks * hidden * (4 * hidden + 2 * self.intermediate_size)
        if self.family == "deberta":
            parameters += hidden * (self.relative_rows + hidden * (2 * blocks + self.conv_kernel_size // self.conv_groups))
        if parameters > MAX_PARAMETERS:
            sizes = ", ".join(f"{setting(name, self.family)} {getattr(self, name)}" for name in SIZES)
            needed, limit = f"{parameters // 2**28:,} GiB in float32", f"{MAX_PARAMETERS // 2**28} GiB"
            raise InputError(f"the sizes ({sizes}) make a model of {needed}; expected at most {limit}")

    def _check_labels(self) -> None:
        count, names, ids = self.num_labels, self.id2label, self.label2id
        if count > MAX_LABELS:
            raise wrong("num_labels", count, f"at most {MAX_LABELS}")
        if names is not None:
            if not isinstance(names, dict) or names.keys() != set(range(count)):
                raise wrong("id2label", names, f"one label for each id from 0 to {count - 1}")
            if not all(isinstance(label, str) for label in names.values()):
                raise wrong("id2label", names, "labels that are strings")
        if ids is not None:
            if not isinstance(ids, dict) or not all(isinstance(label, str) for label in ids):
                raise wrong("label2id", ids, "an object from labels to ids")
            if not all(is_integer(index) and 0 <= index < count for index in ids.values()):
                raise wrong("label2id", ids, f"ids from 0 to {count - 1}")
        # What follows from the rest is stored as None: a copy with another num_labels then needs no clearing.
        self._set("label2id", None if ids == _inverse(self.labels) else ids)
        if self.labels == tuple(f"LABEL_{index}" for index in range(count)):
            self._set("id2label", None)

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def first_position(self) -> int:
        """The position of a text's first token: RoBERTa and MPNet count from pad_token_id + 1."""
        return self.pad_token_id + 1 if self.family in COUNTED_POSITIONS else 0

    @property
    def relative_reach(self) -> int:
        """DeBERTa's k: the distance from which on all count as equally far."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings

    @property
    def relative_rows(self) -> int:
        """The vectors in DeBERTa's table of relative positions, two for each distance or bucket of distances."""
        return 2 * (self.position_buckets if self.position_buckets > 0 else self.relative_reach)

    @property
    def qkv_size(self) -> int:
        """The rows of the one matrix of queries, keys and values in DeBERTa's first version."""
        return 3 * self.hidden_size

    @property
    def conv_width(self) -> int:
        """The inputs of one output of DeBERTa's convolution."""
        return self.hidden_size // self.conv_groups

    @property
    def max_tokens(self) -> int:
        """The longest input."""
        return self.max_position_embeddings - self.first_position

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each of the `num_labels` outputs of a classifier."""
        names = self.id2label or {}
        return tuple(names.get(index, f"LABEL_{index}") for index in range(self.num_labels))

    @property
    def architecture(self) -> str:
        """The class of transformers that this configuration describes, such as ``BertForMaskedLM``."""
        return _architectures(self.model_type)[self.head]

    def key(self, name: str) -> str:
        """What the family's config.json calls a field: DistilBERT's `hidden_size` is ``dim``."""
        if name == "embedding_size" and name not in FIELDS[self.family]:
            name = "hidden_size"
        return KEYS.get(self.family, {}).get(name, name)

    @classmethod
    def from_dict(cls, config_json: Any, tensor_names: Collection[str] | None = None, *, may_lack_head: bool = False) -> "Config":
        """Read the content of a config.json, given the names of the checkpoint's tensors if they are known.

        `architectures` decides the head and is checked against the names; if it is missing, the names decide. A head that
        is not among the names is refused, or taken for none where they `may_lack_head`.
        Raises CheckpointError with one message: the key, what it holds, what was expected.
        """
        if not isinstance(config_json, dict):
            raise CheckpointError(f"config.json: got {reprlib.repr(config_json)}, expected a JSON object")
        left = dict(config_json)
        try:
            return cls(**_arguments(left, tensor_names, may_lack_head), extra=left)
        except InputError as error:
            raise CheckpointError(f"config.json: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that transformers opens (`AutoConfig`, `AutoModel`): JSON values."""
        content = {"architectures": [self.architecture], "model_type": self.model_type, **self.extra}
        usual = {name: DEFAULTS[self.model_type][name] for name in UNWRITTEN.get(self.family, ())}
        for name, key in _keys(self.family).items():
            if name not in usual or getattr(self, name) != usual[name]:
                content[key] = getattr(self, name)
        if self.num_labels != 2 or self.id2label is not None or self.label2id is not None:
            content["id2label"] = {str(index): label for index, label in enumerate(self.labels)}
            content["label2id"] = _inverse(self.labels) if self.label2id is None else dict(self.label2id)
        return content


def _arguments(left: dict[str, Any], tensor_names: Collection[str] | None, may_lack_head: bool) -> dict[str, Any]:
    """Take Config's arguments out of the content of a config.json; what stays in `left` has no field."""
    model_type = left.pop("model_type", None)
    if model_type not in [*MODEL_TYPES]:
        raise wrong("model_type", model_type, f"one of {', '.join(MODEL_TYPES)}: use a model of these families")
    family, *_ = MODEL_TYPES[model_type]
    for key, reason in (UNSUPPORTED | UNSUPPORTED_IN.get(family, {})).items():
        if left.get(key):
            raise wrong(key, left[key], f"none: {reason}")
    head = _head(family, model_type, left.pop("architectures", None), tensor_names, may_lack_head)
    arguments = {"family": family, "model_type": model_type, "head": head}
    for name, key in _keys(family).items():
        names = (key, name) if name in ALIASES.get(family, ()) else (key,)
        given = [left.pop(each) for each in names if each in left]
        if len(given) == 2 and (given[0] != given[1] or type(given[0]) is not type(given[1])):  # True == 1
            raise wrong(f"{key} and {name}", given, "one value, as they are two names of one setting")
        if given:
            arguments[name] = given[0]
    labels, count = left.pop("id2label", None), left.pop("num_labels", None)
    if isinstance(labels, dict):  # the keys of JSON are strings
        indices = {str(index): index for index in range(len(labels))}
        labels = {indices.get(key, key): str(label) if is_integer(label) else label for key, label in labels.items()}
        arguments["num_labels"] = len(labels)
    if count is not None and arguments.setdefault("num_labels", count) != count:
        raise wrong("num_labels", count, f"{len(labels)}, the number of labels in id2label")
    arguments |= {"id2label": labels, "label2id": _ids(left.pop("label2id", None), labels)}
    heads = [mark for mark in ("lm_predictions.", "cls.predictions.") if any(n.startswith(mark) for n in tensor_names or ())]
    if family == "deberta" and heads == ["lm_predictions."]:
        arguments.setdefault("legacy", False)  # the authors' own files have no such key
    for key in ("dtype", "torch_dtype"):  # how the weights were stored: they say it themselves
        left.pop(key, None)
    if tensor_names is not None and head == "base" and family in POOLED:
        arguments["add_pooling_layer"] = any(name.startswith(("pooler.", f"{family}.pooler.")) for name in tensor_names)
    return arguments


def _architectures(model_type: str) -> dict[str, str]:
    """The classes of transformers by head."""
    family, start, instead = MODEL_TYPES[model_type]
    return {head: instead + name.removeprefix(start) for head, name in ARCHITECTURES[family].items()}


def _ids(ids: Any, labels: Any) -> Any:
    """label2id with numbers for digits. Nothing is computed with it: where id2label says otherwise, that counts alone."""
    if not isinstance(ids, dict):
        return ids
    ids = {label: int(index) if isinstance(index, str) and index.isdecimal() else index for label, index in ids.items()}
    fits = all(is_integer(index) and 0 <= index < len(labels) for index in ids.values()) if isinstance(labels, dict) else True
    return ids if fits else None


def _head(family: str, model_type: str, architectures: Any, tensor_names: Collection[str] | None, may_lack_head: bool) -> str:
    marks = HEAD_TENSORS[family]
    names = tensor_names or ()
    found = [head for head, mark in marks.items() if any(name.startswith(mark) for name in names)]
    if architectures is None or architectures == []:
        texts, tokens = (marks.get(f"{kind}_classification") for kind in ("sequence", "token"))
        if texts == tokens and found[:1] == ["sequence_classification"]:  # only the first reads a pooler, which either may have
            if any(name.startswith(("pooler.", f"{family}.pooler.")) for name in names):
                own = " or ".join(_architectures(model_type)[f"{kind}_classification"] for kind in ("sequence", "token"))
                raise wrong("architectures", architectures, f"{own}: the weights may be either's; write which it is into it")
            return "token_classification"
        return found[0] if found else "base"
    heads = {architecture: head for head, architecture in _architectures(model_type).items()}
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in [*heads]:
        raise wrong("architectures", architectures, f"one of {', '.join(heads)}: save the model as such")
    head = heads[architectures[0]]
    if tensor_names is not None and head in marks and head not in found:
        if may_lack_head and not found:
            return "base"
        mark = marks[head] if isinstance(marks[head], str) else "*' or '".join(marks[head])
        expected = f"a head that the weights have: they hold no tensor '{mark}*'"
        raise wrong("architectures", architectures, expected)
    return head


def _keys(family: str) -> dict[str, str]:
    """The fields of a family's config.json: Config's name -> the family's name."""
    return {name: KEYS.get(family, {}).get(name, name) for name in FIELDS[family]}


def _inverse(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: index for index, label in enumerate(labels)}
