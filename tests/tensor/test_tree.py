"""Trees of arrays: mapped leaf by leaf, named, nested, compared in structure."""

from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcraft.tensor import tree

Pair = namedtuple("Pair", "left right")
keys = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.integers() | st.none(),
    lambda branch: (
        st.dictionaries(keys, branch, max_size=3)
        | st.lists(branch, max_size=3)
        | st.lists(branch, max_size=3).map(tuple)
        | st.builds(Pair, branch, branch)
    ),
    max_leaves=12,
)


@given(trees)
def test_map_keeps_the_structure_and_the_order_of_leaves(t):
    assert tree.map(lambda leaf: leaf, t) == t
    assert type(tree.map(lambda leaf: leaf, t)) is type(t)
    visited = []
    tree.map(visited.append, t)
    assert visited == tree.leaves(t) == [leaf for _, leaf in tree.items(t)]


@given(trees)
def test_map_over_several_trees_pairs_their_leaves(t):
    assert tree.leaves(tree.map(lambda a, b: [(a, b)], t, t)) == [x for leaf in tree.leaves(t) for x in (leaf, leaf)]


flat = st.recursive(st.integers(), lambda branch: st.dictionaries(keys, branch, min_size=1, max_size=3), max_leaves=9)


@given(st.dictionaries(keys, flat, max_size=3))
def test_nest_is_the_inverse_of_items(t):
    assert tree.nest(dict(tree.items(t))) == t


def test_names_join_keys_and_positions_with_dots():
    t = {"a": {"b": 1}, "c": [2, (3, Pair(4, 5))]}
    assert dict(tree.items(t)) == {"a.b": 1, "c.0": 2, "c.1.0": 3, "c.1.1.0": 4, "c.1.1.1": 5}
    assert list(tree.items(7)) == [("", 7)]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": 1}, {"y": 1}, r"expected the keys \['x'\], got \['y'\]"),
        ({"x": 1}, 5, r"expected the keys \['x'\], got int"),
        ([1, 2], [1], "expected 2 branches"),
        ({"x": [1]}, {"x": 1}, "expected 1 branches, got 1"),
    ],
)
def test_trees_of_different_structure_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        tree.map(lambda x, y: x, a, b)


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_a_name_cannot_be_leaf_and_branch(flat):
    with pytest.raises(ValueError, match="leaf"):
        tree.nest(flat)
