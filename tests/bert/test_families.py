"""Each family and head against transformers: hidden states, logits, loss and every parameter's gradient."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertcraft.bert import Config, encoder, families, heads
from bertcraft.bert.model import Model
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.kernels import kernels_disabled

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import ALL_PAIRS, FAMILIES, inputs, make, named, ours

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5}


def labels_for(model, head: str, arrays: dict, seed: int) -> np.ndarray | None:
    rng = np.random.default_rng(seed + 1)
    shape = arrays["input_ids"].shape
    match head:
        case "masked_lm" | "pretraining":
            labels = rng.integers(0, model.config.vocab_size, shape)
            return np.where(rng.random(shape) < 0.4, labels, -100)
        case "replaced_token_detection":
            return rng.integers(0, 2, shape)
        case "sequence_classification":
            return rng.integers(0, model.config.num_labels, shape[0])
        case "token_classification":
            return np.where(rng.random(shape) < 0.7, rng.integers(0, model.config.num_labels, shape), -100)
        case "question_answering":  # one in the text, one behind it
            return np.stack([rng.integers(0, shape[1], 2), [0, shape[1] + 3], rng.integers(0, shape[1], 2)])


def seeds(family: str) -> int:
    """Four models a family; more where there are more settings that change what is computed."""
    return {"deberta": 12, "deberta-v2": 24}.get(family, 4)


def run_transformers(model, head, arrays, labels):
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    if head == "question_answering":
        tensors |= {"start_positions": torch.tensor(labels[:, 0]), "end_positions": torch.tensor(labels[:, 1])}
    elif labels is not None and head != "pretraining":
        tensors["labels"] = torch.tensor(labels).float() if head == "replaced_token_detection" else torch.tensor(labels)
    return model(**tensors, output_hidden_states=True)


def close(got, expected, tolerance):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(np.asarray(got), expected, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("family", "head", "seed"), [(*pair, seed) for pair in ALL_PAIRS for seed in range(seeds(pair[0]))])
def test_outputs_loss_and_every_gradient_equal_transformers(family, head, seed, dtype):
    activation = {"activation" if family == "distilbert" else "hidden_act": ["gelu", "gelu_new", "relu", "silu"][seed % 4]}
    model = make(family, head, seed, dtype, **activation)
    answers = head == "question_answering"
    # A DeBERTa's states at padding mean nothing, and the loss of an answer is over all places.
    arrays = inputs(model, seed, padded=seed % 2 == 0 and not (answers and family.startswith("deberta")))
    labels = labels_for(model, head, arrays, seed)
    if family.startswith("deberta") and labels is not None and labels.ndim == 2 and not answers:
        labels = np.where(arrays.get("attention_mask", 1) == 1, labels, -100)
    theirs = run_transformers(model, head, arrays, labels)
    config, params = ours(model, family, head)
    out = Model(config, params)(**arrays)
    tolerance = TOLERANCE[dtype]

    real = arrays.get("attention_mask", np.ones_like(arrays["input_ids"])) == 1
    assert out.last_hidden_state.dtype == params[config.family]["embeddings"]["LayerNorm"]["bias"].dtype
    close(out.last_hidden_state[real], theirs.hidden_states[-1].detach().numpy()[real], tolerance)
    if head == "base":
        pooled = getattr(theirs, "pooler_output", None)
        assert (out.pooler_output is None) == (pooled is None)
        if pooled is not None:
            close(out.pooler_output, pooled.detach().numpy(), tolerance)
        loss = theirs.last_hidden_state[torch.tensor(real)].square().mean()
    else:
        if head == "question_answering":
            logits = torch.stack([theirs.start_logits, theirs.end_logits], -1)
        else:
            logits = theirs.prediction_logits if head == "pretraining" else theirs.logits
        read = real if family.startswith("deberta") and logits.ndim == 3 else ...
        close(out.logits[read], logits.detach().numpy()[read], tolerance)
        loss = theirs.loss
    if head == "pretraining":
        sentence = theirs.sop_logits if family == "albert" else theirs.seq_relationship_logits
        close(heads.next_sentence_logits(params, config, out.last_hidden_state), sentence.detach().numpy(), tolerance)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(labels).flatten())
    if head == "replaced_token_detection":  # transformers rounds the labels, and with them the loss, to float32
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            theirs.logits[torch.tensor(real)], torch.tensor(labels)[torch.tensor(real)].to(dtype)
        )
        close(loss.item(), theirs.loss.item(), 1e-6)
    loss.backward()

    def our_loss(p):
        if head == "base":
            return np.mean(np.square(encoder.encode(p, config, *positional(arrays))[real]))
        return heads.loss(p, config, {**arrays, "labels": labels})

    for disabled in (False, True):
        if disabled:
            with kernels_disabled():
                value, gradients = value_and_grad(our_loss)(params)
        else:
            value, gradients = value_and_grad(our_loss)(params)
        close(value, loss.item(), tolerance)
        expected = named(model, {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}, family, head)
        for name, gradient in tree.items(gradients):
            grad = expected[name]
            close(gradient, 0 if grad is None else grad.numpy(), tolerance)
            assert gradient.dtype == out.last_hidden_state.dtype


def positional(arrays):
    return arrays["input_ids"], arrays.get("attention_mask"), arrays.get("token_type_ids")


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2", "roberta-prelayernorm"])
def test_last_layer_at_some_positions_equals_the_whole(family):
    model = make(family, "base", 5)
    arrays = inputs(model, 5)
    config, params = ours(model, family, "base")
    at = np.random.default_rng(0).integers(0, arrays["input_ids"].shape[1], (3, 4))
    whole = encoder.encode(params, config, *positional(arrays))
    some = encoder.encode(params, config, *positional(arrays), at=at)
    np.testing.assert_allclose(some, np.take_along_axis(whole, at[..., None], axis=1), atol=1e-12)

    def loss(p, use_at):
        hidden = encoder.encode(p, config, *positional(arrays), at=at if use_at else None)
        return np.sum(np.tanh(hidden if use_at else encoder.take_positions(hidden, at)))

    for (name, a), b in zip(
        tree.items(value_and_grad(loss)(params, True)[1]), tree.leaves(value_and_grad(loss)(params, False)[1]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_other_classification_losses_equal_transformers(problem):
    model = make("bert", "sequence_classification", 3, problem_type=problem, num_labels=3)
    arrays = inputs(model, 3)
    labels = np.random.default_rng(0).random((3, 3)).round() * 1.0
    expected = model(**{k: torch.tensor(v) for k, v in arrays.items()}, labels=torch.tensor(labels)).loss.item()
    config, params = ours(model, "bert", "sequence_classification")
    assert float(heads.loss(params, config, {**arrays, "labels": labels})) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("family, labels, count", [
    ("bert", [[0.5], [1.0], [-2.0]], 1), ("roberta", [0.5, 1.0, -2.0], 1),
    ("deberta", [[2], [0], [1]], 3), ("deberta", [2, 0, 1], 3),
])  # fmt: skip
def test_a_column_of_labels_is_read_as_transformers_reads_it(family, labels, count):
    """(B, 1) less (B,) would be (B, B); and float64 labels leave a float32 model as it is."""
    model = make(family, "sequence_classification", 3, num_labels=count)
    arrays, labels = inputs(model, 3), np.array(labels)
    expected = model(**{k: torch.tensor(v) for k, v in arrays.items()}, labels=torch.tensor(labels)).loss.item()
    config, params = ours(model, family, "sequence_classification")
    assert float(heads.loss(params, config, {**arrays, "labels": labels})) == pytest.approx(expected, abs=1e-10)
    single = tree.map(lambda leaf: leaf.astype(np.float32), params)
    assert heads.loss(single, config, {**arrays, "labels": labels}).dtype == np.float32


def test_albert_groups_are_those_of_transformers():
    for groups in range(1, 16):
        for count in range(groups, 40):
            config = Config(family="albert", num_hidden_layers=count, num_hidden_groups=groups)
            trees = {str(g): {"albert_layers": {"0": g}} for g in range(groups)}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(families, "_albert_layer", lambda layer: layer)
                chosen = families.layers({"albert": {"encoder": {"albert_layer_groups": trees}}}, config)
            assert chosen == [int(i / (count / groups)) for i in range(count)]
