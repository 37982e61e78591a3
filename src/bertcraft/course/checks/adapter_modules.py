"""The checkers of lesson 12: counting adapters, LoRA's start, attention with a prefix, settings for peft, a decision."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, described, same
from bertcraft.tensor import functions as F


def _close(got, expected) -> bool:
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-9))


def _check_count(function) -> None:
    for size, hidden, layers in ((3, 8, 3), (64, 768, 12), (8, 1024, 24)):
        one, what = 2 * size * hidden + size + hidden, f"size {size}, {hidden} numbers a token, {layers} layer(s)"
        got, expected = function(size, hidden, layers), 2 * layers * one
        for value, message in (
            (
                layers * one,
                "that is one adapter a layer: there are two, one behind the attention, one behind the feed-forward half",
            ),
            (2 * one, "that is the count of one layer: multiply by the number of layers"),
            (one, "that is a single adapter: there are two in every layer"),
            (4 * layers * size * hidden, "the biases are missing: r numbers down and H numbers up in each adapter"),
            (2 * layers * (2 * size * hidden + size), "the bias of the way up, H numbers in each adapter, is missing"),
            (2 * layers * (2 * size * hidden + hidden), "the bias of the way down, r numbers in each adapter, is missing"),
            (2 * layers * (2 * size * hidden + 2 * hidden), "the bias of the way down has r numbers, not H"),
            (2 * layers * (2 * size * hidden + 2 * size), "the bias of the way up has H numbers, not r"),
            (expected + 4 * layers * hidden, "the layer norms count only with norms=True"),
        ):
            if value != expected and np.ndim(got) == 0 and got == value:
                raise Wrong(f"{what}: {message}")
        same(got, expected, f"the count for {what}")
        got, expected = function(size, hidden, layers, norms=True), expected + 4 * layers * hidden
        if got == expected - 2 * layers * hidden:
            raise Wrong(f"norms=True, {what}: a layer has two norms, each with a weight *and* a bias: 4 H numbers a layer")
        if got == expected - 4 * layers * hidden:
            raise Wrong("norms=True gives the same count as norms=False: the layer norms are trained, so count them")
        same(got, expected, f"the count with norms=True for {what}")


def _check_start_lora(function) -> None:
    out, into, rank = 6, 8, 3
    got = function(out, into, rank, np.random.default_rng(2))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong("return two arrays, (A, B)")
    a, b = got
    for name, array, shape in (("A", a, (rank, into)), ("B", b, (out, rank))):
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise Wrong(f"{name} has shape {np.shape(array)}, expected {shape}")
        if array.dtype != np.float32:
            raise Wrong(f"{name} is {array.dtype}, expected float32: it would promote the frozen model")
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal(into), rng.standard_normal(out)
    gradient_b, gradient_a = np.outer(g, a @ x), np.outer(b.T @ g, x)
    if not a.any() and not b.any():
        raise Wrong(
            "A and B are both 0: then the derivative of B, scale g (A x)^T, is 0 because A is, and that of A, scale B^T g x^T, "
            "is 0 because B is. Neither ever moves"
        )
    if (b @ a).any():
        raise Wrong("B A is not 0, so the start changes the model: one of the two must be 0 (the paper: B)")
    if not gradient_a.any() and not gradient_b.any():
        raise Wrong("the first gradients of A and of B are both 0: this start never learns")
    if (got := np.linalg.matrix_rank(a if a.any() else b)) < rank:
        raise Wrong(
            f"the half that is not 0 has rank {got}, expected {rank}: rows that are multiples of each other get gradients that "
            "are, too, and stay so. Draw it from rng"
        )


def _check_attend_with_prefix(function) -> None:
    rng = np.random.default_rng(4)
    query, key, value = (rng.standard_normal((5, 4)) for _ in range(3))
    prefix = rng.standard_normal((2, 4)), rng.standard_normal((2, 4))

    def right(mask, before=prefix, own_mask=None):
        keys, values = np.concatenate([before[0], key]), np.concatenate([before[1], value])
        seen = np.concatenate([np.ones(len(before[0])), mask]) if own_mask is None else own_mask
        return F.attention(query[None], keys[None], values[None], F.padding_bias(seen[None], np.float64))[0]

    whole, padded = np.ones(5), np.array([1.0, 1, 1, 0, 0])
    for mask, what in ((whole, "without padding"), (padded, "with two tokens of padding")):
        got, expected = function(query, key, value, *prefix, mask), right(mask)
        if _close(got, right(mask, (prefix[0][:0], prefix[1][:0]))):
            raise Wrong(
                f"{what}: the result is that of the text alone; the prefix's keys and values come before the text's, unmasked"
            )
        if _close(got, right(mask, (prefix[0], 0 * prefix[1]))):
            raise Wrong(f"{what}: the prefix takes weight but hands over zeros: its values belong before the text's, too")
        if isinstance(got, np.ndarray) and got.shape == (7, 4):
            raise Wrong(f"{what}: there are 7 results for 5 tokens: a prefix has keys and values, but no queries")
        if _close(
            got,
            F.attention(2 * query[None], *(np.concatenate([p, t])[None] for p, t in zip(prefix, (key, value), strict=True)))[0],
        ):
            raise Wrong("the scores are not divided by the square root of D")
        if mask is padded:
            if _close(got, right(whole)):
                raise Wrong("with padding: the mask is not used, so tokens attend to padding")
            if _close(got, right(mask, own_mask=np.concatenate([mask, np.ones(2)]))):
                raise Wrong("with padding: the mask grew at its end, so the wrong places are hidden: the prefix stands first")
            if _close(got, right(mask, own_mask=np.concatenate([np.zeros(2), mask]))):
                raise Wrong("with padding: the prefix is masked out: it is always seen, so its mask is 1")
            keys, values = np.concatenate([prefix[0], key]), np.concatenate([prefix[1], value])
            for hidden in (query @ keys.T / 2 * np.concatenate([np.ones(2), mask]),):
                if _close(got, F.softmax(hidden) @ values):
                    raise Wrong(
                        "with padding: a score of 0 is no weight of 0 (e^0 = 1): masked scores become -inf, or very negative"
                    )
            weights = F.softmax(query @ keys.T / 2) * np.concatenate([np.ones(2), mask])
            if _close(got, weights @ values):
                raise Wrong(
                    "with padding: weights were set to 0 after the softmax, so the rest no longer sums to 1: mask the scores"
                )
        same(got, expected, f"attention with a prefix of 2, {what},")
    same(function(query, key, value, *prefix, 0 * whole), right(0 * whole), "attention where all of the text is padding")


def _check_peft_settings(function) -> None:
    got = function()
    if not isinstance(got, dict):
        raise Wrong(f"return a dict of keyword arguments; it got {described(got)}")
    known = ("r", "lora_alpha", "target_modules", "modules_to_save", "task_type", "lora_dropout", "bias")
    if unknown := sorted(set(map(str, got)) - set(known)):
        raise Wrong(f"{unknown[0]!r} is not needed here, and not checked: use {', '.join(known[:5])}")
    if got.get("r", 8) != 8:  # peft's default
        raise Wrong(f"r is {got['r']!r}, expected 8")
    if got.get("bias", "none") != "none":
        raise Wrong(f"bias={got['bias']!r} trains biases of the encoder, too: of the encoder only LoRA is to be trained")
    if got.get("task_type") not in (None, "SEQ_CLS"):
        raise Wrong(f"task_type is {got['task_type']!r}: a classifier of texts is 'SEQ_CLS'")
    if isinstance(got.get("modules_to_save"), str):
        raise Wrong("modules_to_save is a string, expected a list of names: peft would take its letters for names")
    targets, saved = (set(_names(got.get(key))) for key in ("target_modules", "modules_to_save"))
    if targets not in (set(), {"query", "value"}):  # nothing: peft's default for BERT, which is these two
        raise Wrong(f"target_modules is {sorted(targets)}: LoRA belongs on the queries and values, 'query' and 'value'")
    if "dense" in saved:
        raise Wrong("'dense' is the end of many names, such as encoder.layer.0.output.dense: name the pooler's as 'pooler.dense'")
    if got.get("task_type") == "SEQ_CLS":
        saved.add("classifier")
    if "classifier" not in saved and not saved & set(_POOLER):
        raise Wrong("the whole head is frozen: what is drawn at random, pooler and classifier, stays as it was drawn")
    if not saved & set(_POOLER):
        raise Wrong("the pooler is frozen at random numbers: task_type frees the classifier alone; name 'pooler.dense', too")
    if "classifier" not in saved:
        raise Wrong("the classifier is frozen at random numbers: name it in modules_to_save, or set task_type")
    if extra := sorted(saved - {"classifier", *_POOLER}):
        raise Wrong(f"modules_to_save names {extra[0]!r}, too: of the encoder only LoRA is to be trained")


_POOLER = ("pooler.dense", "pooler", "bert.pooler.dense", "bert.pooler")


def _names(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


EXERCISES = (
    Exercise(
        name="adapter_count", title="Count an encoder's adapters", stars=1, check=_check_count,
        hints=(
            "One adapter first: two matrices of r H numbers each, and a bias on each side.",
            "How many adapters are there in a layer? (Look at houlsby_wiring.)",
            "A layer norm has a weight and a bias of H numbers each, and a layer has two norms.",
        ),
    ),
    Exercise(
        name="start_lora", title="Find the bug: a start that never learns", stars=2, check=_check_start_lora,
        hints=(
            "Write down the derivative of B: which other matrix is a factor in it? And the other way round?",
            "A product is 0 if one factor is. The other need not be.",
        ),
    ),
    Exercise(
        name="attend_with_prefix", title="Attention with a prefix", stars=3, check=_check_attend_with_prefix,
        hints=(
            "np.concatenate([prefix_key, key]) is (prefix + L, D); the values go the same way, the queries stay.",
            "The mask needs a 1 in front for each place of the prefix, so that it has a place for every key.",
            "np.where(mask == 1, scores, -np.inf) before the softmax: e^-inf is 0.",
        ),
    ),
    Exercise(
        name="peft_settings", title="The frozen head", stars=2, check=_check_peft_settings,
        hints=(
            "Which parameters of the model were never trained by anybody? Those cannot stay frozen.",
            "modules_to_save takes a list of ends of module names: the classifier's, and the pooler's linear map.",
        ),
    ),
    Exercise(
        name="take", title="Twenty tasks", stars=2,
        check=decision({
            "arm": {
                "lora": "",
                "full": "twenty copies of 440 MB are 8.8 GB",
                "lora_merged": "a merged model is a whole model: twenty of them are 8.8 GB",
                "houlsby": "it fits and its interval lies above -1, but so does that of an arm with a third of its memory",
                "bitfit": "its interval reaches below -1 point: a loss that would be noticed is not excluded",
                "head": "its interval lies wholly below -1 point",
            },
            "because": {
                "a": "",
                "b": "no significant difference is no evidence of a small one: BitFit's interval holds 0, too",
                "c": "the head alone trains the fewest numbers, and loses ten points",
            },
            "unless": {
                "b": "",
                "a": "one seed of eleven is no surprise: the interval knows of the spread between seeds",
                "c": "other tasks, other models, and the best of many tries; what the server will see are your own tasks",
            },
        }),
        hints=(
            "1 GB less the base model leaves how much for each of 20 tasks? Which arms fit?",
            "A loss is excluded where the whole interval lies above -1 point.",
        ),
    ),
)  # fmt: skip
