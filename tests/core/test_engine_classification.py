"""The figures of a classification, against a count by hand and torchmetrics; trainers of several views, and without
classes."""

import json
from pathlib import Path
from typing import Annotated

import pytest
import torch
from lamella import IGNORE, AtStart, Batch, ClassificationMetrics, Trainer
from lamella.engine.charts import confusion_chart, embedding_chart
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import _better, fit
from lamella.engine.pictures import sample_row
from lamella.engine.run import open_run
from lamella.errors import ConfigError, ContractError, RunError
from lamella.registry.component import Component
from pydantic import Field

CLASSES = ["none", "bridge", "open"]


def scored(count, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(count, classes, generator=generator).softmax(1)
    return probabilities, torch.randint(classes, (count,), generator=generator)


def batch_of(label):
    return Batch.of(torch.zeros(len(label), 1, 4, 4), label=label)


def figures(probabilities, label, *, parts=1):
    metrics = ClassificationMetrics(CLASSES)
    for p, y in zip(probabilities.chunk(parts), label.chunk(parts)):
        metrics.update(p, batch_of(y))
    return metrics.compute()


def test_figures_equal_a_count_by_hand():
    probabilities, label = scored(50)
    found, predicted = figures(probabilities, label, parts=4), probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx((predicted == label).float().mean().item())
    recalls = [(predicted[label == k] == k).float().mean().item() for k in range(3)]
    assert list(found["recall"].values()) == pytest.approx(recalls)
    assert found["macro_recall"] == pytest.approx(sum(recalls) / 3)
    assert list(found["precision"].values()) == pytest.approx(
        [(label[predicted == k] == k).float().mean().item() for k in range(3)]
    )
    table = [[int(((label == i) & (predicted == j)).sum()) for j in range(3)] for i in range(3)]
    assert (found["confusion"], found["samples"]) == (table, 50)
    assert found["nll"] == pytest.approx(torch.nn.functional.nll_loss(probabilities.log(), label).item())


@pytest.mark.slow
def test_calibration_error_equals_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, label = scored(400, seed=3)
    wanted = multiclass_calibration_error(probabilities, label, num_classes=3, n_bins=15, norm="l1")
    assert figures(probabilities, label, parts=3)["ece"] == pytest.approx(wanted.item(), abs=1e-6)


def test_ignored_samples_and_absent_classes_do_not_count():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05]])
    for nothing in (IGNORE, -1):
        found = figures(probabilities, torch.tensor([0, 0, nothing]))
        assert (found["accuracy"], found["macro_recall"], found["samples"]) == (0.5, 0.5, 2)
    assert found["recall"]["bridge"] != found["recall"]["bridge"]


def test_of_several_views_the_first_ones_label_counts():
    probabilities, label = scored(6)
    metrics = ClassificationMetrics(CLASSES)
    metrics.update(probabilities, {"high": batch_of(label), "low": batch_of(label.flip(0))})
    assert metrics.compute() == figures(probabilities, label)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ContractError, match="no sample"):
        ClassificationMetrics(CLASSES).compute()
    with pytest.raises(ContractError, match=r"shape \(4, 2\) do not fit labels of shape \(4,\) and 3 classes"):
        figures(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))


def test_charts_and_sample_rows_are_drawn():
    table = [[5, 1, 0], [0, 7, 2], [3, 0, 4]]
    assert confusion_chart(table, CLASSES).size[0] > 200
    points = [[0.1 * i, 0.2 * i, i % 3, i % 2] for i in range(12)]
    assert embedding_chart(points, CLASSES).size[0] > 400
    grey = torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()
    strip = sample_row(
        {"high": grey, "low": grey}, 1, [0.1, 0.7, 0.2], CLASSES, name="D1", pixel_nm={"high": 2.0, "low": torch.nan}
    )
    assert strip.size == (3 * 256 + 12, 22 + 256 + 24)  # the scale bar is below


class PairLearner(Trainer):
    """Learns one number from the two views of the tiny squares."""

    roles = ("unlabelled",)
    embeds = True
    takes_views = True

    def __init__(self, *, start: float = 0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((), start))

    def forward(self, batches, step):
        return {"loss": (self.scale - batches["unlabelled"]["high"].image.mean()).square()}

    def predict(self, batch):
        return torch.stack([one.image.mean((1, 2, 3)) for one in batch.values()], 1).unsqueeze(2) * self.scale

    def metrics(self):
        class Spread:
            def __init__(self):
                self.seen = []

            def update(self, prediction, batch):
                assert set(batch) == {"high", "low"}
                self.seen.append(prediction)

            def compute(self):
                return {"spread": torch.cat(self.seen).std().item()}

        return [Spread()]


class PairModality:
    channels = 1
    metadata = {}  # noqa: RUF012
    weak = ()

    def calibrate(self, images):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass

    def collate(self, samples):
        image = torch.stack([torch.from_numpy(s.image / 255.0).float() for s in samples]).unsqueeze(1)
        one = Batch.of(image, key=torch.tensor([s.key for s in samples]))
        return {"high": one, "low": one._replace(image=image * 0.5)}

    def picture(self, image):
        return (image * 255).byte().expand(3, -1, -1).permute(1, 2, 0).numpy()


EXPERIMENT = {
    "modality": "pairs",
    "data": {"unlabelled": {"source": {"name": "tiny-squares", "count": 4}}},
    "trainer": {"name": "pair-learner", "start": 0.5},
    "fit": {"steps": 4, "batch_size": 2, "log_every": 2, "evaluate_every": 2},
}


