"""Sliders where ipywidgets is installed; the same function with its defaults where it is not."""

import importlib.util
import inspect
import os

BUILDING = "BERTCRAFT_BUILDING"  # set while notebooks are built: a page keeps a picture, no widget


def play(function, choices: dict[str, list]) -> None:
    """Call ``function`` with its defaults and, where ipywidgets is installed, again at each move of a slider."""
    if os.environ.get(BUILDING) or importlib.util.find_spec("ipywidgets") is None:
        function()
        return
    import ipywidgets

    parameters = inspect.signature(function).parameters
    widgets = {
        name: ipywidgets.SelectionSlider(options=values, value=parameters[name].default, continuous_update=False)
        for name, values in choices.items()
    }
    ipywidgets.interact(function, **widgets)
