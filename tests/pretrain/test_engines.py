"""One code: NumPy and XLA, whole batches and parts, one device and four, take the same steps."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bertcraft.errors import InputError
from bertcraft.pretrain import scaling
from bertcraft.pretrain.objectives import OBJECTIVES, objective, with_blank_rows
from bertcraft.pretrain.sizes import SIZES, config_of
from bertcraft.pretrain.xla import xla_engine
from bertcraft.techniques.mixed_precision_training import loss_scaling, mixed_precision
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear
from bertcraft.train.loop import fit_on, numpy_engine

jax = pytest.importorskip("jax")

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
VOCABULARY = {"mask_id": 4, "vocab_size": 60}
ROWS = np.random.default_rng(0).integers(5, 60, (64, 16)).astype(np.int32)
STEPS, BATCH = 50, 8
RULE = chain(clip_by_global_norm(1.0), adamw(warmup_linear(3e-3, 10, STEPS), b2=0.98, eps=1e-6))
SCALED = loss_scaling(RULE, 2.0**26, interval=6)  # too large a scale to begin with


def goal_of(name: str, **changes):
    return objective(name, {**SMALL, **changes}, VOCABULARY, 16)


def train(engine, goal, dtype, steps=STEPS, rule=RULE):
    def make_batch(step):
        numbers = np.arange(step * BATCH, (step + 1) * BATCH)
        return goal.batch(ROWS[numbers % len(ROWS)], numbers, 0)

    params = goal.initial(1, dtype)
    return fit_on(engine, params, rule.init(params), make_batch, steps, seed=0)


def on_numpy(goal, dtype, steps=STEPS):
    step = sharded_value_and_grad(goal.loss, shard_size=3, weight=goal.weight)
    return train(numpy_engine(step, RULE), goal, dtype, steps)


def on_xla(goal, dtype, steps=STEPS, **options):
    return train(xla_engine(goal.loss, RULE, seed=0, weight=goal.weight, **options), goal, dtype, steps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "architecture"), [(name, each) for name in OBJECTIVES for each in OBJECTIVES[name][0]])
def test_both_backends_have_one_loss_curve(name, architecture, dtype):
    goal = objective(name, SMALL, VOCABULARY, 16, architecture=architecture)
    with jax.enable_x64(dtype is np.float64):
        ours, theirs = on_numpy(goal, dtype), on_xla(goal, dtype)
    assert np.abs(theirs.losses / ours.losses - 1).max() < (1e-9 if dtype is np.float64 else 1e-4)
    assert ours.losses[-5:].mean() < ours.losses[:5].mean()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_in_parts_is_the_batch(name):
    goal = goal_of(name)
    with jax.enable_x64(True):
        whole, parts = on_xla(goal, np.float64, 6), on_xla(goal, np.float64, 6, accumulate=4)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-10)
    for (name, a), (_, b) in zip(tree.items(whole.params), tree.items(parts.params), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-9, err_msg=name)


def test_dropout_has_the_same_distribution_on_both():
    """Losses of the first step over many seeds, from the same parameters: means and spreads agree within their errors."""
    goal = goal_of("masked_lm", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    params, batch = goal.initial(1, np.float32), goal.batch(ROWS[:BATCH], np.arange(BATCH), 0)
    one = jax.jit(lambda key: goal_loss(goal, params, batch, key))
    theirs = np.array([float(one(jax.random.key(seed))) for seed in range(300)])
    step = sharded_value_and_grad(goal.loss, shard_size=BATCH, weight=goal.weight, seed=0)
    ours = np.array([step(params, batch, number)[0] for number in range(300)])
    error = np.hypot(ours.std(), theirs.std()) / np.sqrt(300)
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert 0.8 < ours.std() / theirs.std() < 1.25 and ours.std() > 0


def goal_loss(goal, params, batch, key):
    from bertcraft.tensor.gradient import unwrap, wrap_jax
    from bertcraft.tensor.xla import Generator

    return unwrap(goal.loss(wrap_jax(jax.tree.map(jax.numpy.asarray, params)), batch, Generator(key)))


def in_both(goal, precision, dtype, rule, steps):
    """A run of mixed precision under NumPy and one under XLA."""
    step = sharded_value_and_grad(mixed_precision(goal.loss, precision), shard_size=BATCH, weight=goal.weight)
    numpys = train(numpy_engine(step, rule), goal, dtype, steps, rule)
    with jax.enable_x64(dtype is np.float64):
        return numpys, train(
            xla_engine(goal.loss, rule, seed=0, weight=goal.weight, precision=precision), goal, dtype, steps, rule
        )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "architecture"), [("masked_lm", "bert"), ("masked_lm", "deberta"), ("electra", None)])
def test_mixed_precision_is_the_same_on_both_backends_and_learns(name, architecture, precision):
    """In double precision to the last digits, but where a sum falls to the other side of a tie: seldom, and by one unit."""
    goal = objective(name, SMALL, VOCABULARY, 16, architecture=architecture)
    ours, theirs = in_both(goal, precision, np.float64, loss_scaling(RULE, 64.0) if precision == "float16" else RULE, 12)
    assert np.abs(theirs.losses / ours.losses - 1).max() < 1e-3
    assert np.median(np.abs(theirs.losses / ours.losses - 1)) < 1e-6
    exact = on_numpy(goal, np.float64, 12)
    assert 1e-7 < np.abs(ours.losses / exact.losses - 1).max() < 0.02, "rounded, and not by much"
    with pytest.raises(InputError, match="expected one of float32, float16, bfloat16"):
        xla_engine(goal.loss, RULE, seed=0, precision="half")


def test_scales_that_are_too_large_are_halved_alike_on_both_backends():
    runs = in_both(goal_of("masked_lm"), "float16", np.float32, SCALED, 24)
    skipped = [np.flatnonzero(~np.isfinite(run.gradient_norms)).tolist() for run in runs]
    assert skipped[0] == skipped[1] and 0 in skipped[0] and len(skipped[0]) < 16
    assert np.isfinite(runs[1].losses).all() and runs[1].losses[-1] < runs[1].losses[0]
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=5e-3)


def test_a_step_that_is_not_finite_leaves_the_parameters_as_they_were():
    goal = goal_of("masked_lm")
    engine = xla_engine(lambda *given: goal.loss(*given) * np.float32(np.inf), RULE, seed=0, weight=goal.weight)
    params = goal.initial(1, np.float32)
    batch = goal.batch(ROWS[:BATCH], np.arange(BATCH), 0)
    after, _, loss, _ = engine.advance(engine.place(params), engine.place(RULE.init(params)), batch, 0)
    assert not np.isfinite(loss)
    after = dict(tree.items(engine.host(after)))  # JAX sorts the names
    for name, leaf in tree.items(params):
        np.testing.assert_array_equal(after[name], leaf, err_msg=name)


def test_a_batch_that_cannot_be_divided_is_told():
    goal = goal_of("masked_lm")
    with pytest.raises(InputError, match="expected a multiple of 3"):
        on_xla(goal, np.float32, 1, accumulate=3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_blank_rows_count_for_nothing(name):
    goal = goal_of(name)
    params, batch = goal.initial(1, np.float64), goal.batch(ROWS[:5], np.arange(5), 0)
    filled = with_blank_rows(batch, 3)
    assert {len(leaf) for leaf in filled.values()} == {8}
    (loss, gradients), (same, theirs) = (value_and_grad(goal.loss)(params, given, None) for given in (batch, filled))
    assert abs(loss - same) < 1e-12
    for (path, a), (_, b) in zip(tree.items(gradients), tree.items(theirs), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12, err_msg=path)


def on_four_devices(tmp_path, script: str, *arguments: str) -> str:
    """What a script prints that sees four devices: XLA's own simulation on one CPU."""
    path = tmp_path / "four.py"
    here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    path.write_text(here + textwrap.dedent(script))
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True, env=flags, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


