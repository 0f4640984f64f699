"""Evaluation: the same protocol for a set and its yardsticks, sample deviations, and numbers that a seed fixes."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

import attar
from attar.data.images import ImageData
from attar.errors import UserError
from attar.evaluation import measure, protocol, training_sets
from attar.evaluation.measure import TrainingJob
from attar.evaluation.trained import TrainedNetwork
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import EvaluateConfig, NetworkConfig

NETWORK = NetworkConfig(depth=2, width=0.05)
CONFIG = EvaluateConfig(runs=2, epochs=2, whole_epochs=1, aug_type="none", mix_p=0.0)


def set_of(data: ImageData, ipc: int = 2, **changes: Any) -> SyntheticSet:
    """The first images of each class; the last ones stand for those as initialised."""
    first, last = (
        torch.cat([data.rows(c)[part] for c in range(data.nclass)]) for part in (slice(ipc), slice(-ipc, None))
    )
    values: dict[str, Any] = {
        "images": data.images[first].float() / 255,
        "labels": data.labels[first],
        "initial": data.images[last].float() / 255,
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
        "source": data.name,
    }
    return SyntheticSet(**(values | changes))


# ---- what is reported ----


def test_the_report(digits: ImageData) -> None:
    condensed = set_of(digits, factor=2)
    lines: list[str] = []
    report = measure.evaluate(condensed, digits, CONFIG, NETWORK, advance=lines.append)
    assert list(report) == ["accuracy", "initial", "random_real", "whole"]
    assert len(lines) == 4 * 2
    assert lines[0] == f"accuracy convnet2 run 1 of 2: {100 * report['accuracy']['convnet2']['runs'][0]:.1f} %"
    for name, epochs, images in (("accuracy", 2, 80), ("initial", 2, 80), ("random_real", 4, 20), ("whole", 1, 1198)):
        entry = report[name]["convnet2"]
        assert (entry["n"], entry["protocol"], entry["width"]) == (2, "last epoch", 0.05)
        assert (entry["epochs"], entry["images"]) == (epochs, images)
        assert len(entry["runs"]) == 2
        assert all(0 <= run <= 1 for run in entry["runs"])
        assert entry["mean"] == pytest.approx(sum(entry["runs"]) / 2)
        sample = abs(entry["runs"][0] - entry["runs"][1]) / math.sqrt(2)  # n - 1 = 1
        assert entry["std"] == pytest.approx(sample)


def test_deviation_is_the_sample_one(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {4: 0.5, 5: 0.7, 6: 0.9}
    monkeypatch.setattr(measure, "run_once", lambda job, *rest: TrainedNetwork(results[job.seed], 20))
    config = replace(CONFIG, runs=3, seed=4, yardsticks=())
    entry = measure.evaluate(set_of(digits), digits, config, NETWORK)["accuracy"]["convnet2"]
    assert entry["runs"] == [0.5, 0.7, 0.9]  # in the order of the seeds
    assert entry["mean"] == pytest.approx(0.7)
    assert entry["std"] == pytest.approx(0.2)  # the population's would be .163
    assert entry["std"] == pytest.approx(statistics.stdev([0.5, 0.7, 0.9]))


def test_one_run_has_no_deviation(digits: ImageData) -> None:
    report = measure.evaluate(set_of(digits), digits, replace(CONFIG, runs=1, yardsticks=()), NETWORK)
    assert list(report) == ["accuracy"]
    assert report["accuracy"]["convnet2"]["std"] is None


def test_a_set_without_initial_images_has_no_such_yardstick(digits: ImageData) -> None:
    report = measure.evaluate(set_of(digits, initial=None), digits, replace(CONFIG, runs=1), NETWORK)
    assert list(report) == ["accuracy", "random_real", "whole"]


def test_the_same_seeds_give_the_same_accuracies(digits: ImageData) -> None:
    augmented = EvaluateConfig(runs=2, epochs=4, whole_epochs=1, seed=5)
    first, second = (measure.evaluate(set_of(digits), digits, augmented, NETWORK) for _ in range(2))
    assert first == second
    # seeds count up: the second run of seed 5 is the first of seed 6
    later = measure.evaluate(set_of(digits), digits, replace(augmented, seed=6, runs=1), NETWORK)
    for name in first:
        assert later[name]["convnet2"]["runs"] == first[name]["convnet2"]["runs"][1:]
    runs = [run for name in first for run in first[name]["convnet2"]["runs"]]
    assert len(set(runs)) > 4


def test_networks_learn_from_the_set(digits: ImageData) -> None:
    config = EvaluateConfig(runs=1, epochs=30, whole_epochs=4, aug_type="none", mix_p=0.0, batch_size=16)
    report = measure.evaluate(set_of(digits, ipc=5), digits, config, NetworkConfig(depth=2, width=0.1))
    assert all(report[name]["convnet2"]["mean"] > 0.4 for name in report)  # chance is .1
    wrong = set_of(digits, ipc=5, labels=set_of(digits, ipc=5).labels.flip(0))
    confused = measure.evaluate(wrong, digits, replace(config, yardsticks=()), NetworkConfig(depth=2, width=0.1))
    assert confused["accuracy"]["convnet2"]["mean"] < 0.2


def test_networks_that_are_trained_in_bf16(digits: ImageData) -> None:
    """Steps are those of float32 up to rounding; parameters, momentum and the test stay float32."""
    images, labels = training_sets.training_set("accuracy", set_of(digits, ipc=5), digits, 0)
    trained = {}
    for precision in ("float32", "bf16"):
        config = replace(CONFIG, precision=precision, lr=0.01)
        job = TrainingJob("convnet2", NETWORK, "accuracy", config, 3, 0)
        model = measure.train_network(job, images, labels, digits)
        assert all(value.dtype == torch.float32 for value in model.params.values())
        trained[precision] = torch.cat([value.detach().flatten() for value in model.params.values()])
        assert model(digits.fetch(digits.rows(0)[:2])).dtype == torch.float32
    start = measure.start_fresh(NETWORK, digits, CONFIG, 0)
    moved = trained["float32"] - torch.cat([value.detach().flatten() for value in start.params.values()])
    apart = (trained["bf16"] - trained["float32"]).norm() / moved.norm()
    assert 1e-4 < float(apart) < 0.2
    report = measure.evaluate(set_of(digits), digits, replace(CONFIG, precision="bf16", runs=1), NETWORK)
    assert report["accuracy"]["convnet2"]["precision"] == "bf16"


# ---- what compares sets ----


def means(**values: float) -> dict[str, Any]:
    return {"convnet3": {"mean": values["convnet3"]}, "resnet10": {"mean": values["resnet10"]}}


def test_improvement_over_random_and_hard_label_recovery() -> None:
    """IOR = acc(condensed) − acc(random real), HLR = acc(whole) − acc(condensed, hard labels), as fractions."""
    result = {
        "accuracy": means(convnet3=0.7, resnet10=0.6),
        "soft_labels": means(convnet3=0.9, resnet10=0.9),  # which are no part of it
        "initial": means(convnet3=0.3, resnet10=0.2),
        "random_real": means(convnet3=0.45, resnet10=0.65),
        "whole": means(convnet3=0.85, resnet10=0.95),
    }
    metrics = protocol.gains(result)
    assert metrics["ior"] == {"convnet3": pytest.approx(0.7 - 0.45), "resnet10": pytest.approx(0.6 - 0.65)}
    assert metrics["hlr"] == {"convnet3": pytest.approx(0.85 - 0.7), "resnet10": pytest.approx(0.95 - 0.6)}
    del result["random_real"], result["whole"]["resnet10"]
    assert protocol.gains(result) == {"hlr": {"convnet3": pytest.approx(0.15)}}
    assert protocol.gains({"accuracy": {}}) == {}


def test_gains_come_with_the_yardsticks(digits: ImageData) -> None:
    quick = {"runs": 2, "epochs": 2, "whole_epochs": 1, "width": 0.05, "recipe": "digits"}
    report = attar.evaluate(set_of(digits), digits, **quick)
    runs = {name: report[name]["convnet2"]["runs"] for name in ("accuracy", "random_real", "whole")}
    mean = {name: sum(values) / 2 for name, values in runs.items()}
    assert report["ior"]["convnet2"] == pytest.approx(mean["accuracy"] - mean["random_real"])
    assert report["hlr"]["convnet2"] == pytest.approx(mean["whole"] - mean["accuracy"])
    report = attar.evaluate(set_of(digits), digits, **quick, yardsticks="none")
    assert not {"ior", "hlr"} & report.keys()
    assert (report["protocol"]["aug_type"], report["protocol"]["mix_p"]) == ("color_crop_scale_rotate", 0.5)


# ---- soft labels ----


def test_a_student_of_soft_labels_trains_on_them(digits: ImageData) -> None:
    """With labels of another class for every image the student learns those, whatever the set's own labels are."""
    condensed, turned = set_of(digits, ipc=5), torch.eye(10).roll(1, dims=1)
    config = replace(CONFIG, batch_size=16)
    job = TrainingJob("convnet2", NetworkConfig(depth=2, width=0.1), "accuracy", config, epochs=30, seed=0)
    right, *_ = measure.run_once(job, condensed, digits)
    wrong, *_ = measure.run_once(replace(job, kind="soft_labels"), condensed, digits, turned[condensed.labels])
    assert right > 0.4 and wrong < 0.2
    one_hot = torch.eye(10)[condensed.labels]
    same, *_ = measure.run_once(replace(job, kind="soft_labels"), condensed, digits, one_hot)
    assert same == right


