"""Losses and gradients against torch, whole students against transformers; shards, JAX; the start; exact sizes."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft import check_grads
from bertcraft.bert import Config, Model, encoder, heads, load
from bertcraft.bert.initialise import initial_params
from bertcraft.errors import InputError
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.techniques.roberta_optimizations import mask_tokens
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, constant
from bertcraft.train.loop import fit_on, numpy_engine

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import ALL_PAIRS, inputs, make, named, ours


def draw(*shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def equal_to_torch(loss, theirs, student, *rest):
    """Value and gradient of ``loss(student, *rest)`` are those of torch's, in double precision."""
    value, gradient = value_and_grad(loss)(student, *rest)
    x = torch.tensor(student, requires_grad=True)
    expected = theirs(x, *(torch.tensor(each) for each in rest))
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-10)


# ------------------------------------------------------------------------------------------- each loss against torch's


@pytest.mark.parametrize("temperature", [0.5, 1, 2, 7.0])
def test_soft_targets_are_torchs_divergence_times_the_square_of_the_temperature(temperature):
    student, teacher = draw((6, 5), (6, 5), seed=1)

    def theirs(s, t):
        divergence = torch.nn.KLDivLoss(reduction="batchmean")(
            TF.log_softmax(s / temperature, -1), TF.softmax(t / temperature, -1)
        )
        return divergence * temperature * temperature

    equal_to_torch(lambda s, t: technique.soft_target_loss(s, t, temperature), theirs, 3 * student, 3 * teacher)


def test_only_masked_rows_count_in_each_mean():
    (student, teacher), mask = draw((4, 3, 5), (4, 3, 5)), np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    rows = mask == 1
    for loss in (technique.soft_target_loss, technique.cosine_loss, technique.state_loss):
        value = loss(student, teacher, mask=mask)
        assert value == pytest.approx(loss(student[rows], teacher[rows]), rel=1e-12)
        assert loss(student, teacher, mask=0 * mask) == 0


def test_hintons_sum_is_torchs():
    (student, teacher), labels = draw((6, 5), (6, 5), seed=2), np.array([0, 4, 1, 1, 3, 2])

    def theirs(s, t, labels):
        soft = TF.kl_div(TF.log_softmax(s / 3, -1), TF.log_softmax(t / 3, -1), reduction="batchmean", log_target=True)
        return 0.7 * 9 * soft + 0.3 * TF.cross_entropy(s, labels)

    equal_to_torch(lambda s, t, y: technique.hinton_loss(s, t, y, 3, 0.7), theirs, student, teacher, labels)


def test_the_cosine_is_torchs_embedding_loss():
    student, teacher = draw((7, 9), (7, 9), seed=3)
    theirs = lambda s, t: torch.nn.CosineEmbeddingLoss()(s, t, torch.ones(len(s)))  # noqa: E731
    equal_to_torch(technique.cosine_loss, theirs, student, teacher)


@pytest.mark.parametrize("projected", [False, True])
def test_states_and_scores_are_torchs_squared_errors(projected):
    student, teacher, projection = draw((2, 3, 4), (2, 3, 6 if projected else 4), (4, 6), seed=4)
    if projected:
        equal_to_torch(technique.state_loss, lambda s, t, p: TF.mse_loss(s @ p, t), student, teacher, projection)
        equal_to_torch(
            lambda p, s, t: technique.state_loss(s, t, p), lambda p, s, t: TF.mse_loss(s @ p, t), projection, student, teacher
        )
    else:
        equal_to_torch(technique.state_loss, TF.mse_loss, student, teacher)
        equal_to_torch(technique.attention_loss, TF.mse_loss, *draw((2, 3, 5, 5), (2, 3, 5, 5)))


def test_scores_count_between_tokens_only():
    (student, teacher), mask = draw((2, 3, 4, 4), (2, 3, 4, 4)), np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    differences = np.concatenate([((s - t)[:, :n, :n] ** 2).ravel() for s, t, n in zip(student, teacher, (3, 2), strict=True)])
    assert technique.attention_loss(student, teacher, mask) == pytest.approx(differences.mean(), rel=1e-12)


