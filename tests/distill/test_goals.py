"""Answers on padded batches are those that a user of the model gets; what is trained, and what cannot be a teacher."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bertcraft as bc
from bertcraft.bert import Model
from bertcraft.bert.sentence_modules import POOLINGS, Dense, LayerNorm, Normalize, Pipeline, Pooling
from bertcraft.data.batches import pad
from bertcraft.data.tokenizer import load_tokenizer
from bertcraft.distill import goals
from bertcraft.errors import InputError
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.tensor import tree, value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import ALL_PAIRS, FAMILIES, make, ours

WORDS = "the a cat dog sat ran on mat to home big small red blue house bank money card query :".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["the cat sat on the mat", "a dog", "the big red house", "money bank card card card money", "cat"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return load_tokenizer(folder)


def model_of(family, head, tokenizer, **changes):
    pad_id = 1 if family == "mpnet" else 0  # MPNet has it so, whatever its tokenizer says; no text holds the token 1
    network = make(family, head, 3, torch.float32, **{"vocab_size": len(VOCABULARY), "pad_token_id": pad_id, **changes})
    config, params = ours(network, family, head)
    return Model(config, params, Path(), tokenizer, False)


def batch_of(goal, texts=TEXTS):
    token_ids = goal.read(texts, goal.longest)
    ids, mask = pad(token_ids, goal.teacher.config.pad_token_id or 0)
    assert mask.min() == 0, "some are padded"
    return {"input_ids": ids, "attention_mask": mask}


PIPELINES = [Pipeline(Pooling((mode,)), (), prompts={"query": "", "document": ""}) for mode in POOLINGS] + [
    Pipeline(Pooling(("cls", "mean")), (Normalize(),), truncate_dim=7),
    Pipeline(Pooling(include_prompt=False), (), prompts={"q": "query : "}, default_prompt_name="q"),
    Pipeline(Pooling(("lasttoken", "weightedmean", "cls"), False), (), prompts={"q": "query : "}, default_prompt_name="q"),
    None,
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
def test_vectors_of_padded_batches_are_those_of_encode(pipeline, tokenizer):
    model = replace(model_of("bert", "base", tokenizer), pipeline=pipeline)
    goal = goals.goal_of(model)
    found = goal.answers(goal.teacher.params, goal.teacher.config, batch_of(goal))
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=2e-6)
    np.testing.assert_allclose(goals.over(goal.read(TEXTS, goal.longest), goal, goal.teacher), found, atol=2e-6)
    np.testing.assert_array_equal(goal.complete(goal.teacher, TEXTS), model.encode(TEXTS))


def test_modules_behind_the_pooling_are_computed(tokenizer):
    model = model_of("bert", "base", tokenizer)
    width, rng = model.config.hidden_size, np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    modules = (Dense(draw(5, width), draw(5), "Tanh", True, draw(5, width)), LayerNorm(draw(5), draw(5)))
    model = replace(model, pipeline=Pipeline(Pooling(), modules))
    goal = goals.goal_of(model)
    assert goal.width == 5
    np.testing.assert_allclose(goal.answers(model.params, model.config, batch_of(goal)), model.encode(TEXTS), atol=2e-6)


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2"])
def test_every_family_can_be_a_teacher_of_vectors_and_of_classes(family, tokenizer):
    for head in ("base", "sequence_classification"):
        layers = {"n_layers" if family == "distilbert" else "num_hidden_layers": 4}
        groups = {"num_hidden_groups": 1, "inner_group_num": 1} if family == "albert" else {}
        model = model_of(family, head, tokenizer, **layers, **groups)
        goal = goals.goal_of(model)
        batch = batch_of(goal)
        found = goal.answers(goal.teacher.params, goal.teacher.config, batch)
        if head == "base":
            expected = model.encode(TEXTS)
        else:
            expected = model(batch["input_ids"], batch["attention_mask"]).logits
        np.testing.assert_allclose(found, expected, atol=1e-5)
        config, params = technique.start(goal.teacher.config, goal.teacher.params, [0, 3])
        trained = goals.trained_names(goal, config)
        _, gradients = value_and_grad(lambda p: goal.loss(goal.answers(p, config, batch), found))(params)
        pulled = {name for name, leaf in tree.items(gradients) if np.any(leaf)}
        assert {name for name in pulled if ".embeddings." not in name} <= trained
        assert len(pulled & trained) > 0.7 * len(trained), "what is trained is what the answer depends on"


@pytest.mark.parametrize(("family", "head"), [pair for pair in ALL_PAIRS if pair[1] in ("masked_lm", "pretraining")])
def test_heads_that_answer_nothing_here_are_left_out(family, head, tokenizer):
    goal = goals.goal_of(model_of(family, head, tokenizer))
    assert goal.teacher.config.head == "base"
    assert technique.count(goal.teacher.config) == sum(leaf.size for leaf in tree.leaves(goal.teacher.params))


def test_the_loss_of_unit_vectors_is_twice_one_minus_the_cosine(tokenizer):
    goal = goals.goal_of(model_of("bert", "base", tokenizer))
    rng = np.random.default_rng(0)
    found, wanted = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.standard_normal((2, 6, 9)))
    assert goal.loss(found, wanted) == pytest.approx(2 * technique.cosine_loss(found, wanted), rel=1e-12)
    assert goal.loss(5 * found, 5 * wanted) == pytest.approx(goal.loss(found, wanted), rel=1e-12), "scale does not count"


def test_a_classifier_reads_as_much_as_its_tokenizer_states(tokenizer, tmp_path):
    model = model_of("bert", "sequence_classification", tokenizer)
    model.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    goal = goals.goal_of(bc.load(tmp_path))
    assert goal.longest == 5
    probabilities = goal.complete(goal.teacher, TEXTS)
    assert probabilities.shape == (5, model.config.num_labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "changes", "message"),
    [
        ("token_classification", {}, "answers for tokens"),
        ("question_answering", {}, "answers for tokens"),
        ("sequence_classification", {"num_labels": 1}, "regression"),
        ("sequence_classification", {"problem_type": "multi_label_classification"}, "multi_label"),
    ],
)
def test_what_cannot_be_a_teacher_is_told(head, changes, message, tokenizer):
    with pytest.raises(InputError, match=message):
        goals.goal_of(model_of("bert", head, tokenizer, **changes))