# ---- what is trained on ----


def test_random_real_images(digits: ImageData) -> None:
    """ipc real images of each class, other ones for each seed, the same for the same seed."""
    condensed = set_of(digits, ipc=3, factor=2)
    images, labels = training_sets.random_real(digits, condensed, seed=0)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [3] * 10
    for image, label in zip(images, labels.tolist(), strict=True):
        assert any(torch.equal(image, other) for other in digits.images[digits.rows(label)])
    for label in range(10):
        pixels = images[labels == label].flatten(1)
        assert len(pixels.unique(dim=0)) == 3  # without replacement
    again, _ = training_sets.random_real(digits, condensed, seed=0)
    other, _ = training_sets.random_real(digits, condensed, seed=1)
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_one_seed_draws_the_same_real_images_everywhere(digits: ImageData) -> None:
    """As docs/selection.md says: the yardstick, a random core-set, and what a run begins with."""
    settings: Any = {"init": "random", "factor": 1, "ipc": 3, "seed": 5, "method": "dm", "niter": 1, "inner_loop": 1}
    run = attar.condense(digits, **settings, width=0.05)
    drawn = training_sets.random_real(digits, run, seed=5)[0].float() / 255
    assert torch.equal(run.start().images, drawn)
    assert torch.equal(attar.select(digits, "random", ipc=3, seed=5).images, drawn)
    assert not torch.equal(training_sets.random_real(digits, run, seed=6)[0].float() / 255, drawn)


