"""The canonical pictures: every text fits where it stands, and what does not fit is refused."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.errors import InputError
from bertcraft.lab import drawing


def texts_and_boxes(s):
    """(text, its extent, the patch around it) of each box drawn, in pixels."""
    axes, renderer = s.figure.axes[0], s._renderer
    centres = {(text.get_position()): text for text in axes.texts}
    for patch in axes.patches:
        extent = patch.get_window_extent(renderer)
        x, y = axes.transData.inverted().transform(((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2))
        for (text_x, text_y), text in centres.items():
            if abs(text_x - x) < 1e-6 and abs(text_y - y) < 1e-6:
                yield text.get_text(), text.get_window_extent(renderer), extent


WORDS = st.text("abcdefgh [MASK]_Wg", min_size=1, max_size=14).filter(str.strip)


@settings(max_examples=25, deadline=None)
@given(words=st.lists(WORDS, min_size=3, max_size=3), kind=st.sampled_from(sorted(drawing.KINDS)))
def test_every_text_fits_inside_its_box(words, kind):
    with drawing.schematic(columns=3, rows=2) as s:
        for i, text in enumerate((*words, "\n".join(words))):
            s.box(text, at=(i % 3, i // 3), kind=kind)
        found = list(texts_and_boxes(s))
    assert len(found) == 4
    for _, inner, outer in found:
        assert outer.x0 < inner.x0 and inner.x1 < outer.x1 and outer.y0 < inner.y0 and inner.y1 < outer.y1


def test_a_text_that_does_not_fit_is_refused_with_what_to_do():
    with drawing.schematic(columns=4, rows=1) as s:
        with pytest.raises(InputError, match="the box 'the chef cooked the meal' needs .*break the text into lines"):
            s.box("the chef cooked the meal", at=(0, 0))
        one, other = s.box("one", at=(0, 0)), s.box("other", at=(1, 0))
        with pytest.raises(InputError, match="the label .* inches, its arrow"):
            s.arrow(one, other, "(batch, length, hidden)")


@pytest.mark.parametrize(
    ("at", "kind", "told"),
    [((4, 0), "step", "is no cell of a drawing of 2 columns and 1 rows"), ((0, 0), "shiny", "expected one of data, step, new")],
)
def test_a_place_or_kind_that_is_none_is_told(at, kind, told):
    with drawing.schematic(columns=2, rows=1) as s, pytest.raises(InputError, match=told):
        s.box("x", at=at, kind=kind)


def test_an_arrow_leaves_and_arrives_at_the_edges():
    with drawing.schematic(columns=3, rows=3) as s:
        left, right, below, far = (s.box("x", at=at) for at in ((0, 0), (2, 0), (0, 2), (2, 2)))
        assert s._ends(left, right) == ((left.x + left.half_width, left.y), (right.x - right.half_width, right.y))
        assert s._ends(right, left) == ((right.x - right.half_width, right.y), (left.x + left.half_width, left.y))
        assert s._ends(left, below) == ((left.x, left.y - left.half_height), (left.x, below.y + below.half_height))
        (x, y), _ = s._ends(left, far)
        on_a_side = abs(x - left.x) == pytest.approx(left.half_width) or abs(y - left.y) == pytest.approx(left.half_height)
        assert on_a_side and x > left.x and y < left.y


def test_the_same_drawing_has_the_same_bytes():
    def draw() -> bytes:
        with drawing.schematic(columns=2, rows=2) as s:
            a, b, c = s.box("a", at=(0, 0)), s.box("b", at=(1, 0), kind="new"), s.box("c", at=(1, 1), kind="frozen")
            s.arrow(a, b, "(B, L)")
            s.arrow(b, c, "$x$")
            s.arrow(a, c, bend=0.2)
            s.frame("all", a, b, c)
            s.note("a note", at=(0, 1))
        picture = io.BytesIO()
        s.figure.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()

    assert draw() == draw()
