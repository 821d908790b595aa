"""Claims about maskworld.evaluation.video_sets, video_metrics and video_pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.data.video_files import write_video
from maskworld.evaluation import video_metrics
from maskworld.evaluation.results import Results
from maskworld.evaluation.video_dreams import score_dreams
from maskworld.evaluation.video_metrics import (
    Collected,
    ProxyFeatures,
    ScoreSettings,
    collect,
    compare_results,
    make_protocol,
    score_sets,
)
from maskworld.evaluation.video_pairs import score_pairs
from maskworld.evaluation.video_sets import FolderClips, TensorClips, check_pair, select_frames
from maskworld.metrics.frechet import frechet_distance
from maskworld.training.distributed import Processes

FRAMES, SIZE = 5, (16, 20)
PLAIN = {
    "num_frames": FRAMES,
    "frame_stride": 1,
    "selection": "first",
    "condition_frames": 0,
    "includes_condition_frames": True,
    "sampled_frames": 0,
}


def clips(count: int, seed: int, views: int = 1) -> Tensor:
    """Coarse colours that drift to the right."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, views, 3, 4, 5), generator=g, dtype=torch.uint8)
    still = coarse.repeat_interleave(4, -2).repeat_interleave(4, -1)
    return torch.stack([still.roll(t, -1) for t in range(FRAMES)], dim=2)


def in_memory(count: int, seed: int) -> TensorClips:
    return TensorClips(clips(count, seed), [f"{seed}-{i}" for i in range(count)], fps=10.0)


class FrameMeans:
    """A per-frame network that costs nothing."""

    metric, companion, dim, min_frames, is_per_frame = "fid", "kid", 3, 1, True
    backend, weights_sha256, resize = "means", "", ""

    def features(self, clips: Tensor) -> Tensor:
        places = torch.linspace(0, 1, clips.shape[-1])  # so that a shift changes the mean
        return (clips.float() * places).mean((-1, -2)).flatten(0, 1)


