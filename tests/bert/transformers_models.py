"""Small random transformers models of odd sizes, and the same weights as bertcraft parameters."""

import itertools

import numpy as np
import torch
import transformers
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2

import bertcraft as bc
from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import DEFAULTS
from bertcraft.bert.layout import parameter_shapes
from bertcraft.tensor import tree

FAMILIES = ("bert", "roberta", "electra", "distilbert", "albert", "mpnet", "deberta")
TASKS = ("sequence_classification", "token_classification", "question_answering")
HEADS = {
    "bert": ("base", "masked_lm", *TASKS, "pretraining"),
    "roberta": ("base", "masked_lm", *TASKS),
    "electra": ("base", "masked_lm", *TASKS, "replaced_token_detection"),
    "distilbert": ("base", "masked_lm", *TASKS),
    "albert": ("base", "masked_lm", *TASKS, "pretraining"),
    "mpnet": ("base", "masked_lm", *TASKS),
    "deberta": ("base", "masked_lm", *TASKS),
}
OTHER_NAMES = {  # families under another name
    "xlm-roberta": "roberta", "camembert": "roberta", "deberta-v2": "deberta", "roberta-prelayernorm": "roberta_prelayernorm",
}  # fmt: skip
HEADS |= {name: HEADS.get(family, HEADS["roberta"]) for name, family in OTHER_NAMES.items()}
PAIRS = [(family, head) for family in FAMILIES for head in HEADS[family]]
ALL_PAIRS = PAIRS + [(name, head) for name in OTHER_NAMES for head in HEADS[name]]
_CLASS = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra", "distilbert": "DistilBert", "albert": "Albert"}
_CLASS |= {"mpnet": "MPNet", "deberta": "Deberta", "deberta-v2": "DebertaV2"}
_CLASS |= {"xlm-roberta": "XLMRoberta", "camembert": "Camembert", "roberta-prelayernorm": "RobertaPreLayerNorm"}


def _layer_norm(self, x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.variance_epsilon)


def _square_root(layer, factor):
    return torch.sqrt(torch.tensor(layer.size(-1) * factor, dtype=layer.dtype))


# Both round to float32 in the middle of a model of doubles: not here, to see 1e-8.
modeling_deberta.DebertaLayerNorm.forward = _layer_norm
modeling_deberta.scaled_size_sqrt = modeling_deberta_v2.scaled_size_sqrt = _square_root


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
            "intermediate_size": int(rng.integers(5, 31)), "type_vocab_size": 1 if known.startswith("roberta") else 2,
        }  # fmt: skip
    if family == "mpnet":
        del sizes["type_vocab_size"]
        common["pad_token_id"] = 1  # transformers computes with it, whatever the configuration says
    if family in ("electra", "albert"):
        sizes["embedding_size"] = int(rng.choice([hidden, 7, 9]))
    if family == "albert":
        sizes |= {"num_hidden_layers": layers * 2, "num_hidden_groups": 2, "inner_group_num": int(rng.integers(1, 3))}
    if known == "deberta":
        sizes |= deberta_settings(family, seed)
        sizes["num_hidden_layers"] = max(layers, 2 if sizes.get("conv_kernel_size") else 1)
        common["problem_type"] = "single_label_classification"  # left open, their loss is rounded to float32
    config = getattr(transformers, _CLASS[family] + "Config")(**{**common, **sizes, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, class_name(family, head))(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


KINDS = (["c2p", "p2c"], ["c2p"], ["p2c"], ["p2c", "c2p"], None)
# Each of v2's settings with each other; the table of v2 and v3 (buckets, shared maps, a norm) first.
V2 = list(itertools.product((True, False), ("layer_norm", "none"), (6, -1), (3, 0, 5)))


def deberta_settings(family: str, seed: int) -> dict:
    """Relative attention of all kinds, one model in six without; its reach shorter than the texts, and longer."""
    rng = np.random.default_rng(seed)
    settings = {
        "relative_attention": seed % 6 != 3, "pos_att_type": KINDS[seed % 5], "position_biased_input": bool(seed % 3 == 1),
        "max_relative_positions": [-1, 9, 7][seed % 3], "type_vocab_size": [0, 2][seed % 2], "legacy": seed % 4 != 3,
        "pooler_hidden_act": ["gelu", "tanh"][seed % 2],
    }  # fmt: skip
    if family == "deberta-v2":
        shared, norm, buckets, taps = V2[seed % len(V2)]
        own = {"share_att_key": shared, "norm_rel_ebd": norm, "position_buckets": buckets, "conv_kernel_size": taps}
        own |= {"conv_groups": [1, 2][int(rng.integers(2))], "conv_act": ["tanh", "gelu"][seed % 2]}
        usual = DEFAULTS["deberta"]  # is not in their files
        settings |= {name: value for name, value in own.items() if value != usual[name]}
    return settings


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


def equal_masked_lm(folder, texts: list[str]):
    """Hold hidden states and logits of texts to those of transformers' masked LM in a folder; our model, and its tokenizer."""
    network = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = bc.load(folder)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(**batch, output_hidden_states=True)
    out = model(batch["input_ids"].numpy(), batch["attention_mask"].numpy())
    real = batch["attention_mask"].numpy() == 1
    np.testing.assert_allclose(out.last_hidden_state[real], expected.hidden_states[-1].numpy()[real], atol=1e-5)
    np.testing.assert_allclose(out.logits[real], expected.logits.numpy()[real], atol=2e-5)
    return model, tokenizer