@pytest.fixture
def pairs_registry(tiny_registry):
    added = {"trainer": ("pair-learner", PairLearner), "modality": ("pairs", PairModality)}
    for kind, (name, target) in added.items():
        tiny_registry._components[kind][name] = [Component(kind, name, "tiny_plugin", "", target)]
    yield tiny_registry
    for kind, (name, _) in added.items():
        del tiny_registry._components[kind][name]


def run_of(tables, registry, folder, **changes):
    experiment = check_experiment({**tables, **changes}, name="pairs", folder=folder, registry=registry)
    return fit(experiment, folder / "run")


def test_a_trainer_without_classes_learns_from_pairs_and_is_measured(pairs_registry, tmp_path):
    data = {**EXPERIMENT["data"], "test": {"source": {"name": "tiny-squares", "count": 3, "seed": 1}}}
    results = run_of(EXPERIMENT, pairs_registry, tmp_path, data=data)
    assert results["sets"]["test"]["spread"] > 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert not list((tmp_path / "run").glob("pictures/*"))


def test_a_trainer_of_single_images_is_refused_beside_a_modality_of_views(pairs_registry, tmp_path):
    data = {"labelled": EXPERIMENT["data"]["unlabelled"]}
    trainer = {"name": "tiny-plain", "backbone": {"name": "tiny-conv"}}
    with pytest.raises(ConfigError, match=r"tiny-plain learns from single images, and .*pairs gives .*high, low"):
        run_of(EXPERIMENT, pairs_registry, tmp_path, data=data, trainer=trainer)
    assert not (tmp_path / "run" / "run.json").exists()


def test_without_a_single_class_name(pairs_registry, tmp_path, monkeypatch):
    from lamella.engine import session

    monkeypatch.setattr(session.SampleTable, "labelled", property(lambda table: False))
    assert run_of(EXPERIMENT, pairs_registry, tmp_path)["classes"] == []
    with pytest.raises(ConfigError, match="name no classes"):
        run_of(
            EXPERIMENT, pairs_registry, tmp_path / "other",
            data={"labelled": EXPERIMENT["data"]["unlabelled"]},
            trainer={"name": "tiny-plain", "backbone": {"name": "tiny-conv"}}, modality="tiny-grey",
        )  # fmt: skip


def test_best_last_measures_and_keeps_the_last(pairs_registry, tmp_path):
    data = {**EXPERIMENT["data"], "validation": {"source": {"name": "tiny-squares", "count": 3, "seed": 1}}}
    results = run_of(EXPERIMENT, pairs_registry, tmp_path, data=data, fit={**EXPERIMENT["fit"], "best": "last"})
    assert results["checkpoint"] == "last"
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert log.count('"spread"') == 2


@pytest.mark.parametrize(
    ("figure", "least", "kept"),
    [("nll", ClassificationMetrics.less_is_better, 4), ("misses", ["misses"], 4), ("spread", ["misses"], 2)],
)
def test_the_best_checkpoint_is_that_of_the_least_error(pairs_registry, tmp_path, monkeypatch, figure, least, kept):
    """A figure that falls in training: the last is the best of an error, the first of anything else."""

    class Falling(PairLearner):
        def metrics(self):
            (spread,) = super().metrics()
            compute = spread.compute
            spread.compute = lambda: {figure: compute()["spread"]}
            spread.less_is_better = least
            return [spread]

    monkeypatch.setattr(pairs_registry._components["trainer"]["pair-learner"][0], "target", Falling)
    data = {**EXPERIMENT["data"], "validation": {"source": {"name": "tiny-squares", "count": 3, "seed": 1}}}
    run_of(EXPERIMENT, pairs_registry, tmp_path, data=data, fit={**EXPERIMENT["fit"], "best": figure})
    assert json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["step"] == kept


def test_a_figure_that_is_no_number_is_the_best_of_none_alone():
    nan = float("nan")
    for least in (False, True):
        assert _better(nan, None, least=least) and _better(0.1, nan, least=least)
        assert not _better(nan, 0.1, least=least)


def test_what_cannot_predict_before_it_has_seen_labels_is_trained_all_the_same(pairs_registry, tmp_path, monkeypatch):
    class Late(PairLearner):
        shown = False

        def forward(self, batches, step):
            self.shown = True
            return super().forward(batches, step)

        def predict(self, batch):
            if not self.shown:
                raise RunError("no exemplar was given")
            return super().predict(batch)

    monkeypatch.setattr(pairs_registry._components["trainer"]["pair-learner"][0], "target", Late)
    data = {**EXPERIMENT["data"], "validation": {"source": {"name": "tiny-squares", "count": 3, "seed": 1}}}
    results = run_of(EXPERIMENT, pairs_registry, tmp_path, data=data, fit={**EXPERIMENT["fit"], "best": "spread"})
    assert results["checkpoint"] == "best"


@pytest.mark.parametrize("required", [False, True])
def test_a_run_is_opened_without_what_only_matters_at_its_start(pairs_registry, tmp_path, required):
    class Started(PairLearner):
        def __init__(self, *, weights: Annotated[str | None, AtStart, Field(description="to start from")] = None):
            super().__init__(start=0.5)
            if weights is not None:
                self.scale.data.fill_(float(Path(weights).read_text()))

    pairs_registry._components["trainer"]["pair-learner"][0].target = Started
    (tmp_path / "start.txt").write_text("3.0")
    trainer = {"name": "pair-learner", "weights": str(tmp_path / "start.txt")}
    if required:
        del Started.__init__.__kwdefaults__["weights"]
    run_of(EXPERIMENT, pairs_registry, tmp_path, trainer=trainer)
    (tmp_path / "start.txt").unlink()
    _, opened, _, _ = open_run(tmp_path / "run", registry=pairs_registry)
    assert opened.scale.item() > 2.9