def test_patience_is_the_squared_distance_of_unit_vectors_and_the_authors_mean_over_numbers():
    student, teacher = draw((3, 2, 4, 5), (3, 2, 4, 5), seed=5)  # layers, texts, length, width

    def theirs(s, t):
        s, t = (TF.normalize(each[:, :, 0], dim=-1) for each in (s, t))
        return TF.mse_loss(s, t) * 3 * 5

    equal_to_torch(lambda s, t: technique.patient_loss(list(s), list(t)), theirs, student, teacher)
    assert technique.patient_loss(list(student), list(7 * student)) == pytest.approx(0, abs=1e-12), "lengths do not count"


# ---------------------------------------------------------------------------------------------------------- properties

LOGITS = st.tuples(st.integers(1, 5), st.integers(2, 7), st.floats(0.1, 30), st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=60)
@given(LOGITS, st.floats(0.2, 20))
def test_a_divergence_is_zero_for_equal_answers_alone_and_blind_to_what_is_added_to_all_logits(shape, temperature):
    rows, classes, scale, seed = shape
    student, teacher, shift = draw((rows, classes), (rows, classes), (rows, 1), seed=seed)
    loss = technique.soft_target_loss(scale * student, scale * teacher, temperature)
    distance = np.abs(F.softmax(scale * student / temperature) - F.softmax(scale * teacher / temperature)).max()
    assert loss >= 2 * (temperature * distance) ** 2 / rows - 1e-9, "Pinsker's inequality"
    assert technique.soft_target_loss(scale * student, scale * student, temperature) == pytest.approx(0, abs=1e-9)
    moved = technique.soft_target_loss(scale * student + 100 * shift, scale * teacher - 9 * shift, temperature)
    assert moved == pytest.approx(loss, rel=1e-6, abs=1e-8)


@settings(deadline=None, max_examples=60)
@given(LOGITS, st.floats(0.2, 20))
def test_the_gradient_of_soft_targets_is_the_difference_of_probabilities_times_the_temperature(shape, temperature):
    rows, classes, scale, seed = shape
    student, teacher = (scale * x for x in draw((rows, classes), (rows, classes), seed=seed))
    _, gradient = value_and_grad(technique.soft_target_loss)(student, teacher, temperature)
    expected = temperature * (F.softmax(student / temperature) - F.softmax(teacher / temperature)) / rows
    np.testing.assert_allclose(gradient, expected, atol=1e-10)


def test_with_the_square_of_the_temperature_gradients_keep_their_size():
    """Equation 4: with rising T the gradient tends to that of half the squared difference of centred logits, over the classes."""
    student, teacher = draw((1, 8), (1, 8), seed=7)
    _, at_high = value_and_grad(technique.soft_target_loss)(student, teacher, 1000.0)
    centred = (student - student.mean()) - (teacher - teacher.mean())
    np.testing.assert_allclose(at_high, centred / 8, rtol=5e-3, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.data())
def test_a_student_takes_first_and_last_and_evenly_between(teacher, data):
    student = data.draw(st.integers(1, teacher))
    layers = technique.spread(teacher, student)
    assert len(layers) == student and layers == sorted(set(layers)) and layers[0] == 0
    if student > 1:
        steps = np.diff(layers)
        assert layers[-1] == teacher - 1 and steps.max() - steps.min() <= 1
    if teacher % student == 0:
        ends = technique.every(teacher, student)
        assert ends[-1] == teacher and set(np.diff([0, *ends])) == {teacher // student}


def test_layers_of_the_papers():
    assert technique.spread(12, 6) == [0, 2, 4, 7, 9, 11], "DistilBERT's script"
    assert technique.every(12, 4) == [3, 6, 9, 12], "TinyBERT: g(m) = 3 m"
    assert technique.every(12, 6)[:-1] == [2, 4, 6, 8, 10], "PKD-Skip"


# --------------------------------------------------------------------------------------- whole students, transformers'

TINY = {"num_hidden_layers": 4, "hidden_size": 12, "num_attention_heads": 3, "vocab_size": 41, "pad_token_id": 0}


def teacher_and_student(layers=2, family="bert"):
    """transformers' teacher and student, whose weights are a start from the teacher, moved a little; the student as ours too."""
    teacher = make(family, "masked_lm", 5, **TINY)
    config, params = ours(teacher, family, "masked_lm")
    own, copied = technique.start(config, params, technique.spread(4, layers))
    rng = np.random.default_rng(9)
    student_params = tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), copied)
    student = make(family, "masked_lm", 6, **{**TINY, "num_hidden_layers": layers, "intermediate_size": own.intermediate_size})
    arrays = {name: torch.tensor(leaf) for name, leaf in tree.items(student_params)}
    missing, unexpected = student.load_state_dict(arrays, strict=False)
    assert not unexpected and all("decoder" in name or "position_ids" in name for name in missing), missing
    return teacher, student, (config, params), (own, student_params)


