"""Pretraining that goes on from a checkpoint: its head, what of it is trained, its tokenizer, both backends, what is written."""

import json
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bert import transformers_models as production
from tests.pretrain.test_pretrain import finish, parameters, steps_of, taken, wait_for

import bertcraft as bc
from bertcraft.bert import Config, heads, initial_params
from bertcraft.bert.layout import parameter_shapes
from bertcraft.bert.model import Model
from bertcraft.data.tokenizer import frame_ids, mask_id, save_tokenizer, train_wordpiece, word_ids
from bertcraft.errors import DataError, InputError
from bertcraft.pretrain.objectives import continued, merged, with_blank_rows
from bertcraft.pretrain.start import WITH_HEAD, open_start, trained_names, with_masked_lm_head
from bertcraft.pretrain.xla import xla_engine
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm
from bertcraft.train.loop import fit_on, numpy_engine

WORDS = [f"{a}{b}{c}" for a in "bdgkmt" for b in "aeiou" for c in "lnrst"]
BASE = ["--batch", "8", "--length", "16", "--warmup", "5", "--workers", "0", "--rate", "0.003"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus, and a checkpoint without a masked-LM head whose tokenizer is of another corpus."""
    folder = tmp_path_factory.mktemp("start")
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(WORDS) + 1)
    lines = [" ".join(rng.choice(WORDS, 8, p=share / share.sum())) for _ in range(600)]
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("\n".join(lines) + "\n")
    tokenizer = train_wordpiece([" ".join(WORDS)] * 2, 400, "start")
    config = Config(
        family="bert", vocab_size=tokenizer.get_vocab_size() + 3, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    model = Model(config, initial_params(config, 7))
    model.tokenizer = tokenizer
    model.save(folder / "encoder")
    return folder


def start(place, out, steps=12, *more):
    given = ["-m", "bertcraft.cli", "pretrain", "masked_lm", "--from", place / "encoder", "--corpus", place / "texts", *BASE]
    every = [sys.executable, *given, "--steps", steps, "--out", out, *more]
    return subprocess.Popen(list(map(str, every)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# ------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize(("family", "head"), production.PAIRS)
def test_every_checkpoint_becomes_a_masked_language_model_and_keeps_a_head_that_it_has(family, head):
    config, params = production.ours(production.make(family, head, 3), family, head)
    frequency = np.log(np.random.default_rng(0).dirichlet(np.ones(config.vocab_size)))
    new, made = with_masked_lm_head(config, params, frequency)
    assert new.head == "masked_lm" and new.family == family
    flat, before = dict(tree.items(made)), dict(tree.items(params))
    assert {name: leaf.shape for name, leaf in flat.items()} == parameter_shapes(new)
    assert all(leaf is before[name] for name, leaf in flat.items() if name in before)
    if head in WITH_HEAD:
        assert flat.keys() <= before.keys()
        return
    dense, norm, _, output = heads.masked_lm_head(made, new)
    np.testing.assert_array_equal(output["bias"], frequency)
    assert output["weight"] is made[family]["embeddings"]["word_embeddings"]["weight"]  # tied
    assert (norm["weight"] == 1).all() and not norm["bias"].any()
    words = np.random.default_rng(1).standard_normal((5, config.embedding_size))
    widened = made[family].get("embeddings_project") or made[family].get("encoder", {}).get("embedding_hidden_mapping_in")
    hidden = words if widened is None else words @ widened["weight"].T + widened["bias"]
    if config.embedding_size <= config.hidden_size:  # else the map between them loses something
        np.testing.assert_allclose(hidden @ dense["weight"].T + dense["bias"], words, atol=1e-6)


def test_a_classifier_leaves_its_labels_behind():
    labelled = Config(
        family="bert", head="sequence_classification", vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, problem_type="single_label_classification",
    )  # fmt: skip
    new, _ = with_masked_lm_head(labelled, initial_params(labelled, 0), np.zeros(30))
    assert (new.num_labels, new.id2label, new.problem_type) == (2, None, None)


# ------------------------------------------------------------------------------------------------ what is trained


@settings(deadline=None, max_examples=40)
@given(
    family=st.sampled_from(["bert", "roberta", "electra", "distilbert", "deberta"]), seed=st.integers(0, 50),
    share=st.floats(0, 1),
)  # fmt: skip
def test_top_n_is_the_head_and_the_last_n_layers(family, seed, share):
    config, params = production.ours(production.make(family, "masked_lm", seed), family, "masked_lm")
    count = config.num_hidden_layers
    number = 1 + round(share * (count - 1))
    top, head = (trained_names(config, params, train) for train in (f"top:{number}", "head"))
    names = {name for name, _ in tree.items(params)}
    assert trained_names(config, params, "all") == names
    assert head == {name for name in names if not name.startswith(f"{family}.")}
    layers = {int(name.split("layer.")[1].split(".")[0]) for name in top - head}
    assert layers == set(range(count - number, count))
    for layer in layers:
        every = {name for name in names if f".layer.{layer}." in name}
        assert every <= top
    with pytest.raises(InputError, match=f"got 'top:{count + 1}', but the model has {count} layers"):
        trained_names(config, params, f"top:{count + 1}")


def test_layers_that_share_their_parameters_have_no_top():
    config, params = production.ours(production.make("albert", "masked_lm", 1, num_hidden_groups=1), "albert", "masked_lm")
    with pytest.raises(InputError, match="share their parameters; give all or head"):
        trained_names(config, params, "top:1")
    assert not any(name.startswith("albert.") for name in trained_names(config, params, "head"))


@pytest.mark.parametrize("train", ["top", "top:0", "top:-1", "top:x", "some", "", "top:2 "])
def test_other_words_for_what_is_trained_are_refused(train):
    with pytest.raises(InputError, match="expected all, head, or top:N"):
        trained_names(None, {}, train)


@pytest.mark.parametrize("train", ["all", "head", "top:2"])
def test_both_backends_have_one_loss_curve_and_change_only_what_is_trained(place, train):
    jax = pytest.importorskip("jax")
    opened = open_start(place / "encoder", 16)
    wide = tree.map(np.float64, opened.model.params)
    config, params = with_masked_lm_head(opened.model.config, wide, np.zeros(opened.model.config.vocab_size))
    goal = continued(config, params, trained_names(config, params, train), opened.vocabulary, dropout=0.0)
    rows = np.random.default_rng(0).integers(5, 60, (64, 16)).astype(np.int32)
    rule = chain(clip_by_global_norm(1.0), adamw(3e-3))

    def steps(engine):
        first = goal.initial(0, np.float64)
        batch = lambda step: goal.batch(rows[8 * step % 64 :][:8], np.arange(8 * step, 8 * step + 8), 0)  # noqa: E731
        return fit_on(engine, first, rule.init(first), batch, 20, seed=0)

    with jax.enable_x64(True):
        loss = lambda changed, batch, rng: goal.loss(merged(changed, goal.fixed), batch, rng)  # noqa: E731
        ours = steps(numpy_engine(sharded_value_and_grad(loss, shard_size=3, weight=goal.weight), rule))
        make = partial(xla_engine, goal.loss, rule, seed=0, weight=goal.weight, fixed=goal.fixed, blank=with_blank_rows)
        for engine in (make(), make(sharded=True, accumulate=2)):
            theirs = steps(engine)
            assert np.abs(theirs.losses / ours.losses - 1).max() < 1e-9
    changed = {name for name, leaf in tree.items(ours.params) if (leaf != dict(tree.items(params))[name]).any()}
    expected = trained_names(config, params, train)
    assert set(dict(tree.items(ours.params))) == expected
    assert {name for name in expected if not name.endswith("key.bias")} == changed - {
        n for n in changed if n.endswith("key.bias")
    }
    (_, complete), *_ = goal.models(ours.params).values()
    for name, leaf in tree.items(params):
        assert name in expected or dict(tree.items(complete))[name] is leaf


# ----------------------------------------------------------------------------------------------------- the tokenizer


def byte_pairs():
    """A tokenizer as RoBERTa has it: its mask is the last id."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=150, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]))
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def test_words_are_the_ids_between_the_special_ones(place):
    tokenizer = byte_pairs()
    size = tokenizer.get_vocab_size()
    assert (frame_ids(tokenizer), mask_id(tokenizer), word_ids(tokenizer)) == ((0, 2), size - 1, (4, size - 1))
    opened = open_start(place / "encoder", 16)
    size = opened.model.tokenizer.get_vocab_size()
    assert opened.vocabulary == {"mask_id": 4, "first_word_id": 5, "vocab_size": size}
    minilm = open_start(bc.data.weights("minilm"), 32)
    assert minilm.vocabulary == {"mask_id": 103, "first_word_id": 104, "vocab_size": 30522}


def test_a_roberta_goes_on_with_its_own_mask_and_frame(place, tmp_path):
    tokenizer = byte_pairs()
    config = Config(
        family="roberta", vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=20,
    )  # fmt: skip
    model = Model(config, initial_params(config, 0))
    model.tokenizer = tokenizer
    model.save(tmp_path / "roberta")
    status, _, errors = finish(start(place, tmp_path / "out", 12, "--from", tmp_path / "roberta"))
    assert status == 0, errors
    found = bc.load(tmp_path / "out" / "model")
    assert (found.config.family, found.config.head) == ("roberta", "masked_lm")
    assert found.tokenizer.to_str() == bc.load(tmp_path / "roberta").tokenizer.to_str()
    told = json.loads((tmp_path / "out" / "held_out.json").read_text())
    assert told["after"]["loss"] < told["before"]["loss"]
    opened = open_start(tmp_path / "roberta", 16)
    goal = continued(found.config, found.params, set(), opened.vocabulary)
    rows = np.full((50, 16), 20, np.int32)
    rows[:, 0], rows[:, -1] = 0, 2
    shown = goal.batch(rows, np.arange(50), 0)["input_ids"]
    assert set(np.unique(shown)) >= {0, 2, 20, mask_id(tokenizer)} and (shown[:, 0] == 0).all() and (shown[:, -1] == 2).all()


# -------------------------------------------------------------------------------------------------- the command itself


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_folder_opens_in_transformers_with_equal_logits_and_the_figures_are_told(place, tmp_path, backend):
    import torch
    import transformers

    status, output, errors = finish(start(place, tmp_path / "out", 60, "--train", "top:1", "--backend", backend))
    assert status == 0, errors
    assert output.strip() == str(tmp_path / "out" / "model")
    theirs, found = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    ours = bc.load(tmp_path / "out" / "model")
    ids = np.random.default_rng(0).integers(5, 60, (3, 11))
    with torch.no_grad():
        np.testing.assert_allclose(ours(ids).logits, theirs(torch.tensor(ids)).logits.numpy(), atol=1e-5)
    before, after = (dict(tree.items(bc.load(path).params)) for path in (place / "encoder", tmp_path / "out" / "model"))
    for name in set(before) & set(after):
        assert (before[name] == after[name]).all() != (".layer.2." in name), name
    assert (place / "encoder" / "tokenizer.json").read_bytes() == (tmp_path / "out" / "model" / "tokenizer.json").read_bytes()
    assert bc.load(place / "encoder").config.hidden_dropout_prob == ours.config.hidden_dropout_prob

    told = json.loads((tmp_path / "out" / "held_out.json").read_text())
    assert told["steps"] == 60 and told["positions"] > 20
    assert told["after"]["loss"] < told["before"]["loss"] and 3 < told["unigram"] < 6
    for figure in (told["unigram"], told["before"]["loss"], told["after"]["loss"]):
        assert f"{figure:.3f}" in errors
    measured = {line["step"]: line["held_out_loss"] for line in steps_of(tmp_path / "out") if "held_out_loss" in line}
    assert list(measured) == [12, 24, 36, 48, 60] and measured[60] == told["after"]["loss"]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_run_that_was_killed_ends_with_the_same_bits(place, tmp_path, backend):
    options = [200, "--train", "top:2", "--backend", backend, "--save-every", 0]
    assert finish(start(place, tmp_path / "whole", *options))[0] == 0
    process = start(place, tmp_path / "killed", *options)
    wait_for(lambda: taken(tmp_path / "killed") > 20)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -9
    assert taken(tmp_path / "killed") < 200
    assert finish(start(place, tmp_path / "killed", *options))[0] == 0
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")
    read = [(folder / "held_out.json").read_text() for folder in (tmp_path / "killed", tmp_path / "whole")]
    assert read[0] == read[1]


def test_a_run_does_not_go_on_from_another_checkpoint(place, tmp_path):
    assert finish(start(place, tmp_path / "out"))[0] == 0
    model = bc.load(place / "encoder")
    model.params["bert"]["embeddings"]["LayerNorm"]["bias"][0] += 1
    model.save(tmp_path / "other")
    status, _, errors = finish(start(place, tmp_path / "out", 12, "--from", tmp_path / "other"))
    assert status == 2 and "start: '" in errors and "belongs to another run" in errors, errors


def without_mask(place, folder):
    from tokenizers import Tokenizer

    model = bc.load(place / "encoder")
    text = model.tokenizer.to_str().replace("[MASK]", "[GONE]")
    model.tokenizer = Tokenizer.from_str(text)
    model.save(folder)
    (folder / "vocab.txt").unlink()
    return folder


def test_a_tokenizer_without_a_mask_is_refused(place, tmp_path):
    status, _, errors = finish(start(place, tmp_path / "out", 12, "--from", without_mask(place, tmp_path / "model")))
    assert status == 2 and "its tokenizer has no mask token ([MASK] or <mask>)" in errors, errors
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(place, tmp_path):
    model = bc.load(place / "encoder")
    model.save(tmp_path / "model")
    save_tokenizer(
        train_wordpiece([" ".join(WORDS) + " other words are many more than those of it"] * 3, 400, "large"), tmp_path / "model"
    )
    with pytest.raises(InputError, match="this is not the tokenizer of this model"):
        open_start(tmp_path / "model", 16)


def test_a_tokenizer_that_does_not_frame_a_text_is_refused():
    tokenizer = byte_pairs()
    tokenizer.post_processor = None
    with pytest.raises(DataError, match="expected one special token before and one after it"):
        frame_ids(tokenizer)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train", "top:4"], "train: got 'top:4', but the model has 3 layers"),
        (["--train", "layers"], "train: got 'layers', expected all, head, or top:N"),
        (["--size", "tiny"], "--size and --from contradict each other"),
        (["--architecture", "bert"], "--architecture and --from contradict each other: the checkpoint brings"),
        (["--vocabulary", 400], "--vocabulary and --from contradict each other"),
        (["--length", 41], "length: got 41 tokens in a row, this model takes at most 40; give a smaller --length"),
        (["--from", "nowhere/at/all"], "no such folder"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(place, tmp_path, more, said):
    status, output, errors = finish(start(place, tmp_path / "out", 12, *more))
    assert (status, output) == (2, "")
    assert said in errors and errors.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["electra", "--from", "minilm"], "objective: got 'electra', expected masked_lm, which alone goes on from a checkpoint"),
        (["masked_lm", "--train", "head"], "--train says what of a checkpoint is trained: give --from MODEL as well"),
    ],
)
def test_options_that_contradict_are_refused(place, tmp_path, given, said):
    command = ["-m", "bertcraft.cli", "pretrain", *given, "--corpus", place / "texts", "--steps", 1, "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "out").exists()
