"""What stands on the encoder: masked language model, classifiers of texts and tokens, answers, replaced tokens, pooler.

Each head maps hidden states to logits with the parameters of its family; the losses are those that transformers computes.
"""

import numpy as np

from bertcraft.bert import encoder, families
from bertcraft.bert.config import Config
from bertcraft.tensor import functions as F


def pooled(params: dict, config: Config, hidden):
    """BERT's and ALBERT's summary of a sentence, tanh of a linear map of the first token: (B, L, H) -> (B, H).

    None where the model has no pooler.
    """
    pooler = families.backbone(params, config).get("pooler")
    if pooler is None:
        return None
    return np.tanh(encoder.dense(pooler.get("dense", pooler), hidden[:, 0]))


# -------------------------------------------------------------------------------------------- masked language model


def masked_lm_head(params: dict, config: Config) -> tuple[dict, dict, str, dict]:
    """The parts of the head: (dense, LayerNorm, activation, {"weight", "bias"} of the output layer)."""
    words = families.backbone(params, config)["embeddings"]["word_embeddings"]["weight"]
    match config.family:
        case "deberta" if not config.legacy:
            head = params["lm_predictions"]["lm_head"]
            parts, decoder, bias = (head["dense"], head["LayerNorm"], config.hidden_act), {}, head["bias"]
        case "bert" | "deberta":
            head = params["cls"]["predictions"]
            parts = head["transform"]["dense"], head["transform"]["LayerNorm"], config.hidden_act
            decoder = head.get("decoder", {})
            bias = decoder.get("bias", head["bias"])
        case "roberta" | "roberta_prelayernorm" | "mpnet":
            head = params["lm_head"]
            parts = head["dense"], head["layer_norm"], "gelu"
            decoder = head.get("decoder", {})
            bias = decoder.get("bias", head["bias"])
        case "electra":
            head = params["generator_predictions"]
            parts = head["dense"], head["LayerNorm"], "gelu"
            decoder = params["generator_lm_head"]
            bias = decoder["bias"]
        case "distilbert":
            parts = params["vocab_transform"], params["vocab_layer_norm"], config.hidden_act
            decoder = params["vocab_projector"]
            bias = decoder["bias"]
        case "albert":
            head = params["predictions"]
            parts = head["dense"], head["LayerNorm"], config.hidden_act
            decoder = head.get("decoder", {})
            bias = decoder.get("bias", head["bias"])
    return *parts, {"weight": decoder.get("weight", words), "bias": bias}


def _transformed(params: dict, config: Config, hidden):
    dense, ln, act, output = masked_lm_head(params, config)
    x = F.ACTIVATIONS[act](encoder.dense(dense, hidden))
    return F.layer_norm(x, ln["weight"], ln["bias"], eps=config.layer_norm_eps), output


def masked_lm_logits(params: dict, config: Config, hidden):
    """Logits over the vocabulary: (..., H) -> (..., V)."""
    x, output = _transformed(params, config, hidden)
    return encoder.dense(output, x)


def masked_lm_loss(params: dict, config: Config, hidden, labels):
    """Mean cross-entropy over the labels that are not -100, in nats. hidden (..., H), labels integers (...)."""
    x, output = _transformed(params, config, hidden)
    return F.linear_cross_entropy(x, output["weight"], output["bias"], labels)


# --------------------------------------------------------------------------------------------------- classification


def _classifier_dropout(config: Config) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def classification_logits(params: dict, config: Config, hidden, rng=None):
    """Logits of a sentence's classes: (B, L, H) -> (B, num_labels)."""
    drop = lambda x: F.dropout(x, _classifier_dropout(config), rng)  # noqa: E731
    match config.family:
        case "bert" | "albert":
            return encoder.dense(params["classifier"], drop(pooled(params, config, hidden)))
        case "deberta":
            first = F.dropout(hidden[:, 0], config.pooler_dropout, rng)
            x = F.ACTIVATIONS[config.pooler_hidden_act](encoder.dense(params["pooler"]["dense"], first))
            return encoder.dense(params["classifier"], drop(x))
        case "distilbert":
            x = F.relu(encoder.dense(params["pre_classifier"], hidden[:, 0]))
            return encoder.dense(params["classifier"], drop(x))
        case "roberta" | "roberta_prelayernorm" | "electra" | "mpnet":
            head = params["classifier"]
            act = F.gelu if config.family == "electra" else np.tanh
            x = drop(act(encoder.dense(head["dense"], drop(hidden[:, 0]))))
            return encoder.dense(head["out_proj"], x)