CUT = """
    import jax, numpy as np
    import sys
    from test_engines import VOCABULARY, SMALL, on_xla, RULE
    from bertcraft.pretrain.objectives import objective
    from bertcraft.pretrain.xla import xla_engine
    from bertcraft.tensor import tree
    assert jax.device_count() == 4
    jax.config.update("jax_enable_x64", True)
    goal = objective(sys.argv[1], SMALL, VOCABULARY, 16, architecture=sys.argv[2] or None)
    engine = xla_engine(goal.loss, RULE, seed=0, sharded=True)
    params = goal.initial(1, np.float64)
    placed = engine.place((params, RULE.init(params)))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in tree.leaves(placed))
    whole = sum(leaf.nbytes for leaf in tree.leaves((params, RULE.init(params))))
    result = on_xla(goal, np.float64, 10, sharded=True)
    print(held / whole, *map(repr, result.losses.tolist()))
"""


@pytest.mark.parametrize(("name", "architecture"), [("electra", ""), ("masked_lm", "deberta"), ("masked_lm", "albert")])
def test_parameters_cut_over_four_devices_take_a_quarter_of_the_memory_and_the_same_steps(tmp_path, name, architecture):
    share, *losses = map(float, on_four_devices(tmp_path, CUT, name, architecture).split())
    assert 0.25 <= share < 0.27
    goal = objective(name, SMALL, VOCABULARY, 16, architecture=architecture or None)
    with jax.enable_x64(True):
        alone = on_numpy(goal, np.float64, 10)
    np.testing.assert_allclose(losses, alone.losses, rtol=1e-9)


