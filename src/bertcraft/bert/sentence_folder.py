"""The files by which sentence-transformers says how a folder's vectors are made: read into a Pipeline, and written.

``modules.json`` names the modules in their order; each has a folder with its config.json and, for a Dense, its weights.
``sentence_bert_config.json`` has the longest input, ``config_sentence_transformers.json`` the prompts. What would change a
vector and is not known here is refused by its name: a wrong vector looks like a right one. Pickles are not opened.
"""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.bert.checkpoint_files import FLOATS, read_array, read_header, read_list, read_object
from bertcraft.bert.config import Config
from bertcraft.bert.sentence_modules import ACTIVATIONS, POOLINGS, Dense, LayerNorm, Normalize, Pipeline, Pooling
from bertcraft.errors import CheckpointError

MODULES, SETTINGS, WEIGHTS = "modules.json", "config_sentence_transformers.json", "model.safetensors"
# What the encoder's own settings may be called; the first that is there counts.
ENCODER_SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_OTHERWISE = f"encode with sentence-transformers, or remove {MODULES} to load the encoder alone (its vectors are others)"
LONGEST = 2**31 - 1  # tokens, for a model that can read any number of them
_SWITCHES = {  # how versions before 6 say the poolings
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def has_vectors(folder: Path) -> bool:
    """Whether a folder says how vectors are made. A cross-encoder's modules.json names one module: it judges, and has none."""
    if not (folder / MODULES).exists():
        return False
    settings = folder / SETTINGS
    crosses = settings.exists() and read_object(settings).get("model_type") == "CrossEncoder"
    return not (crosses and len(read_list(folder / MODULES)) == 1)


def encoder_folder(folder: Path) -> Path:
    """Where the encoder lies: the folder itself, or the one in it that modules.json names (old versions did so)."""
    if not has_vectors(folder):
        return folder
    return _modules(folder)[0][1]


def read(folder: Path, config: Config) -> Pipeline | None:
    """What the folder says of its vectors, or None where it says nothing.

    Raises CheckpointError, with the name of the module or setting, for what cannot be computed.
    """
    if not has_vectors(folder):
        return None
    (_, encoder), (_, place), *rest = _modules(folder)
    pooling = _pooling(place, config.hidden_size)
    width, modules = len(pooling.modes) * config.hidden_size, []
    for name, place in rest:
        if name == "Dense":
            modules.append(_dense(place, width))
            width = len(modules[-1].weight)
        elif name == "LayerNorm":
            tensors = _tensors(place, {"norm.weight": (width,), "norm.bias": (width,)})
            modules.append(LayerNorm(tensors["norm.weight"], tensors["norm.bias"]))
        elif name == "Normalize":
            if place != folder:  # one without a folder of its own has no settings
                _keys(place, "module_input_name", "module_output_name")
            modules.append(Normalize())
    return Pipeline(pooling, tuple(modules), **_encoder_settings(encoder, config), **_settings(folder))


def plain(folder: Path | None, config: Config) -> Pipeline:
    """What counts without modules.json: the mean over tokens, of texts that are cut where the folder's tokenizer says."""
    if folder is None:
        return Pipeline()
    longest, side, _ = _tokenizer_settings(folder)
    return Pipeline(max_length=int(min(longest, config.max_tokens)), truncation_side=side)


def reading(folder: Path, config: Config) -> tuple[int, str]:
    """Tokens of the longest text, and the side on which a longer one is cut, as transformers' own pipelines have it."""
    longest, side, _ = _tokenizer_settings(folder)
    return int(min(longest, LONGEST if config.position_biased_input is False else config.max_tokens)), side


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The modules by name with their folders: a Transformer, a Pooling, then any of the others."""
    file, found = folder / MODULES, []
    for number, entry in enumerate(read_list(file)):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("path"), str):
            raise CheckpointError(f"{file}: got {entry!r:.80} as a module, expected an object with a type and a path")
        kind, path = entry["type"], entry["path"].rstrip("/")
        if path and not re.fullmatch(r"[\w-][\w.-]*", path):  # nothing that leads out of the folder
            raise CheckpointError(f"{file}: got the path {path!r:.80}, expected the name of a folder beside it")
        name = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        known = {0: ("Transformer",), 1: ("Pooling",)}.get(number, ("Dense", "LayerNorm", "Dropout", "Normalize"))
        if name not in known:
            raise CheckpointError(
                f"{file}: module {number} is {kind!r:.100}, which bertcraft cannot compute there (expected "
                f"{' or '.join(known)}); {_OTHERWISE}"
            )
        found.append((name, folder / path))
    if len(found) < 2:
        raise CheckpointError(f"{file}: got {len(found)} modules, expected a Transformer and a Pooling; {_OTHERWISE}")
    return found


def _keys(place: Path, *known: str) -> dict[str, Any]:
    """A module's config.json, with no other keys than the known; empty where there is none."""
    file = place / "config.json"
    content = read_object(file) if file.exists() else {}
    for name in ("module_input_name", "module_output_name"):  # tokens instead of sentences, or a second output
        if content.get(name) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{file}: got {name} {content[name]!r:.80}, expected 'sentence_embedding'; {_OTHERWISE}")
    _refuse(file, content, known)
    return content


def _refuse(file: Path, content: dict, known) -> None:
    if unknown := sorted(content.keys() - {*known}):
        raise CheckpointError(f"{file}: got the setting {unknown[0]!r:.80}, which bertcraft does not know; {_OTHERWISE}")


def _wrong(file: Path, name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(f"{file}: {name}: got {value!r:.80}, expected {expected}")


def _pooling(place: Path, hidden_size: int) -> Pooling:
    widths = ("embedding_dimension", "word_embedding_dimension")
    content = _keys(place, "pooling_mode", "include_prompt", *widths, *_SWITCHES.values())
    file = place / "config.json"
    for name in widths:
        if name in content and content[name] != hidden_size:
            raise _wrong(file, name, content[name], f"{hidden_size}, the hidden size of the encoder")
    modes = content.get("pooling_mode")
    if modes is None:
        modes = [mode for mode in POOLINGS if content.get(_SWITCHES[mode])] or "mean"
    modes = (modes,) if isinstance(modes, str) else modes
    if not isinstance(modes, list | tuple) or not modes or not all(isinstance(m, str) and m in POOLINGS for m in modes):
        raise _wrong(file, "pooling_mode", content.get("pooling_mode"), f"one or a list of {', '.join(POOLINGS)}")
    include = content.get("include_prompt", True)
    if not isinstance(include, bool):
        raise _wrong(file, "include_prompt", include, "true or false")
    return Pooling(tuple(modes), include)


def _dense(place: Path, width: int) -> Dense:
    file = place / "config.json"
    known = "in_features out_features bias activation_function use_residual module_input_name module_output_name"
    content = _keys(place, *known.split())
    if content.get("in_features") != width:
        raise _wrong(file, "in_features", content.get("in_features"), f"{width}, the width of what comes before")
    out, bias, residual = content.get("out_features"), content.get("bias", True), content.get("use_residual", False)
    if not isinstance(out, int) or isinstance(out, bool) or out < 1:
        raise _wrong(file, "out_features", out, "an integer of at least 1")
    for name, value in (("bias", bias), ("use_residual", residual)):
        if not isinstance(value, bool):
            raise _wrong(file, name, value, "true or false")
    activation = content.get("activation_function", "torch.nn.Tanh")
    _, _, name = str(activation).rpartition(".")
    if not str(activation).startswith("torch.nn.") or name not in ACTIVATIONS:
        expected = f"one of torch's {', '.join(ACTIVATIONS)}; {_OTHERWISE}"
        raise _wrong(file, "activation_function", activation, expected)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, width)}
    if bias:
        shapes["linear.bias"] = (out,)
    if residual and out != width:
        shapes["residual.weight"] = (out, width)
    tensors = _tensors(place, shapes)
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), name, residual, tensors.get("residual.weight"))


