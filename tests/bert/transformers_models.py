"""Small random transformers models of odd sizes, and the same weights as bertcraft parameters."""

import numpy as np
import torch
import transformers

from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.tensor import tree

FAMILIES = ("bert", "roberta", "electra", "distilbert", "albert", "mpnet")
TASKS = ("sequence_classification", "token_classification", "question_answering")
HEADS = {
    "bert": ("base", "masked_lm", *TASKS, "pretraining"),
    "roberta": ("base", "masked_lm", *TASKS),
    "electra": ("base", "masked_lm", *TASKS, "replaced_token_detection"),
    "distilbert": ("base", "masked_lm", *TASKS),
    "albert": ("base", "masked_lm", *TASKS, "pretraining"),
    "mpnet": ("base", "masked_lm", *TASKS),
}
OTHER_NAMES = {"xlm-roberta": "roberta", "camembert": "roberta"}  # a family under another name
HEADS |= {name: HEADS[family] for name, family in OTHER_NAMES.items()}
PAIRS = [(family, head) for family in FAMILIES for head in HEADS[family]]
ALL_PAIRS = PAIRS + [(name, head) for name in OTHER_NAMES for head in HEADS[name]]
_CLASS = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra", "distilbert": "DistilBert", "albert": "Albert"}
_CLASS |= {"mpnet": "MPNet", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}


def class_name(family: str, head: str) -> str:
    pretraining = head in ("replaced_token_detection", "pretraining")
    suffix = {"base": "Model", "masked_lm": "ForMaskedLM"} | {task: "For" + task.title().replace("_", "") for task in TASKS}
    return _CLASS[family] + ("ForPreTraining" if pretraining else suffix[head])


def make(family: str, head: str, seed: int, dtype=torch.float64, **changes):
    """A transformers model in evaluation mode with weights of unit scale, in no way at their initial values."""
    rng, known = np.random.default_rng(seed), OTHER_NAMES.get(family, family)
    heads = int(rng.integers(1, 4))
    hidden, layers = heads * int(rng.integers(2, 6)) * 2, int(rng.integers(1, 4))
    vocabulary, pad, labels = (int(rng.integers(*bounds)) for bounds in ((30, 60), (0, 3), (2, 5)))
    common = {
        "vocab_size": vocabulary, "max_position_embeddings": 23, "pad_token_id": pad,
        "num_labels": 2 if head == "question_answering" else labels, "initializer_range": 0.3, "attn_implementation": "eager",
    }  # fmt: skip
    if family == "distilbert":
        sizes = {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": int(rng.integers(5, 31))}
    else:
        sizes = {
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": int(rng.integers(5, 31)), "type_vocab_size": 1 if known == "roberta" else 2,
        }  # fmt: skip
    if family == "mpnet":
        del sizes["type_vocab_size"]
        common["pad_token_id"] = 1  # transformers computes with it, whatever the configuration says
    if family in ("electra", "albert"):
        sizes["embedding_size"] = int(rng.choice([hidden, 7, 9]))
    if family == "albert":
        sizes |= {"num_hidden_layers": layers * 2, "num_hidden_groups": 2, "inner_group_num": int(rng.integers(1, 3))}
    config = getattr(transformers, _CLASS[family] + "Config")(**{**common, **sizes, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, class_name(family, head))(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def ours(model, family: str, head: str) -> tuple[Config, dict]:
    """The same model as a bertcraft configuration and tree of parameters."""
    config = Config.from_dict({**model.config.to_dict(), "architectures": [class_name(family, head)]})
    state = named(model, dict(model.named_parameters(remove_duplicate=False)), family, head)
    return config, tree.nest({name: state[name].detach().numpy().copy() for name in parameter_shapes(config)})


def named(model, arrays: dict, family: str, head: str) -> dict:
    """Entries under bertcraft's names: base models get their family's prefix."""
    family = OTHER_NAMES.get(family, family)
    return {f"{family}.{name}" if head == "base" else name: array for name, array in arrays.items()}


def inputs(model, seed: int, batch: int = 3, length: int = 11, padded: bool = True) -> dict[str, np.ndarray]:
    """Token ids, a padding mask (no row all padding) and, where the family has them, token types."""
    rng = np.random.default_rng(seed)
    pad = model.config.pad_token_id
    ids = rng.integers(3, model.config.vocab_size, (batch, length))
    result = {"input_ids": ids}
    if padded:
        mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
        ids[mask == 0] = pad
        result["attention_mask"] = mask
    if getattr(model.config, "type_vocab_size", 0) == 2:
        result["token_type_ids"] = rng.integers(0, 2, (batch, length))
    return result
