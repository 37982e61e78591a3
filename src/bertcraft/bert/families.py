"""Eight families, one encoder: where each checkpoint family keeps the parts of a layer.

BERT, RoBERTa and ELECTRA name their parameters alike, and so does RoBERTa-PreLayerNorm but for its norms, which stand in its
tree where they stand in its computation. DistilBERT, ALBERT and MPNet compute the same layer under other names,
DeBERTa another kind of attention besides; here they are shown to the encoder under BERT's names. The views hold the same arrays
(or Tensors), so gradients arrive under the names of the checkpoint. Only two things are computed for them: DeBERTa's first
version keeps queries, keys and values in one matrix, and its later ones may normalise the table of relative positions.
"""

import numpy as np

from bertcraft.bert.config import Config
from bertcraft.tensor import functions as F


def backbone(params: dict, config: Config) -> dict:
    """The parameters of the encoder without its heads."""
    return params[config.family]


def layers(params: dict, config: Config) -> list[dict]:
    """One tree a layer, in BERT's names: attention.self.query ... output.LayerNorm.

    ALBERT's layers share parameters (Lan et al. 2019, section 3.1): the same tree then stands in the list many times.
    """
    body = backbone(params, config)
    count = config.num_hidden_layers
    if config.family == "distilbert":
        return [_distilbert_layer(body["transformer"]["layer"][str(i)]) for i in range(count)]
    if config.family == "albert":
        groups = body["encoder"]["albert_layer_groups"]
        layers_a_group = count / config.num_hidden_groups  # a float, and so rounded as in transformers
        chosen = [groups[str(int(i / layers_a_group))]["albert_layers"] for i in range(count)]
        return [_albert_layer(group[str(j)]) for group in chosen for j in range(config.inner_group_num)]
    if config.family == "deberta":
        table = _relative_table(body["encoder"], config)
        views = [_deberta_layer(body["encoder"]["layer"][str(i)], table, config) for i in range(count)]
        if config.conv_kernel_size:
            views[0] = views[0] | {"convolution": body["encoder"]["conv"]}
        return views
    found = [body["encoder"]["layer"][str(i)] for i in range(count)]
    return [_mpnet_layer(layer) for layer in found] if config.family == "mpnet" else found


def own_parameters(params: dict, config: Config) -> list[dict]:
    """One tree a layer of the parameters themselves: what :func:`layers` shows, or for DeBERTa, what it is computed from."""
    if config.family == "deberta":
        return [backbone(params, config)["encoder"]["layer"][str(i)] for i in range(config.num_hidden_layers)]
    return layers(params, config)


def _distilbert_layer(layer: dict) -> dict:
    attention = layer["attention"]
    return {
        "attention": {
            "self": {"query": attention["q_lin"], "key": attention["k_lin"], "value": attention["v_lin"]},
            "output": {"dense": attention["out_lin"], "LayerNorm": layer["sa_layer_norm"]},
        },
        "intermediate": {"dense": layer["ffn"]["lin1"]},
        "output": {"dense": layer["ffn"]["lin2"], "LayerNorm": layer["output_layer_norm"]},
    }


def _albert_layer(layer: dict) -> dict:
    attention = layer["attention"]
    return {
        "attention": {
            "self": {name: attention[name] for name in ("query", "key", "value")},
            "output": {"dense": attention["dense"], "LayerNorm": attention["LayerNorm"]},
        },
        "intermediate": {"dense": layer["ffn"]},
        "output": {"dense": layer["ffn_output"], "LayerNorm": layer["full_layer_layer_norm"]},
    }


def _mpnet_layer(layer: dict) -> dict:
    attention = layer["attention"]
    own = attention["attn"]
    return {
        "attention": {
            "self": {"query": own["q"], "key": own["k"], "value": own["v"]},
            "output": {"dense": own["o"], "LayerNorm": attention["LayerNorm"]},
        },
        "intermediate": layer["intermediate"],
        "output": layer["output"],
    }


def _relative_table(encoder: dict, config: Config):
    """The vectors of the relative positions (2k, H), which all layers share; None without relative attention."""
    if not config.relative_attention:
        return None
    table = encoder["rel_embeddings"]["weight"]
    if config.norm_rel_ebd == "none":
        return table
    return F.layer_norm(table, encoder["LayerNorm"]["weight"], encoder["LayerNorm"]["bias"], eps=config.layer_norm_eps)


def _deberta_layer(layer: dict, table, config: Config) -> dict:
    """BERT's names, but for attention: the maps of "content" and of "position", and the table that the latter project.

    An attention that looks for BERT's own finds none: it would leave the positions out.
    """
    own = layer["attention"]["self"]
    if config.model_type == "deberta":
        inner, maps = _taken_apart(own, config), {"key": own.get("pos_proj"), "query": own.get("pos_q_proj")}
    else:
        inner = {name: own[f"{name}_proj"] for name in ("query", "key", "value")}
        maps = {name: inner[name] if config.share_att_key else own.get(f"pos_{name}_proj") for name in ("key", "query")}
    attention = {"self": {"content": inner, "position": maps | {"table": table}}, "output": layer["attention"]["output"]}
    return layer | {"attention": attention}


def _taken_apart(own: dict, config: Config) -> dict:
    """Query, key and value out of the one matrix of DeBERTa's first version, where the three follow each other head by head.

    Its keys have no bias.
    """
    size = config.head_size
    apart = np.reshape(own["in_proj"]["weight"], (config.num_attention_heads, 3, size, config.hidden_size))
    weights = [np.reshape(apart[:, part], (config.hidden_size, config.hidden_size)) for part in range(3)]
    biases = [own["q_bias"], None, own["v_bias"]]
    parts = zip(("query", "key", "value"), weights, biases, strict=True)
    return {name: {"weight": weight, "bias": bias} for name, weight, bias in parts}


def projection(params: dict, config: Config) -> dict | None:
    """The linear map from the embedding size to the hidden size, where the two differ (ELECTRA) or always (ALBERT)."""
    body = backbone(params, config)
    if config.family == "albert":
        return body["encoder"]["embedding_hidden_mapping_in"]
    return body.get("embeddings_project")


def relative_table(params: dict, config: Config):
    """A number a head for each bucket of distances, (buckets, heads): MPNet's. None in the other families."""
    return backbone(params, config)["encoder"]["relative_attention_bias"]["weight"] if config.family == "mpnet" else None
