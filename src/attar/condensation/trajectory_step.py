"""An iteration of trajectory matching: a student on the set, and what is learned beside the images."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.condensation.network_init import InitialWeights
from attar.condensation.setup import Setup
from attar.condensation.state import State
from attar.condensation.trajectory import Matched, StudentStep
from attar.engine.device import send_all
from attar.sets.decode import decode_class
from attar.settings.choices import strategy_names
from attar.training.draws import numbers

LABEL_MOMENTUM = 0.9  # of the labels' logits (DATM); that of the learning rate is the images' (MTT)


def starting_point(state: State, setup: Setup) -> InitialWeights:
    """Where the next student starts: the next expert of a shuffled order, an epoch uniform over the window (MTT)."""
    config, member = setup.config, int(state.experts.draw())
    latest = config.latest_start(state.outer * config.inner_loop + state.inner)
    epoch = int(torch.randint(config.min_start_epoch, latest, (1,), generator=state.cpu_generator))
    return InitialWeights(setup.pool.at(member, epoch), setup.pool.members[member].buffers, member, epoch)


def match(state: State, setup: Setup) -> Matched:
    """The loss of one student, and its derivatives with respect to the stored images and the learned values."""
    config, data, gradients = setup.config, setup.data, setup.trajectory
    assert gradients is not None and state.network is not None
    images = state.images.detach().requires_grad_()
    decoded = [decode_class(stored, config.factor, config.decode_type) for stored in images]
    pixels = data.normalize(torch.cat(decoded))
    logits = state.learned["logits"].detach().requires_grad_() if "logits" in state.learned else None
    labels = setup.gradients.labels.repeat_interleave(len(decoded[0]))
    hard = (labels[:, None] == torch.arange(data.nclass, device=labels.device)).to(pixels.dtype)
    targets = hard if logits is None else logits.flatten(0, 1).softmax(dim=1)
    end = setup.pool.at(state.member, state.epoch + config.expert_epochs)
    matched = gradients(
        gradients.flat(state.network.params),
        gradients.flat(send_all(end, data.device)),
        pixels.detach(),
        targets.detach(),
        draw_steps(len(pixels), state, setup),
        state.learned["lr"],
    )
    matched = matched._replace(loss=matched.loss.clone(), images=torch.autograd.grad(pixels, images, matched.images)[0])
    if logits is None:
        return matched
    return matched._replace(targets=torch.autograd.grad(targets, logits, matched.targets)[0])


def draw_steps(count: int, state: State, setup: Setup) -> list[StudentStep]:
    """The batches of a student's steps and their augmentation: all images before any again, a short batch first."""
    config, generator, strategy = setup.config, state.generator, strategy_names(setup.config.aug_type)
    chunks: list[Tensor] = []
    steps = []
    for _ in range(config.syn_steps):
        if not chunks:
            order = torch.randperm(count, generator=generator, device=generator.device)
            chunks = list(order.split(config.batch_syn or count))
        rows = chunks.pop()
        steps.append(StudentStep(rows, numbers(strategy, len(rows), generator, batch=len(rows))))
    return steps


def learn(state: State, setup: Setup, matched: Matched) -> None:
    """One step of the students' learning rate and of the labels, by SGD with momentum."""
    config = setup.config
    rates = {"lr": (config.lr_lr, config.mom_img, matched.lr), "logits": (config.lr_y, LABEL_MOMENTUM, matched.targets)}
    for name, (rate, decay, gradient) in rates.items():
        if name in state.learned:
            momentum = decay * state.learned[f"{name}_momentum"] + gradient
            state.learned |= {name: state.learned[name] - rate * momentum, f"{name}_momentum": momentum}
