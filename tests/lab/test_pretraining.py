"""The lab's small-scale pretraining: parts that share no text, batches that depend on the step alone, a run that resumes."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Context
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree

SETTING = pretraining.Setting(
    vocab_size=2048, length=24, texts=300, held_out=200, hidden=64, batch=20, shard=8, steps=30, warmup=3, evaluations=3
)
PACKED = replace(SETTING, corpus="chitchat", packed=True)


@pytest.fixture(scope="module")
def texts():
    return pretraining.prepare(SETTING)


@pytest.fixture(scope="module")
def start(texts):
    config = pretraining.config_of(SETTING, len(texts.log_frequency))
    return config, pretraining.initial(config, texts, 0)


def trained(texts, start, setting=SETTING, **more):
    config, params = start
    held_out = HeldOut(texts.held_out, texts)
    options = {"seed": 0, "context": Context(), "signature": {}, "evaluate": lambda p: held_out(p, config)} | more
    return pretraining.train(
        setting, params, lambda p, batch, rng: masking.masked_lm_loss(p, batch, rng, config),
        pretraining.batch_maker(setting, texts, 0), **options,
    )  # fmt: skip


@pytest.mark.parametrize("setting", [SETTING, PACKED], ids=["a row a text", "packed"])
def test_rows_have_one_length_and_the_parts_share_no_row(setting):
    texts = pretraining.prepare(setting)
    rows = {part: getattr(texts, part) for part in pretraining.PARTS}
    assert {part: each.shape for part, each in rows.items()} == {"train": (300, 24), "dev": (200, 24), "held_out": (200, 24)}
    assert all((each[:, 0] == 2).all() and each.dtype == np.int32 for each in rows.values())
    if setting.packed:
        assert all((each[:, -1] == 3).all() and (each != 0).all() for each in rows.values())
    long = {part: {row.tobytes() for row in each if (row != 0).sum() > 8} for part, each in rows.items()}
    assert len(long["train"]) > 100
    assert not long["train"] & long["held_out"] and not long["train"] & long["dev"] and not long["dev"] & long["held_out"]


def test_log_frequency_is_that_of_the_training_rows(texts):
    assert np.exp(texts.log_frequency).sum() == pytest.approx(1)
    words = texts.train[texts.train >= 5]
    most = np.bincount(words).argmax()
    assert texts.log_frequency.argmax() == most
    assert np.exp(texts.log_frequency[most]) == pytest.approx((words == most).mean(), rel=0.5)
    assert (texts.log_frequency[:5] < texts.log_frequency[5:].min()).all()


def test_a_batch_depends_on_the_step_alone_and_an_epoch_reads_each_text_once(texts):
    make_batch = pretraining.batch_maker(SETTING, texts, 0)
    again = pretraining.batch_maker(SETTING, texts, 0)
    assert all(np.array_equal(make_batch(7)[key], again(7)[key]) for key in ("input_ids", "at", "labels", "attention_mask"))
    assert not np.array_equal(make_batch(7)["input_ids"], pretraining.batch_maker(SETTING, texts, 1)(7)["input_ids"])
    read = []
    for step in range(300 // 20):
        batch = make_batch(step)
        ids, counted = batch["input_ids"].copy(), batch["labels"] >= 0
        rows = np.broadcast_to(np.arange(20)[:, None], counted.shape)
        ids[rows[counted], batch["at"][counted]] = batch["labels"][counted]
        read += [row.tobytes() for row in ids]
        lengths = batch["attention_mask"].sum(axis=1)
        assert (np.diff(lengths) <= 0).all(), "the longest first, so that shards are trimmed"
    assert sorted(read) == sorted(row.tobytes() for row in texts.train)


def test_training_learns_and_evaluates_as_often_as_asked(texts, start):
    result = trained(texts, start, replace(SETTING, rate=5e-3))
    assert [step for step, _ in result.evaluations] == [10, 20, 30]
    assert result.evaluations[-1][1]["loss"] < result.evaluations[0][1]["loss"]
    assert result.losses[-5:].mean() < result.losses[:5].mean()


def test_neither_threads_nor_an_interruption_changes_a_bit(texts, start, tmp_path):
    whole = trained(texts, start)
    two = trained(texts, start, context=Context(threads=2))
    context = Context(folder=tmp_path)
    first = trained(texts, start, context=context, steps=12)
    resumed = trained(texts, start, context=context)
    assert first.losses.tolist() == whole.losses[:12].tolist(), "the first steps are those of the whole run"
    for other in (two, resumed):
        assert other.losses.tolist() == whole.losses.tolist()
        assert all(np.array_equal(a, b) for a, b in zip(tree.leaves(other.params), tree.leaves(whole.params), strict=True))


def test_progress_is_told_in_steps(texts, start):
    told = []
    trained(texts, start, steps=5, context=Context(report=lambda done, total, text: told.append((done, total, text))))
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5]
    assert "loss" in told[-1][2] and "tokens/s" in told[-1][2]
