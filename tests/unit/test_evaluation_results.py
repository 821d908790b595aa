import copy
import json

import numpy as np
import pytest
import torch

from maskworld.evaluation.results import Results, baseline_names, check_results, read_results


def filled() -> Results:
    results = Results("worlddreamer", {"num_clips": 200, "seeds": [0], "decoding": "expected"})
    results.add(
        "psnr",
        model=np.float64(22.5),
        interval=(22.0, 23.0),
        n=200,
        better="higher",
        baselines={"copy_last": torch.tensor(20.5), "mean_image": 21.5},
        per_horizon={"model": [23.0, np.float32(22.0)], "copy_last": [21.0, 20.0]},
    )
    results.add("style/autumn", model=0.95, interval=(0.9, 0.98), n=100, better="higher")
    results.add("seconds_per_clip/sampler", model=1, interval=(0.9, 1.1), n=8, better="lower")
    return results


def test_the_file_has_exactly_the_schema_and_survives_a_round_trip(tmp_path):
    filled().write(tmp_path / "metrics.json")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == {
        "system": "worlddreamer",
        "protocol": {"num_clips": 200, "seeds": [0], "decoding": "expected"},
        "metrics": {
            "psnr": {
                "model": 22.5,
                "copy_last": 20.5,
                "mean_image": 21.5,
                "interval": [22.0, 23.0],
                "n": 200,
                "better": "higher",
                "per_horizon": {"model": [23.0, 22.0], "copy_last": [21.0, 20.0]},
            },
            "style/autumn": {"model": 0.95, "interval": [0.9, 0.98], "n": 100, "better": "higher"},
            "seconds_per_clip/sampler": {
                "model": 1,
                "interval": [0.9, 1.1],
                "n": 8,
                "better": "lower",
            },
        },
    }
    assert read_results(tmp_path / "metrics.json") == content
    assert baseline_names(content["metrics"]["psnr"]) == ["copy_last", "mean_image"]


VALID = {"model": 1.0, "interval": (0.5, 1.5), "n": 3, "better": "higher"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("psnr", {"model": float("nan")}, "metrics/psnr/model: expected a finite number"),
        ("psnr", {"model": True}, "finite number"),
        ("psnr", {"model": "22"}, "finite number"),
        ("psnr", {"baselines": {"copy_last": float("inf")}}, "metrics/psnr/copy_last"),
        ("psnr", {"baselines": {"interval": 1.0}}, "other names"),
        ("psnr", {"interval": (2.0, 1.0)}, "low <= high"),
        ("psnr", {"interval": (1.0,)}, r"\[low, high\]"),
        ("psnr", {"interval": (0.0, float("nan"))}, "finite number"),
        ("psnr", {"n": 0}, "at least 1"),
        ("psnr", {"n": 2.5}, "at least 1"),
        ("psnr", {"better": "up"}, '"higher" or "lower"'),
        ("PSNR (dB)", {}, "a name like"),
        ("psnr", {"per_horizon": {"copy_last": [1.0]}}, '"model"'),
        ("psnr", {"per_horizon": {"model": []}}, "list of numbers"),
        ("psnr", {"per_horizon": {"model": [float("nan")]}}, "finite number"),
        ("psnr", {"per_horizon": {"model": [1.0, 2.0], "copy_last": [1.0]}}, "number of steps"),
    ],
)
def test_a_metric_outside_the_schema_is_refused_when_added(name, change, message):
    with pytest.raises(ValueError, match=message):
        Results("worlddreamer", {}).add(name, **{**VALID, **change})


def test_an_undefined_step_is_null():
    results = Results("worlddreamer", {})
    results.add("changed_token_accuracy", **VALID, per_horizon={"model": [None, 0.1]})
    entry = results.to_dict()["metrics"]["changed_token_accuracy"]
    assert json.loads(json.dumps(entry))["per_horizon"] == {"model": [None, 0.1]}


def test_a_metric_is_added_once():
    results = filled()
    with pytest.raises(ValueError, match="once"):
        results.add("psnr", **VALID)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.pop("protocol"),
        lambda c: c.update(extra=1),
        lambda c: c.update(system=""),
        lambda c: c.update(metrics={}),
        lambda c: c.update(protocol=[]),
        lambda c: c["protocol"].update(temperature=float("inf")),
        lambda c: c["protocol"].update(path=object()),
        lambda c: c["metrics"]["psnr"].pop("better"),
        lambda c: c["metrics"]["psnr"].pop("interval"),
        lambda c: c["metrics"]["psnr"].pop("n"),
        lambda c: c["metrics"]["psnr"].pop("model"),
        lambda c: c["metrics"]["psnr"].update(note="text is not a baseline"),
    ],
)
def test_content_outside_the_schema_is_refused(spoil):
    content = filled().to_dict()
    check_results(content)
    spoilt = copy.deepcopy(content)
    spoil(spoilt)
    with pytest.raises(ValueError, match="xpected"):
        check_results(spoilt)


def test_nan_and_repeated_keys_in_a_file_are_refused_with_its_name(tmp_path):
    path = tmp_path / "metrics.json"
    filled().write(path)
    good = path.read_text()
    for text in (
        good.replace("22.5", "NaN"),
        good.replace("22.5", "Infinity"),
        good.replace('"n": 200,', '"n": 200, "n": 300,'),
        good[: len(good) // 2],
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json"):
            read_results(path)


def test_refused_results_leave_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "metrics.json"
    filled().write(path)
    before = path.read_bytes()
    broken = filled()
    broken.protocol["temperature"] = float("nan")
    with pytest.raises(ValueError, match="protocol/temperature"):
        broken.write(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]