def test_random_real_images_of_a_class_that_became_too_small(digits: ImageData) -> None:
    with pytest.raises(UserError, match="class '0' has 119 images, fewer than the set's 200"):
        condensed = set_of(digits)
        training_sets.random_real(
            digits,
            replace(
                condensed, images=condensed.images[:1].expand(200, -1, -1, -1), labels=condensed.labels[:1].expand(200)
            ),
            0,
        )


def test_training_sets(digits: ImageData) -> None:
    condensed = set_of(digits, factor=2)
    stored = training_sets.training_set("accuracy", condensed, digits, 0)
    assert torch.equal(stored[0], condensed.decoded()[0])
    assert torch.equal(stored[1], condensed.decoded()[1])
    start = training_sets.training_set("initial", condensed, digits, 0)
    assert torch.equal(start[0], condensed.start().decoded()[0])
    assert not torch.equal(start[0], stored[0])
    whole = training_sets.training_set("whole", condensed, digits, 0)
    assert whole[0] is digits.images
    assert whole[1] is digits.labels
    drawn = training_sets.training_set("random_real", condensed, digits, 3)
    assert torch.equal(drawn[0], training_sets.random_real(digits, condensed, 3)[0])


# ---- which networks ----


@pytest.mark.parametrize(
    ("networks", "run_network", "labels"),
    [
        ((), NETWORK, {"convnet2": 2}),
        (("convnet",), NETWORK, {"convnet2": 2}),  # the run's own kind, so its depth
        (("convnet3",), NETWORK, {"convnet3": 3}),
        (("convnet", "resnet10"), NETWORK, {"convnet2": 2, "resnet10": 10}),
        (("resnet_ap",), NETWORK, {"resnetap10": 10}),
        (("resnetap",), NetworkConfig(net_type="resnet_ap", depth=18), {"resnetap18": 18}),
        (("resnet",), NetworkConfig(norm_type="batch"), {"resnet10-batch": 10}),
        (("densenet",), NETWORK, {"densenet121": 121}),
    ],
)
def test_names_of_networks(networks: tuple[str, ...], run_network: NetworkConfig, labels: dict[str, int]) -> None:
    by_label = protocol.chosen_networks(EvaluateConfig(networks=networks), run_network)
    assert {label: item.depth for label, item in by_label.items()} == labels
    assert all((item.width, item.norm_type) == (run_network.width, run_network.norm_type) for item in by_label.values())