def classification_loss(logits, labels, config: Config):
    """The loss of config.problem_type: cross-entropy, squared error ("regression") or per-class binary cross-entropy.

    labels (B,) or (B, num_labels); a column (B, 1) of single numbers is taken as (B,). With rows of shares as labels and no
    problem_type, DeBERTa's is cross-entropy with the shares.
    """
    if config.problem_type != "multi_label_classification" and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if config.family == "deberta" and config.problem_type is None and config.num_labels > 1 and labels.ndim == 2:
        return -np.mean(np.sum(F.log_softmax(logits) * labels.astype(logits.dtype), axis=-1))
    problem = config.problem_type or (
        "regression" if config.num_labels == 1
        else "multi_label_classification" if np.issubdtype(labels.dtype, np.floating)
        else "single_label_classification"
    )  # fmt: skip
    if problem == "regression":
        return F.mean_squared_error(logits[:, 0] if config.num_labels == 1 else logits, labels)
    if problem == "multi_label_classification":
        return F.binary_cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels)


# ------------------------------------------------------------------------------------- tokens: their labels, answers


def token_logits(params: dict, config: Config, hidden, rng=None):
    """Logits of each token's classes, such as names (Devlin et al. 2019, section 5.3): (B, L, H) -> (B, L, num_labels)."""
    rate = config.hidden_dropout_prob if config.family in ("distilbert", "deberta") else _classifier_dropout(config)
    return encoder.dense(params["classifier"], F.dropout(hidden, rate, rng))


def answer_logits(params: dict, config: Config, hidden, rng=None):
    """Where an answer starts and where it ends (Devlin et al. 2019, section 4.2): (B, L, H) -> (B, L, 2)."""
    rate = config.qa_dropout if config.family == "distilbert" else 0.0
    return encoder.dense(params["qa_outputs"], F.dropout(hidden, rate, rng))


def answer_loss(logits, labels):
    """Mean of the cross-entropies of start and end. labels integers (B, 2); a position behind the text does not count."""
    length = logits.shape[1]
    places = np.where(labels >= length, -100, np.maximum(labels, 0))
    return (F.cross_entropy(logits[..., 0], places[:, 0]) + F.cross_entropy(logits[..., 1], places[:, 1])) / 2


# ------------------------------------------------------------------------------------------- replaced-token detection


def detection_logits(params: dict, config: Config, hidden):
    """ELECTRA's discriminator: one logit a token, positive for "replaced" (Clark et al. 2020): (B, L, H) -> (B, L)."""
    head = params["discriminator_predictions"]
    x = F.ACTIVATIONS[config.hidden_act](encoder.dense(head["dense"], hidden))
    return encoder.dense(head["dense_prediction"], x)[..., 0]


def next_sentence_logits(params: dict, config: Config, hidden):
    """BERT's next-sentence prediction and ALBERT's sentence order: (B, L, H) -> (B, 2)."""
    head = params["sop_classifier"]["classifier"] if config.family == "albert" else params["cls"]["seq_relationship"]
    return encoder.dense(head, pooled(params, config, hidden))


# ------------------------------------------------------------------------------------------------------- by config


def logits(params: dict, config: Config, hidden, rng=None):
    """The logits of whichever head the model has, or None."""
    match config.head:
        case "masked_lm" | "pretraining":
            return masked_lm_logits(params, config, hidden)
        case "sequence_classification":
            return classification_logits(params, config, hidden, rng)
        case "token_classification":
            return token_logits(params, config, hidden, rng)
        case "question_answering":
            return answer_logits(params, config, hidden, rng)
        case "replaced_token_detection":
            return detection_logits(params, config, hidden)
    return None


def loss(params: dict, config: Config, batch: dict, rng=None, sockets: encoder.Sockets = encoder.BERT):
    """The loss that transformers computes for this model and ``batch["labels"]``.

    ``batch`` holds input_ids (B, L), labels and optionally attention_mask and token_type_ids. Labels: (B, L) for a masked
    LM and for token classification (-100 where nothing is predicted) and for replaced-token detection (0 or 1; padding does
    not count); (B,), or (B, num_labels), for classification; (B, 2), start and end, for answers.
    """
    mask = batch.get("attention_mask")
    hidden = encoder.encode(params, config, batch["input_ids"], mask, batch.get("token_type_ids"), rng=rng, sockets=sockets)
    labels = batch["labels"]
    if config.head == "sequence_classification":
        return classification_loss(classification_logits(params, config, hidden, rng), labels, config)
    if config.head == "token_classification":
        return F.cross_entropy(token_logits(params, config, hidden, rng), labels)
    if config.head == "question_answering":
        return answer_loss(answer_logits(params, config, hidden, rng), labels)
    if config.head == "replaced_token_detection":
        return F.binary_cross_entropy(detection_logits(params, config, hidden), labels, None if mask is None else mask == 1)
    return masked_lm_loss(params, config, hidden, labels)