def masked_batch(rows=5, length=14, seed=1):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 41, (rows, length))
    mask = (np.arange(length) < rng.integers(5, length + 1, (rows, 1))).astype(np.int64)
    masked = mask_tokens(ids * mask, rng.random((rows, 3 * length)), mask_id=4, vocab_size=41, first_word_id=5, rate=0.3)
    return {**masked._asdict(), "attention_mask": mask}


def equal_gradients(model, gradients, family="bert"):
    expected = named(model, {name: p.grad for name, p in model.named_parameters()}, family, "masked_lm")
    seen = 0
    for name, gradient in tree.items(gradients):
        other = 0 if expected[name] is None else expected[name].numpy()
        np.testing.assert_allclose(gradient, other, atol=1e-8, err_msg=name)
        seen += bool(np.any(other))
    return seen


def test_distilberts_losses_and_every_gradient_equal_transformers():
    teacher, student, of_teacher, (config, params) = teacher_and_student()
    batch = masked_batch()
    labels = np.full(batch["input_ids"].shape, -100)
    counted = batch["labels"] >= 0
    rows = np.broadcast_to(np.arange(len(labels))[:, None], counted.shape)
    labels[rows[counted], batch["at"][counted]] = batch["labels"][counted]
    given = {"input_ids": torch.tensor(batch["input_ids"]), "attention_mask": torch.tensor(batch["attention_mask"])}

    with torch.no_grad():
        wanted = teacher(**given, output_hidden_states=True)
    found = student(**given, labels=torch.tensor(labels), output_hidden_states=True)
    chosen, real = torch.tensor(labels) >= 0, given["attention_mask"] == 1
    soft = torch.nn.KLDivLoss(reduction="batchmean")(
        TF.log_softmax(found.logits[chosen] / 2, -1), TF.softmax(wanted.logits[chosen] / 2, -1)
    )
    last = found.hidden_states[-1][real]
    cosine = torch.nn.CosineEmbeddingLoss()(last, wanted.hidden_states[-1][real], torch.ones(len(last)))
    total = 5 * 4 * soft + 2 * found.loss + cosine
    total.backward()

    batch = technique.with_teacher(batch, of_teacher[1], of_teacher[0])
    parts = technique.losses(params, batch, None, config)
    for ours_, theirs in zip(parts, (4 * soft, found.loss, cosine), strict=True):
        assert float(ours_) == pytest.approx(theirs.item(), abs=1e-9)
    value, gradients = value_and_grad(lambda p: technique.distilbert_loss(p, batch, None, config))(params)
    assert float(value) == pytest.approx(total.item(), abs=1e-8)
    assert equal_gradients(student, gradients) > 35


def with_scores(model, given):
    """Hidden states of transformers' model, and its scores from the outputs of its query and key maps."""
    kept, hooks = {}, []
    for name, module in model.named_modules():
        if name.endswith((".query", ".key")):
            hooks.append(module.register_forward_hook(lambda m, i, output, name=name: kept.__setitem__(name, output)))
    states = model(**given, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    heads = model.config.num_attention_heads
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    queries = [split(x) for name, x in kept.items() if name.endswith("query")]
    keys = [split(x) for name, x in kept.items() if name.endswith("key")]
    return states, [q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) for q, k in zip(queries, keys, strict=True)]