LOWERED = """
    import jax, numpy as np
    from test_engines import SCALED, goal_of, train
    from bertcraft.pretrain.xla import xla_engine
    jax.config.update("jax_enable_x64", True)
    goal = goal_of("masked_lm")
    engine = xla_engine(goal.loss, SCALED, seed=0, weight=goal.weight, precision="float16", sharded=True)
    result = train(engine, goal, np.float64, 14, SCALED)
    print(jax.device_count(), *map(repr, result.losses.tolist()), *map(repr, result.gradient_norms.tolist()))
"""


def test_float16_with_a_scaled_loss_is_the_same_cut_over_four_devices(tmp_path):
    devices, *found = map(float, on_four_devices(tmp_path, LOWERED).split())
    losses, norms = np.split(np.array(found), 2)
    goal = goal_of("masked_lm")
    step = sharded_value_and_grad(mixed_precision(goal.loss, "float16"), shard_size=BATCH, weight=goal.weight)
    alone = train(numpy_engine(step, SCALED), goal, np.float64, 14, SCALED)
    skipped = ~np.isfinite(alone.gradient_norms)
    assert devices == 4 and 0 < skipped.sum() < 14
    np.testing.assert_array_equal(~np.isfinite(norms), skipped)
    assert np.abs(losses / alone.losses - 1).max() < 1e-3 and np.median(np.abs(losses / alone.losses - 1)) < 1e-6


COUNTED = """
    import jax, numpy as np
    from bertcraft.pretrain.objectives import with_blank_rows
    from bertcraft.pretrain.xla import xla_engine
    from bertcraft.train import sgd
    assert jax.device_count() == 4
    loss = lambda params, batch, rng: np.sum(np.where(batch["labels"] >= 0, params[batch["input_ids"]], 0))
    for accumulate in (1, 2):
        engine, rule = xla_engine(loss, sgd(1.0), seed=0, accumulate=accumulate, blank=with_blank_rows), sgd(1.0)
        params = np.zeros(60, np.float32)
        params, state = engine.place(params), engine.place(rule.init(params))
        for step, rows in enumerate(np.random.default_rng(0).permutation(60).reshape(6, 10, 1)):
            params, state, *_ = engine.advance(params, state, {"input_ids": rows, "labels": rows}, step)
        print(*engine.host(params))
"""


def test_no_example_is_left_out_or_taken_twice(tmp_path):
    """Sixty examples, ten a step on four devices, the last of which has one (or, in two parts, none): the gradient of each
    example's own parameter counts how often it was taken.
    """
    for counts in on_four_devices(tmp_path, COUNTED).splitlines():
        assert counts.split() == ["-1.0"] * 60


