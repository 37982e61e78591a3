"""The settings of a model one by one: which values are valid, and what is said of those that are not."""

import reprlib
from numbers import Integral, Real
from typing import Any

from bertcraft.bert.config_tables import ACTIVATIONS, COUNTED_POSITIONS, DEFAULTS, FIXED, KEYS, OWN_TYPES
from bertcraft.errors import InputError

_PROBABILITIES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "qa_dropout",
    "summary_last_dropout",
    "pooler_dropout",
)
_SWITCHES = (
    "tie_word_embeddings",
    "sinusoidal_pos_embds",
    "summary_use_proj",
    "relative_attention",
    "position_biased_input",
    "legacy",
    "share_att_key",
)
_STRINGS = ("summary_type", "summary_activation")  # for heads that bertcraft does not have; kept as they are
_CHOICES: dict[str, tuple] = {
    "hidden_act": ACTIVATIONS,
    "pooler_hidden_act": ACTIVATIONS,
    "conv_act": ACTIVATIONS,
    "norm_rel_ebd": ("none", "layer_norm"),
    "position_embedding_type": ("absolute",),
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification"),
}
_KINDS = ((), ("c2p",), ("p2c",), ("c2p", "p2c"), ("p2c", "c2p"))  # of relative attention
_LOWEST = {"max_relative_positions": -1, "position_buckets": -1, "conv_kernel_size": 0}


def setting(name: str, family: str) -> str:
    """What a field is called in a message: DistilBERT's hidden_size is "dim (hidden_size)"."""
    key = KEYS.get(family, {}).get(name, name)
    return name if key == name else f"{key} ({name})"


def wrong(name: str, value: Any, expected: str) -> InputError:
    """The error of a setting that is not valid: what it is, what was got, what was expected."""
    return InputError(f"{name}: got {reprlib.repr(value)}, expected {expected}")


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked(name: str, value: Any, family: str) -> Any:
    """A field's value as a plain bool, int, float, str or tuple; raises InputError if it is not valid by itself."""
    if value is None and (DEFAULTS[OWN_TYPES.get(family, family)].get(name, 0) is None or name == "summary_activation"):
        return None
    if name in FIXED.get(family, {}):
        number = FIXED[family][name]
        valid, plain = is_integer(value) and value == number, int
        expected = f"{number}: {family} computes with it, whatever config.json says"
    elif name == "pad_token_id":
        if value is None and family not in COUNTED_POSITIONS:
            return None
        valid, expected, plain = is_integer(value) and value >= 0, "a token id, 0 or more", int
    elif name in _CHOICES:
        choices = _CHOICES[name]
        valid, expected, plain = value in choices, "one of " + ", ".join(map(repr, choices)), str
    elif name == "pos_att_type":  # in old files "c2p|p2c"
        if isinstance(value, str):
            value = [part.strip() for part in value.lower().split("|")]
        valid, plain = isinstance(value, (list, tuple)) and tuple(value) in _KINDS, tuple
        expected = "'c2p' (content to position), 'p2c' (position to content), both or none of them"
    elif name in _SWITCHES:
        valid, expected, plain = isinstance(value, bool), "true or false", bool
    elif name in _STRINGS:
        valid, expected, plain = isinstance(value, str), "a string", str
    elif name in (*_PROBABILITIES, "initializer_range", "layer_norm_eps"):
        number, plain = isinstance(value, Real) and not isinstance(value, bool), float
        if name in _PROBABILITIES:
            valid, expected = number and 0 <= value < 1, "a probability: at least 0, less than 1"
        else:
            valid, expected = number and 0 < value <= 1, "a number above 0, at most 1"
    else:
        lowest = _LOWEST.get(name, 0 if (name, family) == ("type_vocab_size", "deberta") else 1)
        valid, plain = is_integer(value) and lowest <= value < 2**31, int
        expected = f"an integer from {lowest} to 2147483647"
    if not valid:
        raise wrong(setting(name, family), value, expected)
    return plain(value)
