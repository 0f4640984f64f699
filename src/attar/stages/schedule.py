"""How long a run takes on this machine, from a few timed iterations; and a schedule for a time limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from attar import models
from attar.condensation import loop as condensation
from attar.condensation.setup import Setup, serial_steps, set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.engine.compile import worth_compiling
from attar.engine.cuda_graphs import GRAPH_WARMUP
from attar.engine.device import wait
from attar.engine.precision import matmul_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, counted, log
from attar.evaluation.protocol import epochs_of
from attar.models.for_data import build, describe
from attar.sets.decode import decoded_count
from attar.sets.partition import condensed_labels, part_count
from attar.settings.choices import strategy_names
from attar.settings.config import PoolConfig, Recipe
from attar.stages.clock import MIN_PASSES, TOO_FEW, TimeLimit
from attar.training.batches import AugmentationSampler, BatchSampler, make_batches
from attar.training.loop import MAX_STEPS_PER_GRAPH, Trainer
from attar.training.pool import Member, Pool
from attar.training.train_state import start_fresh

WARMUP_CALLS = 1  # calls before the timed ones, on a CPU
WARMUP_CALLS_ON_GPU = GRAPH_WARMUP + 2  # on a GPU: the warm-ups, the recording, and a replay
MEASURED_CALLS = 3  # timed calls
MEASURED_CLASSES = 10  # on a CPU, where an iteration takes as many times longer as there are more classes
MAX_POOL_FRACTION = 0.5  # of the time limit
EVALUATION_MARGIN = 1.4  # seen: 28 s where the training steps alone take 20 s
MAX_EVALUATION_FRACTION = 0.5  # of the time limit
MIN_OUTER_ITERATIONS = 20  # of a fitted schedule: each draws another model, and a run ends after a whole one
MIN_STEP_IMAGES = 16  # a step with fewer images takes as long
QUICK: dict[str, Any] = {"runs": 1, "yardsticks": ("initial", "random_real")}  # of `evaluate --quick`


@dataclass(frozen=True)
class Estimate:
    """Seconds that the parts of a run take on this machine, from a few timed iterations."""

    epoch: float  # one epoch of an early-stage model; 0 where there are none
    inner: float  # one inner iteration of all parts, with its fraction of a network's warm-up
    at_once: int = 1  # models that are trained at the same time
    test: float = 0.0  # measuring the accuracy of an early-stage model
    image: float = 0.0  # training a network on one image
    class_bytes: int = 0  # memory of one class's step

    def pool(self, config: PoolConfig, there: int = 0) -> float:
        """Seconds of all early-stage models; `there` of them are trained already."""
        missing = max(0, config.models - there)
        return -(-missing // self.at_once) * (config.epochs * config.fraction * self.epoch + self.test)

    def evaluation(self, data: ImageData, recipe: Recipe, *, quick: bool = False) -> float:
        """Seconds of an evaluation of the set on the run's own network."""
        config = replace(recipe.evaluate, **QUICK) if quick else recipe.evaluate
        condense, tested = recipe.condense, 0 if data.test_labels is None else len(data.test_labels)
        decoded = data.nclass * decoded_count(condense.ipc, condense.factor, condense.decode_type)
        images = {"random_real": data.nclass * condense.ipc, "whole": len(data.labels)}
        seen = tested / 3 * (len(config.yardsticks) + 1)
        for kind in (*config.yardsticks, "accuracy"):
            seen += epochs_of(kind, condense, data, config) * max(MIN_STEP_IMAGES, images.get(kind, decoded))
        at_once = min(self.at_once, config.runs * (len(config.yardsticks) + 1))
        return EVALUATION_MARGIN * self.image * seen * config.runs / at_once

    def total(self, recipe: Recipe) -> float:
        """Seconds of pool and condensation."""
        return self.pool(recipe.pool) + self.inner * recipe.condense.outer_iterations * recipe.condense.inner_loop


