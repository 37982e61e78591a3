"""Six families, one encoder: where each checkpoint family keeps the parts of a layer.

BERT, RoBERTa and ELECTRA name their parameters alike. DistilBERT, ALBERT and MPNet compute the same layer under other
names; here they are shown to the encoder under BERT's names. Nothing is copied: the views hold the same arrays (or Tensors),
so gradients arrive under the names of the checkpoint.
"""

from bertcraft.bert.config import Config


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
    found = [body["encoder"]["layer"][str(i)] for i in range(count)]
    return [_mpnet_layer(layer) for layer in found] if config.family == "mpnet" else found


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


def projection(params: dict, config: Config) -> dict | None:
    """The linear map from the embedding size to the hidden size, where the two differ (ELECTRA) or always (ALBERT)."""
    body = backbone(params, config)
    if config.family == "albert":
        return body["encoder"]["embedding_hidden_mapping_in"]
    return body.get("embeddings_project")


def relative_table(params: dict, config: Config):
    """A number a head for each bucket of distances, (buckets, heads): MPNet's. None in the other families."""
    return backbone(params, config)["encoder"]["relative_attention_bias"]["weight"] if config.family == "mpnet" else None
