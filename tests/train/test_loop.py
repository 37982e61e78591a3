"""The loop resumes to the bit, stops on Ctrl-C and on what is not finite, and refuses another run."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bertcraft.errors import InputError, TrainingError
from bertcraft.tensor import tree
from bertcraft.train import (
    Interrupted,
    adamw,
    apply,
    chain,
    clip_by_global_norm,
    fit,
    generator,
    load_state,
    save_state,
    sgd,
    warmup_linear,
)  # fmt: skip
from bertcraft.train.state import FILE

STEPS = 30
RULE = chain(clip_by_global_norm(0.5), adamw(warmup_linear(1e-2, 5, STEPS)))
PARAMS = {"weight": np.ones((6, 3), np.float32), "bias": np.zeros(3, np.float32)}
PARAMS["weight"].flags.writeable = PARAMS["bias"].flags.writeable = False  # fit must not write into them


def make_batch(step):
    return {"input_ids": generator(3, step).standard_normal((8, 6), dtype=np.float32)}


def step_function(params, batch, step):
    """Linear regression."""
    x = batch["input_ids"]
    error = x @ params["weight"] + params["bias"] - np.sin(x[:, :3])
    g = 2 * error / error.size
    return np.mean(error**2), {"weight": x.T @ g, "bias": g.sum(0)}


def evaluate(params):
    return {"bias": float(params["bias"].sum()), "norm": params["weight"][0, 0]}


def train(step_function=step_function, params=PARAMS, rule=RULE, make_batch=make_batch, steps=STEPS, **options):
    options = {"seed": 3, "evaluate": evaluate, "evaluate_every": 7, **options}
    return fit(step_function, params, rule, make_batch, steps, **options)


def assert_same_run(a, b):
    assert a.step == b.step and a.evaluations == b.evaluations
    for x, y in zip(
        tree.leaves([a.params, a.losses, a.gradient_norms]),
        tree.leaves([b.params, b.losses, b.gradient_norms]),
        strict=True,
    ):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


class Crash(Exception):
    pass


def at(step, happens, function=make_batch):
    """A function of the step that does something else before the batch of one step."""

    def changed(now):
        if now == step:
            happens()
        return function(now)

    return changed


def crash():
    raise Crash


def test_a_run_takes_the_steps_it_should():
    run = train()
    params, losses = tree.map(np.array, PARAMS), []
    state = RULE.init(params)
    for step in range(STEPS):
        loss, gradients = step_function(params, make_batch(step), step)
        state = apply(RULE, gradients, state, params)
        losses.append(float(loss))
    assert run.step == STEPS and run.losses.tolist() == losses and run.losses[-1] < run.losses[0]
    assert run.losses.dtype == np.float64 and run.gradient_norms.shape == (STEPS,)
    for name in params:
        assert run.params[name].tobytes() == params[name].tobytes()
    assert [step for step, _ in run.evaluations] == [7, 14, 21, 28, 30]
    assert run.evaluations[-1][1]["bias"] == float(params["bias"].sum())


def test_a_pool_changes_nothing():
    with ThreadPoolExecutor(3) as pool:
        assert_same_run(train(pool=pool), train())


@pytest.mark.parametrize("save_every_seconds", [0, 3600])
@pytest.mark.parametrize("when", [0, 1, 13, 29])
def test_a_crashed_run_resumes_to_the_same_bits(tmp_path, save_every_seconds, when):
    options = {"folder": tmp_path, "save_every_seconds": save_every_seconds}
    with pytest.raises(Crash):
        train(make_batch=at(when, crash), **options)
    assert load_state(tmp_path)[0] == (when if save_every_seconds == 0 else 0)
    seen = []
    resumed = train(report=lambda progress: seen.append(progress.step), **options)
    assert seen[0] == (when + 1 if save_every_seconds == 0 else 1) and seen[-1] == STEPS
    assert_same_run(resumed, train())


def test_a_finished_run_is_not_run_again(tmp_path):
    run = train(folder=tmp_path)
    again = train(folder=tmp_path, make_batch=lambda step: crash())
    assert_same_run(run, again)
    assert again.seconds == run.seconds > 0


def test_ctrl_c_finishes_the_step_saves_and_says_where(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        train(make_batch=at(11, lambda: signal.raise_signal(signal.SIGINT)), folder=tmp_path)
    assert (stopped.value.step, stopped.value.folder) == (12, tmp_path)
    assert isinstance(stopped.value, KeyboardInterrupt) and str(tmp_path) in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_state(tmp_path)[0] == 12
    assert_same_run(train(folder=tmp_path), train())


def test_ctrl_c_without_a_folder_and_twice():
    with pytest.raises(Interrupted, match="not saved") as stopped:
        train(make_batch=at(0, lambda: signal.raise_signal(signal.SIGINT)))
    assert stopped.value.folder is None
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(make_batch=at(0, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)]))
    assert not isinstance(stopped.value, Interrupted)


def test_a_run_in_another_thread_leaves_signals_alone():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train()))
    thread.start()
    thread.join()
    assert_same_run(runs[0], train())


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_state_before(tmp_path, what, value):
    def broken(params, batch, step):
        loss, gradients = step_function(params, batch, step)
        if step == 9 and what == "loss":
            loss = value
        if step == 9 and what == "gradient":
            gradients["bias"][1] = value
        return loss, gradients

    with pytest.raises(TrainingError) as error:
        train(broken, folder=tmp_path)
    message = str(error.value)
    before = train(steps=9)
    assert "stopped in step 10" in message and f"last finite loss was {before.losses[-1]:.6g}" in message
    assert f"after 9 steps, is kept in {tmp_path}" in message and str(value) in message
    step, params, _, _ = load_state(tmp_path)
    assert step == 9
    assert tree.map(np.ndarray.tobytes, params) == tree.map(np.ndarray.tobytes, before.params)
    with pytest.raises(TrainingError, match="nothing was saved"):
        train(broken)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    rule = sgd(lambda step: 1e-2 if step < 5 else 1e39)
    with pytest.warns(RuntimeWarning), pytest.raises(TrainingError, match="not finite after step 6"):
        train(rule=rule, folder=tmp_path, save_every_seconds=0)
    assert load_state(tmp_path)[0] == 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 4}, "seed: 3 there, 4 here"),
        ({"signature": {"rate": 0.2}}, "rate: 0.1 there, 0.2 here"),
        ({"rule": adamw(0.1)}, "state of the update rule"),
        (
            {"params": {**PARAMS, "bias": np.zeros((1, 3), np.float32)}},
            r"bias: float32 \(3,\) there, float32 \(1, 3\)",
        ),
        ({"steps": 20}, "after step 30, but the run has only 20"),
    ],
)
def test_the_state_of_another_run_is_refused_and_kept(tmp_path, options, message):
    signature = {"signature": {"rate": 0.1}}
    train(folder=tmp_path, **signature)
    content = (tmp_path / FILE).read_bytes()
    with pytest.raises(TrainingError, match=message):
        train(folder=tmp_path, **(signature | options))
    assert (tmp_path / FILE).read_bytes() == content


def test_a_run_that_ended_before_its_first_step_does_not_stand_in_the_way_of_another(tmp_path):
    def out_of_memory(step):
        raise MemoryError

    with pytest.raises(MemoryError):
        train(folder=tmp_path, signature={"rate": 0.1}, make_batch=out_of_memory)
    assert load_state(tmp_path)[0] == 0
    changed = train(folder=tmp_path, signature={"rate": 0.2}, params=tree.map(lambda leaf: 2 * leaf, PARAMS))
    whole = train(params=tree.map(lambda leaf: 2 * leaf, PARAMS))
    assert changed.step == whole.step == load_state(tmp_path)[0] > 0
    np.testing.assert_array_equal(changed.losses, whole.losses)


def test_a_state_that_fit_did_not_save_is_refused(tmp_path):
    save_state(tmp_path, 3, PARAMS, {}, {})
    with pytest.raises(TrainingError, match="seed: nothing there, 3 here"):
        train(folder=tmp_path)


def test_a_folder_that_cannot_be_used_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="could not be saved"):
        train(folder=tmp_path / "file", make_batch=at(0, crash))


def test_report_tells_speed_and_time_left():
    seen = []
    run = train(report=seen.append)
    assert [p.step for p in seen] == list(range(1, STEPS + 1)) and {p.steps for p in seen} == {STEPS}
    assert [p.loss for p in seen] == run.losses.tolist()
    assert [p.gradient_norm for p in seen] == run.gradient_norms.tolist()
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    for p in seen[:-1]:  # both come from the same smoothed time of a step
        assert np.isclose(p.tokens_per_second * p.seconds_left / (STEPS - p.step), 48)
    train(make_batch=lambda step: make_batch(step)["input_ids"], report=seen.append,
          step_function=lambda params, x, step: step_function(params, {"input_ids": x}, step))  # fmt: skip
    assert seen[-1].tokens_per_second is None


def test_a_jitted_step_can_be_trained():
    import jax

    from bertcraft.tensor import value_and_grad

    def loss(params, x, y):
        return np.mean((x @ params["weight"] + params["bias"] - y) ** 2)

    jitted = jax.jit(value_and_grad(loss))
    run = train(lambda params, batch, step: jitted(params, x := batch["input_ids"], np.sin(x[:, :3])))
    np.testing.assert_allclose(run.losses, train().losses, rtol=1e-5)
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in tree.leaves(run.params))


def test_streams_and_steps_differ_and_repeat():
    draws = [generator(s, t, u).random() for s in range(3) for t in range(3) for u in range(3)]
    assert len(set(draws)) == 27
    assert generator(1, 2).random() == generator(1, 2, 0).random()


@pytest.mark.parametrize("options", [{"steps": -1}, {"evaluate_every": 0}])
def test_impossible_runs_are_refused(options):
    with pytest.raises(InputError, match="got"):
        train(**options)