def with_ranks(
    number: int, work: Callable[[Processes], Collected], monkeypatch: pytest.MonkeyPatch
) -> list[Collected]:
    """Several ranks as threads, with a gathering that waits for all."""
    barrier, sent = threading.Barrier(number), {}
    found: dict[int, Collected] = {}

    def gather(blob: bytes, processes: Processes, device: torch.device) -> list[bytes]:
        sent[processes.rank] = blob
        barrier.wait()
        parts = [sent[rank] for rank in range(number)]
        barrier.wait()
        return parts

    monkeypatch.setattr(video_metrics, "gather_blobs", gather)
    threads = [
        threading.Thread(target=lambda r=rank: found.update({r: work(Processes(r, number))}))
        for rank in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [found[rank] for rank in range(number)]


def test_any_number_of_processes_and_any_batch_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features clip by clip in their order, and statistics that differ by rounding at most."""
    source, other = in_memory(53, 0), collect(in_memory(60, 1), ProxyFeatures(FRAMES, SIZE))
    once = collect(source, ProxyFeatures(FRAMES, SIZE), batch_size=53)
    distance = frechet_distance(once.statistics, other.statistics)
    for number, batch in ((1, 7), (2, 8), (3, 5)):
        sides = with_ranks(
            number,
            lambda p, b=batch: collect(
                source, ProxyFeatures(FRAMES, SIZE), batch_size=b, processes=p
            ),
            monkeypatch,
        )
        for side in sides:
            assert side.units == once.units
            torch.testing.assert_close(side.features, once.features, rtol=1e-5, atol=1e-6)
            found = frechet_distance(side.statistics, other.statistics)
            assert found == pytest.approx(distance, rel=1e-6)
        assert torch.equal(sides[0].statistics.scatter, sides[-1].statistics.scatter)


def test_every_clip_is_read_once_and_few_are_held() -> None:
    source = in_memory(20, 0)
    asked: list[int] = []

    class Watched(TensorClips):
        def clip(self, index: int) -> Tensor:
            asked.append(index)
            return source.clip(index)

    told: list[int] = []
    watched = Watched(clips(20, 0), source.units)
    collect(watched, ProxyFeatures(FRAMES, SIZE), batch_size=6, on_clips=told.append)
    assert asked == list(range(20))
    assert told == [6, 6, 6, 2]


def test_frames_are_drawn_without_repeats_the_same_on_every_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = in_memory(11, 0)
    whole = collect(source, FrameMeans())
    assert whole.features.shape == (11 * FRAMES, 3)
    once = collect(source, FrameMeans(), sampled_frames=23, seed=4)
    assert once.features.shape == (23, 3)
    assert len(once.statistics) == 23
    rows = {tuple(row) for row in whole.features.tolist()}
    drawn = {tuple(row) for row in once.features.tolist()}
    assert drawn <= rows
    assert len(drawn) == 23
    sides = with_ranks(
        2,
        lambda p: collect(source, FrameMeans(), sampled_frames=23, seed=4, processes=p),
        monkeypatch,
    )
    for side in sides:
        assert side.units == once.units
        assert torch.equal(side.features, once.features)
    with pytest.raises(ValueError, match="at least 60 frames to draw from, found 55"):
        collect(source, FrameMeans(), sampled_frames=60)


def scored(real: TensorClips, dreamt: TensorClips, **changes: object) -> dict[str, object]:
    features = ProxyFeatures(FRAMES, SIZE)
    results = Results("videos", {})
    sides = [collect(one, features) for one in (real, dreamt)]
    protocol = make_protocol(real, dreamt, features, **{**PLAIN, **changes})
    score_sets(results, sides[0], sides[1], features, protocol, ScoreSettings(num_resamples=100))
    return results.to_dict()


def test_numbers_come_with_floor_infinity_interval_and_protocol() -> None:
    """Sets of one distribution: the distance is about the floor, at infinity about 0."""
    found = scored(in_memory(220, 0), in_memory(220, 1))
    metrics, protocol = found["metrics"], found["protocol"]
    one = metrics["frechet_proxy"]
    assert set(metrics) == {"frechet_proxy", "kernel_proxy", "frechet_proxy_infinity"}
    assert one["model"] == pytest.approx(one["real_vs_real"], rel=0.35)
    assert one["interval"][0] < one["model"] < one["interval"][1]
    infinity = metrics["frechet_proxy_infinity"]
    assert infinity["model"] < 0.5 * one["model"]
    low, high = metrics["kernel_proxy"]["interval"]
    assert low < 0 < high
    for name in metrics:
        assert protocol[name]["metric"] == name
        assert protocol[name]["num_real"] == 220
        assert "fvd" not in json_text(protocol[name])


def json_text(value: object) -> str:
    import json

    return json.dumps(value).lower()


def test_a_set_against_itself_is_zero_within_a_millionth_of_the_trace() -> None:
    side = collect(in_memory(70, 0), ProxyFeatures(FRAMES, SIZE))
    trace = float(side.statistics.covariance.trace())
    assert frechet_distance(side.statistics, side.statistics) <= 1e-6 * trace


def test_results_of_different_protocols_are_not_compared() -> None:
    real = in_memory(60, 0)
    first = scored(real, in_memory(60, 1))
    rows = compare_results(first, scored(real, in_memory(60, 2)))
    assert [row[0] for row in rows] == ["frechet_proxy", "kernel_proxy"]
    with pytest.raises(ValueError, match="different frame_stride: 1 and 2"):
        compare_results(first, scored(real, in_memory(60, 1), frame_stride=2))
    with pytest.raises(ValueError, match="different num_real: 60 and 61; clips_sha256"):
        compare_results(first, scored(in_memory(61, 0), in_memory(60, 1)))
    with pytest.raises(ValueError, match="at least one video metric in both"):
        compare_results(first, {"metrics": {}, "protocol": {}})


def test_too_few_clips_are_refused_unless_allowed() -> None:
    features = ProxyFeatures(FRAMES, SIZE)
    sides = [collect(in_memory(48, seed), features) for seed in (0, 1)]
    protocol = make_protocol(in_memory(48, 0), in_memory(48, 1), features, **PLAIN)
    with pytest.raises(ValueError, match="at least 49 samples"):
        score_sets(Results("videos", {}), sides[0], sides[1], features, protocol)
    results = Results("videos", {})
    allowed = ScoreSettings(allows_few=True, num_resamples=100)
    score_sets(results, sides[0], sides[1], features, protocol, allowed)
    reading = results.to_dict()["protocol"]["frechet_proxy_reading"]
    assert reading["covariance_has_full_rank"] is False
    assert reading["floor_of_halves"] == []


def test_pairs_see_freezing_turning_and_lost_detail() -> None:
    real = clips(4, 0)
    names = [f"clip {i}" for i in range(4)]
    frozen = real[:, :, :1].expand_as(real).contiguous()
    backwards = real.flip(2)
    found = {}
    for who, frames in (("same", real), ("frozen", frozen), ("backwards", backwards)):
        results = Results("videos", {})
        score_pairs(results, TensorClips(real, names), TensorClips(frames, names))
        found[who] = results.to_dict()["metrics"]
    assert found["same"]["psnr"]["model"] == 60.0
    assert found["same"]["ssim"]["model"] == pytest.approx(1)
    assert found["same"]["shift_error"]["model"] == 0
    assert found["frozen"]["frame_change_error"]["model"] == pytest.approx(1)
    assert found["frozen"]["psnr"]["model"] == found["same"]["psnr"]["copy_first"]
    assert found["frozen"]["shift_error"]["model"] == pytest.approx(1, abs=0.4)
    assert found["backwards"]["shift_error"]["model"] == pytest.approx(2, abs=0.6)
    assert len(found["same"]["psnr"]["per_horizon"]["model"]) == FRAMES
    others = TensorClips(real, ["other", *names[1:]])
    with pytest.raises(ValueError, match="the very clips"):
        score_pairs(Results("videos", {}), TensorClips(real, names), others)


def write_clips(folder: Path, count: int, frames: int = 6, fps: int = 10, side: int = 16) -> Path:
    for i in range(count):
        pixels = np.zeros((frames, side, side, 3), np.uint8)
        pixels[:] = 20 + 30 * np.arange(frames).reshape(-1, 1, 1, 1)
        write_video(folder / f"{i}.mp4", pixels, fps)
    return folder


def test_folders_give_the_frames_that_the_protocol_names(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, 3)

    def levels(**settings: object) -> list[list[int]]:
        source = FolderClips(folder, **settings)
        found = [source.clip(i).float().mean((1, 2, 3)) for i in range(len(source))]
        return [[round((float(x) - 20) / 30) for x in clip] for clip in found]

    assert levels(num_frames=2, num_clips=1) == [[0, 1]]
    assert levels(num_frames=3, skip=1, num_clips=2) == [[1, 2], [1, 2]]
    assert levels(num_frames=3, stride=2, num_clips=1) == [[0, 2, 4]]
    assert levels(num_frames=2, selection="last", num_clips=1) == [[4, 5]]
    assert levels(num_frames=3, selection="even", num_clips=1) == [[0, 2, 5]]
    assert levels(num_frames=2, every=2, num_clips=4)[:3] == [[0, 1], [2, 3], [4, 5]]
    assert select_frames(25, 25, 1, "even") == list(range(25))
    several = FolderClips(folder, num_frames=2, every=2)
    assert list(several.units) == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    one, other = (FolderClips(folder, num_frames=2, num_clips=n) for n in (1, 2))
    assert one.sha256() != other.sha256()
    assert one.sha256() == FolderClips(folder, num_frames=2, num_clips=1).sha256()


def test_folders_that_cannot_be_scored_are_named(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "a", 2)
    with pytest.raises(ValueError, match=r"0\.mp4 has 6 frames, too few for a clip of 4 frames 2"):
        FolderClips(folder, num_frames=4, stride=2)
    with pytest.raises(ValueError, match=r"Expected 3 clips .* found 2"):
        FolderClips(folder, num_frames=2, num_clips=3)
    with pytest.raises(ValueError, match="only with selection 'first'"):
        FolderClips(folder, num_frames=2, every=2, selection="last")
    slow = FolderClips(write_clips(tmp_path / "b", 1, fps=5), num_frames=2)
    with pytest.raises(ValueError, match="one frame rate, found 10 real and 5 dreamt"):
        check_pair(FolderClips(folder, num_frames=2), slow)
    with pytest.raises(ValueError, match="one length"):
        check_pair(FolderClips(folder, num_frames=2), FolderClips(folder, num_frames=3))
    write_video(folder / "9.mp4", np.zeros((6, 16, 32, 3), np.uint8), 10)
    with pytest.raises(ValueError, match=r"one size .*\(16, 32\) \(9\.mp4\)"):
        FolderClips(folder, num_frames=2)
    assert FolderClips(folder, num_frames=2, size=(16, 16)).size == (16, 16)


def test_dreams_in_memory_are_scored_beside_trivial_futures_without_the_given_frames() -> None:
    """Six frames of which one is given; a frozen future is farther from real than a moving one."""
    given, moving = clips(60, 0)[:, :, :1], clips(60, 0)
    real = torch.cat([given, moving], dim=2)
    dreamt = torch.cat([given, clips(60, 1)], dim=2)
    frozen = given.expand(-1, -1, FRAMES + 1, -1, -1, -1).contiguous()
    results = Results("maskgwm", {"data": "stripes"})
    score_dreams(
        results,
        real,
        dreamt,
        [str(i) for i in range(60)],
        ProxyFeatures(FRAMES, SIZE),
        num_context=1,
        trivial={"copy_last": frozen},
    )
    found = results.to_dict()
    one = found["metrics"]["frechet_proxy"]
    assert one["copy_last"] > one["model"] > 0
    protocol = found["protocol"]["frechet_proxy"]
    assert (protocol["num_frames"], protocol["condition_frames"]) == (FRAMES + 1, 1)
    assert protocol["includes_condition_frames"] is False
    assert found["protocol"]["data"] == "stripes"
