"""bertcraft: techniques that made BERT better, in plain NumPy.

Importing it imports NumPy and nothing else; everything below is loaded when it is first used.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "Config": "bertcraft.bert",
    "Model": "bertcraft.bert",
    "Tensor": "bertcraft.tensor",
    "check_grads": "bertcraft.tensor.check",
    "grad": "bertcraft.tensor",
    "load": "bertcraft.bert",
    "stop_gradient": "bertcraft.tensor",
    "value_and_grad": "bertcraft.tensor",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bertcraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