def test_tinyberts_losses_and_every_gradient_equal_transformers():
    teacher, student, (teacher_config, teacher_params), (config, params) = teacher_and_student()
    batch = masked_batch(seed=3)
    given = {"input_ids": torch.tensor(batch["input_ids"]), "attention_mask": torch.tensor(batch["attention_mask"])}
    with torch.no_grad():
        states, scores = with_scores(teacher, given)
    own_states, own_scores = with_scores(student, given)
    real = given["attention_mask"] == 1
    pairs = (real[:, None, :, None] & real[:, None, None, :]).expand_as(scores[0])
    total = sum(TF.mse_loss(own_states[i][real], states[j][real]) for i, j in ((0, 0), (1, 2), (2, 4)))
    total = total + sum(TF.mse_loss(own_scores[i][pairs], scores[j][pairs]) for i, j in ((0, 1), (1, 3)))
    total.backward()

    inner = batch["input_ids"], batch["attention_mask"]
    wanted = technique.inside(teacher_params, teacher_config, *inner)

    def loss(p):
        return technique.tinybert_loss(technique.inside(p, config, *inner), wanted, mask=batch["attention_mask"])

    value, gradients = value_and_grad(loss)(params)
    assert float(value) == pytest.approx(total.item(), abs=1e-9)
    assert equal_gradients(student, gradients) > 30


def test_patience_and_every_gradient_equal_transformers():
    teacher, student, (teacher_config, teacher_params), (config, params) = teacher_and_student()
    batch = masked_batch(seed=4)
    given = {"input_ids": torch.tensor(batch["input_ids"]), "attention_mask": torch.tensor(batch["attention_mask"])}
    with torch.no_grad():
        states = teacher(**given, output_hidden_states=True).hidden_states
    own = student(**given, output_hidden_states=True).hidden_states
    unit = lambda layers: TF.normalize(torch.stack([each[:, 0] for each in layers], 1), dim=-1)  # noqa: E731
    total = TF.mse_loss(unit(own[1:]), unit([states[2], states[4]])) * 2 * 12
    total.backward()
    inner = batch["input_ids"], batch["attention_mask"]
    wanted = technique.inside(teacher_params, teacher_config, *inner).states
    taken = [wanted[layer] for layer in technique.every(4, 2)]
    loss = lambda p: technique.patient_loss(technique.inside(p, config, *inner).states[1:], taken)  # noqa: E731
    value, gradients = value_and_grad(loss)(params)
    assert float(value) == pytest.approx(total.item(), abs=1e-10)
    assert equal_gradients(student, gradients) > 30


def test_a_teacher_with_its_norms_before_the_layers_is_seen_inside_too():
    network = make("roberta-prelayernorm", "masked_lm", 5, num_hidden_layers=3)
    config, params = ours(network, "roberta-prelayernorm", "masked_lm")
    arrays = inputs(network, 5, padded=True)
    real = arrays["attention_mask"] == 1
    with torch.no_grad():
        states, scores = with_scores(network, {name: torch.tensor(arrays[name]) for name in ("input_ids", "attention_mask")})
    found = technique.inside(params, config, arrays["input_ids"], arrays["attention_mask"])
    assert len(found.states) == len(states) == 4 and len(found.scores) == len(scores) == 3
    for state, expected in zip(found.states, states, strict=True):
        np.testing.assert_allclose(state[real], expected.numpy()[real], atol=1e-8)
    pairs = np.broadcast_to(real[:, None, :, None] & real[:, None, None], scores[0].shape)
    for score, expected in zip(found.scores, scores, strict=True):
        np.testing.assert_allclose(score[pairs], expected.numpy()[pairs], atol=1e-8)


# -------------------------------------------------------------------------------------------------------- gradients