def test_names_with_norms() -> None:
    """As the results are labelled; both norms of a network in one evaluation."""
    names = ("resnet18", "resnet18-batch", "ResNet-AP-Group", "convnet-none")
    by_label = protocol.chosen_networks(EvaluateConfig(networks=names), NETWORK)
    assert {label: (item.depth, item.norm_type) for label, item in by_label.items()} == {
        "resnet18": (18, "instance"),
        "resnet18-batch": (18, "batch"),
        "resnetap10-group": (10, "group"),
        "convnet2-none": (2, "none"),
    }
    batch = protocol.chosen_networks(EvaluateConfig(networks=names[:1]), replace(NETWORK, norm_type="batch"))
    assert list(batch) == ["resnet18-batch"]
    with pytest.raises(UserError, match="unknown network 'resnet18-btch'; did you mean 'resnet"):
        protocol.chosen_networks(EvaluateConfig(networks=("resnet18-btch",)), NETWORK)


def test_all_networks_are_checked_before_the_first_is_trained(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "train_network", lambda *args: pytest.fail("trained"))
    for name, words in (("convnt", "unknown network 'convnt'; did you mean 'convnet'?"), ("convnet7", "largest depth")):
        with pytest.raises(UserError, match=words):
            measure.evaluate(set_of(digits), digits, replace(CONFIG, networks=("convnet", name)), NETWORK)


def test_several_networks(digits: ImageData) -> None:
    config = replace(CONFIG, networks=("convnet", "resnet10"), runs=1, epochs=1, yardsticks=("random_real",))
    report = measure.evaluate(set_of(digits), digits, config, NETWORK)
    assert {name: list(entries) for name, entries in report.items()} == {
        "accuracy": ["convnet2", "resnet10"],
        "random_real": ["convnet2", "resnet10"],
    }


# ---- how long ----

SMALL = (32, 32)
LARGE = (224, 224)


@pytest.mark.parametrize(
    ("ipc", "factor", "decode_type", "size", "nclass", "epochs"),
    [
        (1, 1, "single", SMALL, 10, 1000),
        (50, 2, "single", SMALL, 10, 1000),
        (50, 2, "single", (64, 64), 100, 1000),
        (1, 1, "single", LARGE, 10, 3000),
        (1, 3, "single", LARGE, 10, 2000),  # n = 9
        (10, 1, "single", LARGE, 10, 2000),
        (11, 1, "single", LARGE, 10, 1500),
        (50, 1, "single", LARGE, 10, 1500),
        (10, 3, "single", LARGE, 10, 1000),  # n = 90
        (200, 1, "single", LARGE, 10, 1000),
        (201, 1, "single", LARGE, 10, 500),
        (500, 1, "single", LARGE, 10, 500),
        (501, 1, "single", LARGE, 10, 300),
        (20, 3, "bound", LARGE, 10, 1000),  # 180 cells, at most 128
        (60, 3, "bound", LARGE, 10, 1000),  # 540 cells, at most 128
        (1, 1, "single", LARGE, 100, 2000),
        (10, 1, "single", LARGE, 100, 1300),  # 1333 rounded down
        (50, 1, "single", LARGE, 100, 1000),
        (10, 3, "single", LARGE, 100, 600),  # 666
        (500, 1, "single", LARGE, 100, 300),  # 333
        (501, 1, "single", LARGE, 100, 200),
    ],
)
def test_epochs(ipc: int, factor: int, decode_type: str, size: tuple[int, int], nclass: int, epochs: int) -> None:
    class Data:
        pass

    data: Any = Data()
    data.size, data.nclass = size, nclass
    labels = torch.arange(nclass).repeat_interleave(ipc)
    condensed = SyntheticSet(torch.zeros(1), labels, factor=factor, decode_type=decode_type)
    assert protocol.epochs_for(condensed, data, EvaluateConfig()) == epochs
    assert protocol.epochs_for(condensed, data, EvaluateConfig(epochs=7)) == 7