SENT = """
    import os, re, sys
    from pathlib import Path
    os.environ["XLA_FLAGS"] += f" --xla_dump_to={sys.argv[1]} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_step"
    import jax, numpy as np
    from test_engines import objective, on_xla
    assert jax.device_count() == 4
    for name in ("masked_lm", "electra"):
        on_xla(objective(name, "tiny", {"mask_id": 4, "vocab_size": 60}, 16), np.float32, 1)
        newest = max(Path(sys.argv[1]).glob("*cpu_after_optimizations.txt"), key=lambda path: path.stat().st_mtime_ns)
        collective = r" = (.*) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?[(]"
        found = re.findall(collective, newest.read_text())
        sizes = [np.prod(list(map(int, filter(None, shape.split(","))))) for results, _ in found
                 for shape in re.findall(r"[a-z]+[0-9]+\\[([0-9,]*)\\]", results)]
        print(name, ",".join(sorted({kind for _, kind in found})), int(sum(sizes)))
"""


def test_devices_send_one_another_the_gradient_and_nothing_that_grows_with_the_batch(tmp_path):
    """What is read of a row is read where the row is. And the numbers sent are those that docs/scaling.md counts, but for a few
    rows of tables that are read in none or in all rows.
    """
    for line in on_four_devices(tmp_path, SENT, str(tmp_path / "dump")).splitlines():
        name, kinds, sent = line.split()
        counted = scaling.work(name, "tiny", 16, 60).summed
        assert kinds == "all-reduce", line
        assert abs(int(sent) - counted) <= 4 * 128, (line, counted)


def test_sizes_have_the_parameters_that_are_published():
    from bertcraft.bert.layout import parameter_shapes

    def millions(family, head, size):
        shapes = parameter_shapes(config_of(family, head, size, 30522, 128)).values()
        return sum(int(np.prod(shape)) for shape in shapes) / 1e6

    assert round(millions("bert", "base", "tiny"), 1) == 4.4  # Turc et al. 2019, table 1
    assert round(millions("bert", "base", "mini"), 1) == 11.2
    assert round(millions("electra", "replaced_token_detection", "small")) == 14  # Clark et al. 2020, table 1: 14M, 110M, 335M
    assert round(millions("electra", "replaced_token_detection", "base"), -1) == 110
    assert round(millions("electra", "replaced_token_detection", "large")) == 335
    with pytest.raises(InputError, match="expected one of tiny, mini"):
        config_of("bert", "base", "huge", 100, 128)
    assert list(SIZES) == ["tiny", "mini", "small", "base", "large"]


def test_an_objective_that_is_not_known_is_told():
    with pytest.raises(InputError, match="expected one of masked_lm, electra"):
        objective("gpt", "tiny", VOCABULARY, 16)
    for name, expected in {"masked_lm": "bert or deberta or albert or roberta_prelayernorm", "electra": "electra"}.items():
        with pytest.raises(InputError, match=f"architecture: got 'mpnet', expected {expected} with the objective {name}"):
            objective(name, "tiny", VOCABULARY, 16, architecture="mpnet")


def test_an_architecture_is_the_published_one_in_the_sizes_that_are_asked_for():
    """A DeBERTa by the settings of microsoft/deberta-base, an ALBERT by those of albert-base-v2, sizes aside."""
    for size in ("tiny", SMALL):
        goal = partial(objective, "masked_lm", size, VOCABULARY, 16)
        (bert, deberta, albert) = (goal(architecture=name).models({})["model"][0] for name in ("bert", "deberta", "albert"))
        assert goal().models({})["model"][0] == bert
        assert (bert.family, deberta.family, albert.family) == ("bert", "deberta", "albert")
        assert {config.hidden_size for config in (bert, deberta, albert)} == {bert.hidden_size}
        assert deberta.relative_attention and deberta.pos_att_type == ("c2p", "p2c")
        assert not deberta.position_biased_input and deberta.type_vocab_size == 0
        assert deberta.relative_reach == (512 if size == "tiny" else 32)
        assert (albert.embedding_size, albert.num_hidden_groups) == (128, 1)
        before = goal(architecture="roberta_prelayernorm").models({})["model"][0]
        assert (before.pad_token_id, before.max_tokens) == (0, 512 if size == "tiny" else 31)