def small(dtype=np.float64, layers=2):
    config = Config(
        family="bert", head="masked_lm", vocab_size=41, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=14, pad_token_id=None, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    noise = lambda leaf: leaf + dtype(0.1) * rng.standard_normal(leaf.shape).astype(dtype)  # noqa: E731
    return config, tree.map(noise, initial_params(config, 1, dtype))


def test_gradients_of_the_losses_equal_numeric_ones_to_the_second_order():
    student, teacher = draw((3, 4), (3, 4), seed=8)
    check_grads(lambda s, t: technique.soft_target_loss(s, t, 3.0), student, teacher)
    check_grads(technique.cosine_loss, student, teacher)
    check_grads(lambda *layers: technique.patient_loss(layers[:2], layers[2:]), *draw(*[(2, 2, 3)] * 4))


def test_gradients_of_a_whole_student_equal_numeric_ones():
    config, params = small()
    teacher_config, teacher_params = small(layers=4)
    batch = technique.with_teacher(masked_batch(2, 10), teacher_params, teacher_config)
    inner = batch["input_ids"], batch["attention_mask"]
    wanted = technique.inside(teacher_params, teacher_config, *inner)
    names = list(dict(tree.items(params)))

    def loss(*arrays):
        own = tree.nest(dict(zip(names, arrays, strict=True)))
        found = technique.inside(own, config, *inner)
        return technique.distilbert_loss(own, batch, None, config) + technique.tinybert_loss(found, wanted, None, inner[1])

    check_grads(loss, *tree.leaves(params), order=1)


def test_float32_stays_and_dropout_is_drawn():
    config, params = small(np.float32)
    batch = technique.with_teacher(masked_batch(), *reversed(small(np.float32)))
    value, gradients = value_and_grad(lambda p: technique.distilbert_loss(p, batch, None, config))(params)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    inner = batch["input_ids"], batch["attention_mask"]
    found = technique.inside(params, config, *inner)
    assert technique.tinybert_loss(found, found, mask=inner[1]).dtype == np.float32
    dropping = replace(config, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    first, again, other = (
        float(technique.distilbert_loss(params, batch, np.random.default_rng(seed), dropping)) for seed in (0, 0, 1)
    )
    assert first == again != other


def of_classes(dtype=np.float64):
    """A student of two layers that sorts six texts, and what it learns from: batch, parameters, Hinton's loss."""
    config = replace(small(dtype)[0], head="sequence_classification", num_labels=3)
    batch = {"input_ids": masked_batch(6)["input_ids"], "labels": np.array([0, 2, 1, 1, 0, 2])}
    batch |= {"teacher": 3 * np.random.default_rng(4).standard_normal((6, 3)).astype(dtype)}

    def loss(params, batch, rng):
        hidden = encoder.encode(params, config, batch["input_ids"], rng=rng)
        logits = heads.classification_logits(params, config, hidden, rng)
        return technique.hinton_loss(logits, batch["teacher"], batch["labels"], 4.0, 0.7)

    return batch, initial_params(config, 1, dtype, deviation=0.3), loss


@pytest.mark.parametrize("shard_size", [1, 4, 6])
def test_shards_weighted_by_texts_add_up_to_the_whole_batch(shard_size):
    batch, params, loss = of_classes()
    value, gradients = value_and_grad(loss)(params, batch, None)
    step = sharded_value_and_grad(loss, shard_size=shard_size, weight=lambda part: len(part["labels"]), threads=1)
    sharded, parts = step(params, batch, 0)
    assert sharded == pytest.approx(float(value), rel=1e-12)
    tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), parts, gradients)


def test_a_student_trains_on_xla_whole_in_parts_and_cut_as_on_numpy():
    jax = pytest.importorskip("jax")
    from bertcraft.pretrain.xla import xla_engine

    batch, params, loss = of_classes()
    rule, count = adamw(constant(1e-2)), lambda part: len(part["labels"])
    step = sharded_value_and_grad(loss, shard_size=4, weight=count, threads=1)
    expected = fit_on(numpy_engine(step, rule), tree.map(np.copy, params), rule.init(params), lambda _: batch, 4, seed=0)
    assert expected.losses[-1] < expected.losses[0]
    with jax.enable_x64(True):
        for options in ({}, {"accumulate": 2, "sharded": True}):
            engine = xla_engine(loss, rule, seed=0, weight=count, **options)
            found = fit_on(engine, tree.map(np.copy, params), rule.init(params), lambda _: batch, 4, seed=0)
            np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-9)


