"""Figures on a notebook's page."""

import numpy as np

from bertcraft.lab import style


def pictures(draw) -> list[bytes]:
    """The PNGs that a function displays when it runs in IPython."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.display_pub = CapturingDisplayPublisher()
        draw()
        return [output["data"]["image/png"] for output in shell.display_pub.outputs]
    finally:
        InteractiveShell.clear_instance()


def test_a_figure_is_shown_once_the_same_each_time_and_leaves_matplotlib_as_it_was():
    import matplotlib

    def draw():
        with style.shown(columns=2, width=5.0, height=2.0) as axes:
            assert np.shape(axes) == (2,)
            axes[0].plot([0, 1], [1, 0], **style.line(1))

    backend, size = matplotlib.get_backend(), matplotlib.rcParams["font.size"]
    (first,), (second,) = pictures(draw), pictures(draw)
    assert first == second
    assert (matplotlib.get_backend(), matplotlib.rcParams["font.size"]) == (backend, size)
    draw()  # outside of IPython nothing is shown