def estimate(data: ImageData, recipe: Recipe, *, compiled: bool | None = None) -> Estimate:
    """Time steps of pretraining and inner iterations with an untrained network. Nothing is written.

    On a GPU the timed calls are replayed, as in a run. compiled: whether they are compiled too; by default where the
    recipe says `on`, but not by `auto`, for which `fit` asks when it knows how long the run is. On a CPU, where classes
    are computed one after another, ten classes at most are timed.
    """
    module = build(recipe.network, describe(data), 0)
    params = models.parameters_of(module)
    apart = torch.linspace(1, 1.1, recipe.condense.last_epoch + 1)  # points of a trajectory
    epochs = {name: apart.view(-1, *[1] * value.dim()) * value for name, value in params.items()}
    member = Member(params, models.buffers_of(module), {"seed": 0}, None, "untrained", epochs=epochs)
    pool = Pool(recipe.network, describe(data), (member,) if recipe.condense.takes_pool else ())
    if compiled is None:
        compiled = recipe.condense.compile == "on"
    calls = warm_calls(data.device) + MEASURED_CALLS
    config = replace(recipe.condense, compile="on" if compiled else "off", model_path=(), warmup=0, select_every=calls)
    classes = len(condensed_labels(data.classes, config))
    serial = data.device.type == "cpu" and config.match != "trajectory"
    timed = min(config.nclass_sub or classes, classes, MEASURED_CLASSES if serial else classes)
    parts = part_count(data.nclass, config.nclass_sub) if config.nclass_sub and config.is_split else 1
    if timed < classes or config.is_split or config.only:
        config = replace(config, nclass_sub=timed, phase=0, only=())
    steps = -(-len(data.labels) // recipe.pool.batch_size)
    warmup = recipe.condense.warmup / (config.sweeps_per_network or config.inner_loop)  # epochs per inner iteration
    step = _pool_step_seconds(data, recipe)
    epoch = steps * step
    with matmul_precision(config.precision, data.device):
        task = set_up(data, pool, config)
        each = _iteration_seconds(task, recipe.condense.select_every)
    trained = epoch if recipe.condense.takes_pool else 0.0
    tested = 0 if data.test_labels is None else len(data.test_labels)
    return Estimate(
        epoch=trained,
        inner=classes / timed * each + parts * warmup * epoch,
        at_once=ThreadWorkers(data.device).count,
        test=trained * tested / len(data.labels) / 3,  # a training step costs a forward pass and twice as much backward
        image=step / min(recipe.pool.batch_size, len(data.labels)),
        class_bytes=task.gradients.execution.class_bytes,
    )


def _iteration_seconds(task: Setup, select_every: int) -> float:
    """Seconds of one inner iteration, with its share of the clustering, of which the timed ones contain none."""
    state = condensation.begin_outer(init(task), task)

    def inner() -> None:
        nonlocal state
        state, _ = condensation.step(state, task)

    each = _seconds(inner, task.data.device)
    if task.config.select == "cluster":
        start = time.perf_counter()
        float(condensation.cluster_representatives(state, task)[-1][0])
        each += (time.perf_counter() - start) / min(select_every, task.config.inner_loop)
    return each


def accuracy_seconds(data: ImageData, recipe: Recipe) -> float:
    """About the seconds that one network's accuracy takes, from a few timed steps; see `records.quick_accuracy`."""
    image = _pool_step_seconds(data, recipe) / min(recipe.pool.batch_size, len(data.labels))
    one = replace(recipe, evaluate=replace(recipe.evaluate, runs=1, yardsticks=()))
    return Estimate(epoch=0.0, inner=0.0, image=image).evaluation(data, one)


def warm_calls(device: torch.device) -> int:
    """How many calls come before the timed ones: until these are what a run will do."""
    return WARMUP_CALLS_ON_GPU if device.type == "cuda" else WARMUP_CALLS


def _pool_step_seconds(data: ImageData, recipe: Recipe) -> float:
    """Seconds of one training step of an early-stage model; on a GPU as part of a recorded chain."""
    config = recipe.pool
    model = start_fresh(recipe.network, data, config, 0)
    generator = torch.Generator(data.device).manual_seed(0)
    rows = BatchSampler(torch.arange(len(data.labels), device=data.device), config.batch_size, generator)
    sampler = AugmentationSampler(data, strategy_names(config.aug_type), config.mix_p, generator)
    trainer = Trainer(model, partial(make_batches, data))
    count = MAX_STEPS_PER_GRAPH if data.device.type == "cuda" else 1

    def chain() -> None:
        trainer((rows.draw() for _ in range(count)), sampler.draw_rows)

    return _seconds(chain, data.device) / count


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    for _ in range(warm_calls(device)):
        step()
    wait(device)
    seconds = []
    for _ in range(MEASURED_CALLS):
        start = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def fit_limit(data: ImageData, recipe: Recipe, limit: TimeLimit, *, there: int) -> Recipe:
    """The recipe for a run within a limit, at most half of it for the evaluation; see `fit`."""
    assert limit.minutes is not None
    total = 60 * limit.minutes
    if limit.evaluate:
        estimated = estimate(data, recipe)
        full, short = (estimated.evaluation(data, recipe, quick=quick) for quick in (False, True))
        limit.quick = full > MAX_EVALUATION_FRACTION * total
        limit.reserved = min(short if limit.quick else full, MAX_EVALUATION_FRACTION * total)
        if limit.quick:
            log.info("the evaluation is a quick one, of about %.0f s: a full one takes about %.0f s", short, full)
    spent = time.perf_counter() - limit.started
    return fit(data, recipe, total - limit.reserved, before=spent, there=there)


def fit(data: ImageData, recipe: Recipe, seconds: float, *, before: float = 0.0, there: int = 0) -> Recipe:
    """The recipe for a run that ends after `seconds` of pretraining and condensation: its pool, its outer iterations.

    Pretraining gets half of the time at most: fewer models and then fewer epochs where it would take more. Outer
    iterations are shortened where fewer than twenty would fit. Their number is an expectation: a `Clock` ends the run.
    before: seconds of the limit that are already spent; there: models that are already trained.
    Raises `UserError` when the time is too short for one model and one iteration.
    """
    if recipe.condense.eval_at:
        raise UserError("eval_at and minutes exclude each other: evaluations take time that is not known before")
    start = time.perf_counter() - before
    estimated = estimate(data, recipe)
    fitted, words = _fitted(recipe, estimated, seconds, start, there)
    if compiles(fitted, data, estimated.class_bytes):
        estimated = estimate(data, recipe, compiled=True)
        fitted, words = _fitted(recipe, estimated, seconds, start, there)
    log.info("%s", words)
    return fitted


def compiles(recipe: Recipe, data: ImageData, size: int) -> bool:
    """Whether a run on a GPU would compile what `auto` had measured uncompiled.

    On a CPU the run is only faster than what was measured, by less than compiling here would take.
    """
    config = recipe.condense
    if data.device.type != "cuda" or config.compile != "auto":
        return False
    classes = config.nclass_sub or data.nclass
    return worth_compiling("auto", serial_steps(config, classes, data.device), size, data.device)


def _fitted(recipe: Recipe, estimated: Estimate, seconds: float, start: float, there: int) -> tuple[Recipe, str]:
    """The recipe that fits into `seconds` since `start` (of `time.perf_counter`), and a line about it."""
    pool = _smaller(recipe.pool, estimated, MAX_POOL_FRACTION * seconds, there)
    pool_seconds = estimated.pool(pool, there if pool.epochs == recipe.pool.epochs else 0)
    left = seconds - (time.perf_counter() - start) - pool_seconds
    total = int(left / estimated.inner)
    sweeps = recipe.condense.sweeps_per_network or 1  # an outer iteration uses a network for all its sweeps at least
    if total < sweeps:
        least = (seconds - left + sweeps * estimated.inner) / 60
        raise UserError(
            f"minutes is too short: the pool takes about {pool_seconds:.1f} s and one iteration {estimated.inner:.2g} "
            f"s on this machine; give at least {least:.2g}"
        )
    inner = max(sweeps, min(recipe.condense.inner_loop, total // MIN_OUTER_ITERATIONS) // sweeps * sweeps)
    outer = max(1, total // inner)
    models_of = f", {pool.in_words} about {pool_seconds:.0f} s" if estimated.epoch else ""
    words = (
        f"a pass over the classes takes {estimated.inner:.3g} s here{models_of}: about "
        f"{counted(outer, 'outer iteration')} of {inner} fit into {in_minutes(seconds)}"
    )
    words += TOO_FEW if outer * inner < MIN_PASSES else ""
    return replace(recipe, pool=pool, condense=replace(recipe.condense, niter=outer, inner_loop=inner)), words


def in_minutes(seconds: float) -> str:
    """Such as `1 minute` or `2.5 minutes`."""
    return f"{seconds / 60:.3g} minute{'s' * (seconds != 60)}"


def _smaller(config: PoolConfig, estimated: Estimate, seconds: float, there: int) -> PoolConfig:
    """The pool with as many epochs, and then as many models, as fit into `seconds`, but at least one of each.

    there: models that take no time, being trained already.
    """
    whole = config.keep_epochs  # the length of a trajectory is what is matched
    for epochs in (config.epochs,) if whole else range(config.epochs, 0, -1):
        for count in range(config.models, 0, -1):
            smaller = replace(config, models=count, epochs=epochs)
            if estimated.pool(smaller, there if epochs == config.epochs else 0) <= seconds:
                return smaller
    return replace(config, models=1, epochs=config.epochs if whole else 1)