def _tensors(place: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    file = place / WEIGHTS
    if not file.exists():
        pickled = (place / "pytorch_model.bin").exists()
        got = "only pytorch_model.bin, which can run any code and is never opened" if pickled else "none"
        raise CheckpointError(
            f"{place}: expected {WEIGHTS}, got {got}; open the whole folder with sentence-transformers where you trust it "
            "and save it again with save_pretrained(folder), which writes that file"
        )
    stored = read_header(file)
    if stored.keys() != shapes.keys():
        raise CheckpointError(f"{file}: got the tensors {sorted(stored)!r:.200}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if stored[name].shape != shape or stored[name].dtype not in FLOATS:
            raise _wrong(file, name, f"{stored[name].dtype} {stored[name].shape}", f"floating numbers of the shape {shape}")
    return {name: read_array(stored[name], np.dtype(np.float32)) for name in shapes}


def _encoder_settings(folder: Path, config: Config) -> dict[str, Any]:
    """The longest input, its cut side, and whether texts become lower case."""
    file = next((folder / name for name in ENCODER_SETTINGS if (folder / name).exists()), folder / ENCODER_SETTINGS[0])
    content = read_object(file) if file.exists() else {}
    # Of the multi-vector settings at the end none is used where sentences are encoded.
    known = "max_seq_length do_lower_case transformer_task modality_config module_output_name processing_kwargs unpad_inputs"
    arguments = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
    _refuse(file, content, (*known.split(), *arguments, "query_length", "document_length", "query_expansion"))
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    expected = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings", "processing_kwargs": {}}
    for name, value in (expected | {"modality_config": text}).items():
        if content.get(name, value) != value:
            raise _wrong(file, name, content[name], f"{value!r}; {_OTHERWISE}")
    lower = content.get("do_lower_case", False)
    if not isinstance(lower, bool):
        raise _wrong(file, "do_lower_case", lower, "true or false")
    harmless = ("trust_remote_code", "attn_implementation", "add_pooling_layer", "torch_dtype", "dtype", "use_fast")
    given: dict[str, Any] = {}
    for name in arguments:
        part = content.get(name) or {}
        if not isinstance(part, dict):
            raise _wrong(file, name, part, "an object")
        _refuse(file, part, (*harmless, "model_max_length") if name in ("tokenizer_args", "processor_kwargs") else harmless)
        given |= part
    named = given.get("model_max_length", content.get("max_seq_length"))
    longest, side, padding = _tokenizer_settings(folder, named)
    if padding != "right":
        raise _wrong(
            folder / "tokenizer_config.json", "padding_side", padding, "'right': with padding in front, sentence-transformers' "
            f"vector of a text depends on which texts are encoded with it; {_OTHERWISE}"
        )  # fmt: skip
    # Distances alone know no longest text: a DeBERTa without positions is cut where the folder says.
    room = LONGEST if named is not None and config.position_biased_input is False else config.max_tokens
    return {"max_length": int(min(longest, room)), "truncation_side": side, "lower_case": lower}


def _tokenizer_settings(folder: Path, longest: Any = None) -> tuple[float, str, str]:
    """The longest input, where it is not given (infinite where nothing says it), and the sides on which it is cut and padded."""
    file = folder / "tokenizer_config.json"
    settings = read_object(file) if file.exists() else {}
    if longest is None:
        longest = settings.get("model_max_length", settings.get("max_len"))
    if longest is None:
        longest = math.inf
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 3:
        raise _wrong(folder, "max_seq_length", longest, "at least 3 (a token between two special tokens)")
    stored = _stored_sides(folder / "tokenizer.json")
    side = settings.get("truncation_side", stored.get("truncation", "right"))
    if side not in ("left", "right"):
        raise _wrong(file, "truncation_side", side, "'left' or 'right'")
    return longest, side, settings.get("padding_side", stored.get("padding", "right"))


def _stored_sides(file: Path) -> dict[str, str]:
    """The sides of "truncation" and "padding" in a tokenizer.json, which stand at its beginning; its words are not read here."""
    if not file.exists():
        return {}
    with file.open("rb") as opened:
        head = opened.read(4096).decode("utf-8", "replace").partition('"added_tokens"')[0]
    pattern = r'"{}"\s*:\s*\{{.*?"direction"\s*:\s*"(\w+)"'
    found = {name: re.search(pattern.format(name), head, re.DOTALL) for name in ("truncation", "padding")}
    return {name: match[1].lower() for name, match in found.items() if match}


def _settings(folder: Path) -> dict[str, Any]:
    """Prompts and the like, with the two prompts that every model of sentence-transformers has."""
    file = folder / SETTINGS
    content = read_object(file) if file.exists() else {}
    if (kind := content.pop("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise _wrong(file, "model_type", kind, f"'SentenceTransformer'; {_OTHERWISE}")
    prompts = content.pop("prompts", None) or {}
    if not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in prompts.values()):
        raise _wrong(file, "prompts", prompts, "an object of texts")
    prompts = {"query": "", "document": ""} | {name: text or "" for name, text in prompts.items()}
    default, most = content.pop("default_prompt_name", None), content.pop("truncate_dim", None)
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise _wrong(file, "default_prompt_name", default, f"one of the prompts: {', '.join(map(repr, prompts))}")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise _wrong(file, "truncate_dim", most, "an integer of at least 1")
    return {"prompts": prompts, "default_prompt_name": default, "truncate_dim": most, "extra": content}


def writers(pipeline: Pipeline, config: Config) -> dict[str, Callable[[Path], None]]:
    """What writes each file, by its name in the folder; sentence-transformers then opens it with the same vectors."""
    from safetensors.numpy import save_file

    parts, width = [("Transformer", {}, {}), ("Pooling", _pooling_config(pipeline.pooling, config), {})], config.hidden_size
    width *= len(pipeline.pooling.modes)
    for module in pipeline.modules:
        content, tensors = {}, {}
        if isinstance(module, Dense):
            content, tensors = _dense_config(module, width)
            width = len(module.weight)
        elif isinstance(module, LayerNorm):
            content, tensors = {"dimension": width}, {"norm.weight": module.weight, "norm.bias": module.bias}
        parts.append((type(module).__name__, content, tensors))
    longest = config.max_tokens if pipeline.max_length is None else pipeline.max_length
    listed, files = [], {}
    for number, (name, content, tensors) in enumerate(parts):
        place = f"{number}_{name}" if number else ""
        # The names that every version of sentence-transformers opens.
        listed.append({"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{name}"})
        if number:
            files[f"{place}/config.json"] = _json(content)
        if tensors:
            arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
            files[f"{place}/{WEIGHTS}"] = partial(save_file, arrays, metadata={"format": "pt"})
    settings = {"prompts": pipeline.prompts, "default_prompt_name": pipeline.default_prompt_name}
    if pipeline.truncate_dim is not None:
        settings["truncate_dim"] = pipeline.truncate_dim
    files[ENCODER_SETTINGS[0]] = _json({"max_seq_length": longest, "do_lower_case": pipeline.lower_case})
    files[SETTINGS] = _json(pipeline.extra | settings)
    files[MODULES] = _json(listed)
    return files


def _pooling_config(pooling: Pooling, config: Config) -> dict[str, Any]:
    """Under the old names, which every version reads, unless the modes stand in an order that these cannot say."""
    content: dict[str, Any] = {"word_embedding_dimension": config.hidden_size, "include_prompt": pooling.include_prompt}
    if pooling.modes == tuple(mode for mode in POOLINGS if mode in pooling.modes):
        return content | {name: mode in pooling.modes for mode, name in _SWITCHES.items()}
    return content | {"pooling_mode": list(pooling.modes)}


def _dense_config(dense: Dense, width: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    kind = "linear" if dense.activation == "Identity" else "activation"
    content = {"in_features": width, "out_features": len(dense.weight), "bias": dense.bias is not None}
    content["activation_function"] = f"torch.nn.modules.{kind}.{dense.activation}"
    if dense.use_residual:
        content["use_residual"] = True
    tensors = {"linear.weight": dense.weight, "linear.bias": dense.bias, "residual.weight": dense.residual}
    return content, {name: array for name, array in tensors.items() if array is not None}


def _json(content: Any) -> Callable[[Path], None]:
    return partial(Path.write_text, data=json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
