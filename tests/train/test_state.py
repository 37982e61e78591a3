"""A saved state comes back exactly or is refused; the one before survives what befalls the next."""

import json
import multiprocessing
import resource
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bertcraft.errors import InputError, TrainingError
from bertcraft.tensor import tree
from bertcraft.train.state import FILE, check_signature, check_structure, load_state, save_state

DTYPES = st.sampled_from("? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 >f4 >i8".split())
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
# No subnormal numbers: some libraries that other tests load switch them off for the whole process.
LEAVES = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES, elements={"allow_subnormal": False}))
TREES = st.recursive(
    LEAVES | LEAVES.map(np.transpose),
    lambda branch: (
        st.lists(branch, max_size=3)
        | st.lists(branch, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab0_ é", min_size=1, max_size=5), branch, max_size=3)
    ),
    max_leaves=6,
)


def assert_same(saved, loaded):
    assert type(saved) is type(loaded)
    if isinstance(saved, dict):
        assert list(saved) == list(loaded)
        for key in saved:
            assert_same(saved[key], loaded[key])
    elif isinstance(saved, (list, tuple)):
        assert len(saved) == len(loaded)
        for a, b in zip(saved, loaded, strict=True):
            assert_same(a, b)
    else:
        assert saved.shape == loaded.shape
        assert saved.dtype.newbyteorder("=") == loaded.dtype
        assert saved.astype(loaded.dtype).tobytes() == loaded.tobytes()
        assert loaded.flags.c_contiguous and loaded.flags.writeable


@settings(deadline=None)
@given(params=TREES, rule_state=TREES, step=st.integers(0, 2**60))
def test_every_tree_comes_back_exactly(tmp_path_factory, params, rule_state, step):
    folder = tmp_path_factory.mktemp("run")
    metadata = {"signature": {"name": "é", "rate": 0.1, "list": [1, None]}, "loss": np.float32(0.5)}
    save_state(folder / "new" / "folder", step, params, rule_state, metadata)
    step_, params_, rule_state_, metadata_ = load_state(folder / "new" / "folder")
    assert step_ == step and metadata_ == metadata
    assert_same(params, params_)
    assert_same(rule_state, rule_state_)
    shutil.rmtree(folder)


def simple(folder, step=5, size=1000):
    params = {"weight": np.full(size, step, np.float32)}
    save_state(folder, step, params, {"step": np.asarray(step)}, {"signature": {"seed": 1}})


def test_an_empty_or_missing_folder_holds_no_state(tmp_path):
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "missing") is None


def test_a_file_with_any_byte_changed_is_refused(tmp_path):
    simple(tmp_path, size=20)
    path = tmp_path / FILE
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match="Remove"):
            load_state(tmp_path)
    path.write_bytes(good)
    assert load_state(tmp_path)[0] == 5


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_truncated_or_foreign_file_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    simple(folder)
    good = (folder / FILE).read_bytes()
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    (folder / FILE).write_bytes(data.draw(st.sampled_from([cut, cut + bytes(len(good) - len(cut) + 1), good + b"x"])))
    with pytest.raises(TrainingError, match="Remove"):
        load_state(folder)


def test_a_model_is_not_a_state(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / FILE)
    with pytest.raises(TrainingError, match="not the state of a run"):
        load_state(tmp_path)


def test_what_a_killed_save_leaves_is_removed_and_not_believed(tmp_path):
    simple(tmp_path)
    leftover = tmp_path / "saving-abc"
    leftover.mkdir()
    (leftover / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-10])
    assert load_state(tmp_path)[0] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


def save_with_little_room(folder, limit, errors):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        simple(folder, step=6, size=100_000)
    except TrainingError as error:
        errors.put(str(error))


@pytest.mark.parametrize("limit", [0, 100, 5_000, 399_000])
def test_a_disk_that_fills_up_leaves_the_state_before(tmp_path, limit):
    simple(tmp_path, size=100_000)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=save_with_little_room, args=(tmp_path, limit, errors))
    process.start()
    process.join()
    assert process.exitcode == 0
    message = errors.get()
    assert "step 6 could not be saved" in message and "is intact" in message and "File too large" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]
    step, params, _, _ = load_state(tmp_path)
    assert step == 5 and np.all(params["weight"] == 5)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="no state was there before"):
        simple(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "params, metadata, message",
    [
        ({"a": None}, {}, "array of numbers"),
        ({"a": np.array(["x"])}, {}, "array of numbers"),
        ({1: np.zeros(2)}, {}, "must be text"),
        ({"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}, {}, "two leaves"),
        ({}, {"a": object()}, "JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, params, metadata, message):
    with pytest.raises(InputError, match=message):
        save_state(tmp_path, 1, params, {}, metadata)
    assert not list(tmp_path.iterdir())


def test_another_configuration_is_refused_with_both_values(tmp_path):
    saved = {"rate": 0.1, "data": "prose", "shape": [1, 2], "old": True}
    check_signature(tmp_path, json.loads(json.dumps(saved)), {**saved, "shape": (1, 2)})
    with pytest.raises(TrainingError) as error:
        check_signature(tmp_path, saved, {"rate": 0.2, "data": "prose", "shape": (1, 2), "new": 3})
    for part in ("rate: 0.1 there, 0.2 here", "old: True there", "new: nothing there, 3 here"):
        assert part in str(error.value)
    assert "prose" not in str(error.value) and "shape" not in str(error.value)


def test_another_structure_is_refused_with_both_shapes(tmp_path):
    one = {"a": np.zeros((2, 3)), "b": [np.zeros(1)]}
    check_structure(tmp_path, "parameter", one, tree.map(np.ones_like, one))
    for other, part in [
        ({**one, "a": np.zeros((3, 2))}, "a: float64 (2, 3) there, float64 (3, 2) here"),
        ({**one, "a": np.zeros((2, 3), np.float32)}, "float32 (2, 3) here"),
        ({"a": one["a"]}, "b.0: float64 (1,) there, nothing here"),
    ]:
        with pytest.raises(TrainingError) as error:
            check_structure(tmp_path, "parameter", one, other)
        assert part in str(error.value)
