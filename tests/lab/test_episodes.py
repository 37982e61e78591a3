"""Episodes: what they hold, that nothing leaks, that they repeat; vectors against the library's own sentence vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bertcraft
from bertcraft import data
from bertcraft.data.tasks import Split, Task
from bertcraft.data.text import signature
from bertcraft.errors import InputError
from bertcraft.lab import episodes


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(7, 20), min_size=5, max_size=12), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 2**31), st.integers(0, 1000),
)  # fmt: skip
def test_an_episode_holds_different_classes_and_texts(sizes, ways, shots, queries, seed, number):
    allowed = np.arange(len(sizes))[: max(ways, len(sizes) - 2)]
    drawn = episodes.episode(sizes, allowed, ways, shots, queries, seed, 0, number)
    assert len(set(drawn.classes)) == ways and set(drawn.classes) <= set(allowed)
    assert drawn.support.shape == (ways, shots) and drawn.query.shape == (ways, queries)
    for c, support, query in zip(*drawn, strict=True):
        assert len({*support, *query}) == shots + queries, "no text is asked about that was shown, none stands there twice"
        assert max(*support, *query) < sizes[c]
    again = episodes.episode(sizes, allowed, ways, shots, queries, seed, 0, number)
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
    more = episodes.episode(sizes, allowed, ways, shots + 1, queries, seed, 0, number)
    assert np.array_equal(more.classes, drawn.classes) and np.array_equal(more.support[:, :shots], drawn.support)


def test_episodes_differ_by_seed_stream_and_number_and_treat_classes_alike():
    draw = lambda *key: episodes.episode([9] * 20, np.arange(20), 5, 1, 3, *key)  # noqa: E731
    first = draw(0, 0, 0)
    for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not np.array_equal(draw(*key).classes, first.classes)
    counts = np.bincount(np.concatenate([draw(0, 0, number).classes for number in range(800)]), minlength=20)
    assert abs(counts - 200).max() < 60  # 4.3 standard deviations


def test_too_few_classes_or_texts_are_refused():
    with pytest.raises(InputError, match="5 classes .* got 3 classes"):
        episodes.episode([9, 9, 9], [0, 1, 2], 5, 1, 1, 0, 0, 0)
    with pytest.raises(InputError, match="got class 1 with 3 texts"):
        episodes.episode([9, 3], [0, 1], 2, 2, 2, 0, 0, 0)
    with pytest.raises(InputError, match="cannot split 10 classes into 8"):
        episodes.class_split(10, 0, 8, 2)


def test_class_splits_share_no_class_and_validation_is_never_tested():
    splits = [episodes.class_split(150, seed, 90, 20) for seed in range(6)]
    for split in splits:
        assert [len(part) for part in split] == [90, 20, 40]
        assert len(set(np.concatenate(split))) == 150
        assert np.array_equal(split.validation, splits[0].validation)
    assert len({tuple(split.test) for split in splits}) == 6


def test_a_pool_has_each_text_once():
    texts = ["How much?", "how much", "Where is it", "who", "Who!", "when", "why"]
    split = Split(texts, np.array([0, 0, 0, 1, 0, 1, 1]))
    task = Task("toy", ["a", "b"], split, Split(["WHERE is it?"], np.array([0])), Split(["what now"], np.array([1])), ())
    pool = episodes.pool(task, 10)
    assert pool.classes == ["a", "b"]
    assert sorted(map(signature, pool.texts[0])) == ["how much", "where is it"]
    assert sorted(pool.texts[1]) == ["what now", "when", "why"], "a text with two labels belongs to neither"
    assert [len(own) for own in episodes.pool(task, 1).texts] == [1, 1]


@pytest.mark.parametrize("name", ["clinc150", "hwu64", "banking77"])
def test_the_pools_of_the_experiment_are_large_enough_and_overlap_nowhere(name):
    pool = episodes.pool_of(name, 25)
    assert min(map(len, pool.texts)) == 25
    marks = [signature(text) for own in pool.texts for text in own]
    assert len(set(marks)) == len(marks)
    assert pool.classes == data.task(name).labels


def test_vectors_are_the_encoders_and_tasks_hold_the_right_ones():
    source = episodes.Source("hwu64", 7, 6, classes=[5, 2, 40, 9])
    task = source.task(4, 1, 2, 0, 0, 0)
    assert task.support["x"].dtype == np.float32 and task.support["x"].shape == (4, 384)
    drawn = episodes.episode(source.sizes, source.classes, 4, 1, 2, 0, 0, 0)
    pool, model = episodes.pool_of("hwu64", 7), bertcraft.load(data.weights("minilm"))
    for batch, numbers in zip(task, (drawn.support, drawn.query), strict=True):
        texts = [pool.texts[c][i] for c, own in zip(drawn.classes, numbers, strict=True) for i in own]
        np.testing.assert_allclose(batch["x"], model.encode(texts), atol=2e-6)
        assert np.array_equal(source.classes[batch["classes"]], np.repeat(drawn.classes, numbers.shape[1]))
    third = episodes.Source("hwu64", 7, 3, classes=[5, 2, 40, 9]).task(4, 1, 2, 0, 0, 0)
    assert np.abs(third.support["x"] - task.support["x"]).max() > 0.05


def test_cutting_a_task_keeps_each_class_together():
    task = episodes.Source("hwu64", 7, 6, classes=[5, 2, 40, 9]).task(4, 1, 2, 0, 0, 0)
    parts = episodes.cut(task, 2)
    for name in ("x", "classes"):
        for i in range(2):
            assert np.array_equal(np.concatenate([part[i][name] for part in parts]), task[i][name])
    assert all(part.query["labels"].tolist() == [0, 0, 1, 1] and part.support["labels"].tolist() == [0, 1] for part in parts)
