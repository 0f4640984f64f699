"""The settings that functions take, for editors and type checkers, by tests/helpers/typed_settings.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class DataSettings(TypedDict, total=False):
    """Of `add`, and all others."""

    dataset: str
    nclass: int | None
    data_dir: str | None
    size: int | None
    image_column: str | None
    label_column: str | None
    labels_csv: str | None
    channels: str | None
    test_fraction: float
    test_seed: int
    zca: bool
    skip_bad: bool
    load_memory: bool
    cache_dir: str | None
    device: str


class CondenseSettings(DataSettings, total=False):
    """Of `condense`, beside those of the data."""

    net_type: Any
    depth: int | None
    width: float
    norm_type: str
    epochs: int
    pt_from: int
    fraction: float
    pt_fraction: float
    models: int
    model_num: int
    method: str
    ipc: int
    factor: int
    init: Any
    decode_type: str
    speedup: int
    niter: int | None
    full_niter: int
    inner_loop: int
    lr_img: float
    mom_img: float
    base_size: int | None
    lr_scaled: bool
    img_step: str
    img_space: str
    img_optim: str
    wd_img: float
    clamp: bool
    patience: int
    averaging_power: int
    metric: str
    match: str
    frequencies: int
    calibrate: float
    calibrate_epochs: int
    bias: bool
    fc: bool
    match_layers: str
    keep: str | None
    aug_type: str
    batch_real: int
    select: str
    select_every: int
    select_from: int | None
    batch_syn_max: int
    syn_steps: int
    expert_epochs: int
    min_start_epoch: int
    max_start_epoch: int
    current_max_start_epoch: int | None
    expansion_end_epoch: int
    batch_syn: int | None
    lr_teacher: float
    lr_lr: float
    lr_y: float
    threshold: float | None
    clip_img: float | None
    network_init: str
    sweeps_per_network: int | None
    warmup: int
    perturb: bool
    vmin: float
    vmax: float
    update: str
    n_data: int
    syn_epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    mix_p: float
    nclass_sub: int | None
    phase: int | None
    only: str | Sequence[str]
    seed: int
    precision: str
    compile: str
    memory_gb: float | None
    eval_at: int | Sequence[int]
    curve: bool
    model_path: str | Sequence[str]
    plugin: Any


class EvaluateSettings(DataSettings, total=False):
    """Of `evaluate`, beside those of the data."""

    width: float
    norm_type: str
    plugin: Any
    networks: Any
    runs: int
    epochs: int | None
    whole_epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    aug_type: str
    mix_p: float
    precision: str
    seed: int
    yardsticks: str | Sequence[str]
    plain: bool
    attacks: str | Sequence[str]
    attack_eps: float
    attack_images: int


class LabelSettings(DataSettings, total=False):
    """Of `label`, beside those of the data."""

    width: float
    norm_type: str
    epochs: int
    pt_from: int
    models: int
    model_num: int
    seed: int


class PretrainSettings(DataSettings, total=False):
    """Of `pretrain`, beside those of the data."""

    net_type: Any
    depth: int | None
    width: float
    norm_type: str
    epochs: int
    pt_from: int
    fraction: float
    pt_fraction: float
    models: int
    model_num: int
    seed: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    optimizer: str
    gsam_rho: float
    gsam_alpha: float
    lr_decay: bool
    aug_type: str
    mix_p: float
    precision: str
    keep_epochs: bool
    keep_as: str
    method: str
    plugin: Any


class SelectSettings(DataSettings, total=False):
    """Of `select`, beside those of the data."""

    net_type: Any
    depth: int | None
    width: float
    norm_type: str
    epochs: int
    pt_from: int
    fraction: float
    pt_fraction: float
    models: int
    model_num: int
    ipc: int
    factor: int
    seed: int


class TrainSettings(DataSettings, total=False):
    """Of `train`, beside those of the data."""

    width: float
    norm_type: str
    plugin: Any
    epochs: int | None
    whole_epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    aug_type: str
    mix_p: float
    seed: int