@pytest.mark.parametrize(("ipc", "factor", "counted"), [(2, 2, 80), (10, 2, 400), (3, 1, 30)])
def test_yardsticks_get_as_many_steps(ipc: int, factor: int, counted: int, digits: ImageData) -> None:
    """Counted batch by batch: random real images the same number, but for the rest of an epoch; the whole set more."""
    condensed = set_of(digits, ipc, factor=factor)
    config = EvaluateConfig(epochs=50, whole_epochs=1, batch_size=32)

    def steps(kind: str, images: int) -> tuple[int, int]:
        batches = len(range(0, images, 32))
        return protocol.epochs_of(kind, condensed, digits, config) * batches, batches

    own, _ = steps("accuracy", counted)
    assert own == 50 * len(range(0, counted, 32)) == steps("initial", counted)[0]
    for kind, images in (("random_real", 10 * ipc), ("whole", 1198)):
        found, batches = steps(kind, images)
        assert own <= found < own + batches
    assert protocol.epochs_of("whole", condensed, digits, replace(config, whole_epochs=200)) == 200


# ---- what does not fit ----


def test_other_data_are_refused(digits: ImageData) -> None:
    condensed = set_of(digits)
    bare = ImageData(digits.images, digits.labels, name="bare")
    for data, words in (
        (bare, "bare has no test images; put them in a folder test"),
        (digits.resized(16), "the set holds images of 1x8x8, the data of 1x16x16"),
        (digits.subset(5), "other classes than digits has: 5, 6, 7, 8, 9 only in the set"),
    ):
        with pytest.raises(UserError, match=words):
            measure.evaluate(condensed, data, CONFIG, NETWORK)
    part = replace(condensed, images=condensed.images[:10], labels=condensed.labels[:10])
    for recipe, advice in ({}, "images of every class are needed"), ({"condense": {}}, "join all parts with"):
        with pytest.raises(UserError, match=f"it holds 5 of 10 classes, and lacks 5, 6, 7, 8, 9; {advice}"):
            measure.evaluate(replace(part, recipe=recipe), digits, CONFIG, NETWORK)


def test_what_accuracies_must_share() -> None:
    data = attar.load("digits")
    free = replace(CONFIG, runs=9, seed=4, yardsticks=(), networks=("resnet",), plain=True)
    same = protocol.protocol_of(free, NETWORK, data)
    assert same == protocol.protocol_of(CONFIG, NETWORK, data)
    assert same != protocol.protocol_of(CONFIG, NETWORK, data.holdout(0.2, 0)), "the same name, other images"
    scaled = data._with(rescale=False)
    scaled.std = (0.5,)
    assert same != protocol.protocol_of(CONFIG, NETWORK, scaled), "the same images at another scale"
    computed = attar.ImageData(data.images, data.labels, name="digits")
    given = attar.ImageData(data.images, data.labels, mean=computed.mean, std=computed.std)
    one, other = (protocol.protocol_of(CONFIG, NETWORK, data) for data in (computed, given))
    assert one == other, "given or computed, the numbers count"
    assert data.test_images is not None and data.test_labels is not None
    halves = [
        data._with(test_images=data.test_images[rows], test_labels=data.test_labels[rows])
        for rows in (slice(None, 300), slice(300, None))
    ]
    relabelled = data._with(test_labels=data.test_labels.roll(1))
    digests = {other.test_fingerprint for other in (data, *halves, relabelled)}
    assert len(digests) == 4 and "" not in digests and len({other.fingerprint for other in (data, *halves)}) == 1
    assert all(protocol.protocol_of(CONFIG, NETWORK, other) != same for other in (*halves, relabelled))
    assert data.untested().test_fingerprint == ""
    for config, network in (
        (replace(CONFIG, epochs=3), NETWORK),
        (replace(CONFIG, lr=0.5), NETWORK),
        (replace(CONFIG, aug_type="color"), NETWORK),
        (replace(CONFIG, mix_p=0.5), NETWORK),
        (CONFIG, replace(NETWORK, width=1.0)),
        (CONFIG, replace(NETWORK, norm_type="batch")),
    ):
        assert protocol.protocol_of(config, network, data) != same