def test_it_compiles_under_jax():
    pytest.importorskip("jax")
    from bertcraft.tensor.xla import jit

    config, params = small(np.float32)
    batch = technique.with_teacher(masked_batch(), *reversed(small(np.float32)))
    inner = batch["input_ids"], batch["attention_mask"]
    wanted = technique.inside(*reversed(small(np.float32)), *inner)

    def loss(p, b):
        found = technique.inside(p, config, b["input_ids"], b["attention_mask"])
        tiny = technique.tinybert_loss(found, tree.map(lambda x: 0.9 * x, wanted), mask=b["attention_mask"])
        return technique.distilbert_loss(p, b, None, config) + tiny + technique.patient_loss(found.states, wanted.states)

    assert float(jit(loss)(params, batch)) == pytest.approx(float(loss(params, batch)), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ the start


def test_distilbert_is_two_fifths_smaller_not_three():
    teacher, student = Config(family="bert"), Config(family="distilbert")
    assert (technique.count(teacher), technique.count(student)) == (109_482_240, 66_362_880)
    assert 1 - technique.count(student) / technique.count(teacher) == pytest.approx(0.394, abs=5e-4)


@pytest.mark.parametrize(("family", "head"), ALL_PAIRS)
def test_a_student_of_any_family_is_its_teachers_layers_and_opens_in_transformers(family, head, tmp_path):
    import transformers

    layers = "n_layers" if family == "distilbert" else "num_hidden_layers"
    groups = {"num_hidden_groups": 1, "inner_group_num": 1} if family == "albert" else {}
    teacher = make(family, head, 8, **{layers: 5}, **groups)
    config, params = ours(teacher, family, head)
    own, student = technique.start(config, params, [0, 2, 4])
    assert own.num_hidden_layers == 3 and technique.count(own) == sum(leaf.size for leaf in tree.leaves(student))
    known = {id(leaf) for leaf in tree.leaves(params)}
    assert all(id(leaf) in known for leaf in tree.leaves(student)), "the teacher's own arrays"
    Model(own, student).save(tmp_path)
    theirs = getattr(transformers, own.architecture).from_pretrained(tmp_path, attn_implementation="eager").double().eval()
    given = inputs(teacher, 1)
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(array) for name, array in given.items()}, output_hidden_states=True)
    found = load(tmp_path)(**given)
    real = given["attention_mask"] == 1
    np.testing.assert_allclose(found.last_hidden_state[real], expected.hidden_states[-1].numpy()[real], atol=1e-7)
    if family not in ("albert", "deberta", "deberta-v2"):  # its own layers, one after the other
        name = "transformer" if family == "distilbert" else "encoder"
        tops = [params[config.family][name]["layer"][str(i)] for i in (0, 2, 4)]
        for i, top in enumerate(tops):
            tree.map(lambda a, b: np.testing.assert_array_equal(a, b), student[config.family][name]["layer"][str(i)], top)


def test_a_student_of_all_layers_is_its_teacher():
    config, params = small(layers=3)
    own, student = technique.start(config, params, technique.spread(3, 3))
    assert own == config
    tree.map(np.testing.assert_array_equal, student, params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: technique.soft_target_loss(np.ones((1, 2)), np.ones((1, 2)), 0), "temperature: got 0"),
        (lambda: technique.hinton_loss(np.ones((1, 2)), np.ones((1, 2)), np.array([0]), soft=1.5), "share from 0 to 1"),
        (lambda: technique.spread(6, 7), "got 7 for a student of a teacher with 6 layers, expected 1 to 6"),
        (lambda: technique.spread(6, 0), "expected 1 to 6"),
        (lambda: technique.every(12, 5), "no 5 equal parts"),
        (lambda: technique.start(Config(family="albert", num_hidden_groups=2), {}, [0]), "2 groups of layers"),
        (lambda: technique.start(Config(family="bert"), {}, [0, 12]), r"layers: got \[0, 12\], expected some of 0 to 11"),
        (lambda: technique.start(Config(family="bert"), {}, [-1]), r"layers: got \[-1\]"),
        (lambda: technique.start(Config(family="albert"), {}, []), r"layers: got \[\]"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
