"""`maskworld train reworld-...` and `evaluate`: stages in turn or alone, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_material import save_micro_model, write_clip
from reworld_material import moving_drives

from maskworld.cli import reworld_data, reworld_mining, reworld_training
from maskworld.cli.main import main
from maskworld.cli.reworld_stages import choose_stages
from maskworld.cli.train import TrainOptions
from maskworld.data.dataset import ClipDataset
from maskworld.data.sources.lerobot_plans import LeRobotDrives
from maskworld.evaluation.results import read_results
from maskworld.metrics.pdms import SCORE_NAMES
from maskworld.nn.weights_io import read_safetensors
from maskworld.preparation.collect import collect_drive
from maskworld.recipes import load_recipe, load_recipe_of
from maskworld.recipes.open import load_reworld, open_dataset, open_source
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.training.checkpoint import list_checkpoints

TINY = ["reworld-tiny", "--tokenizer-steps", "1", "--steps", "2", "--batch-size", "2"]
TINY += ["--frame-size", "24", "36"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drives with poses, videos without, and what cannot be trained on."""
    import cv2

    folder = tmp_path_factory.mktemp("train_reworld")
    collect_drive(
        folder / "drives", num_worlds=1, episodes_per_world=2, num_frames=44, size=(24, 36)
    )
    collect_drive(
        folder / "brief", num_worlds=1, episodes_per_world=1, num_frames=24, size=(24, 36)
    )
    write_poses(folder / "poses")
    write_clip(folder / "clips" / "a.mp4", 24)
    write_clip(folder / "short" / "a.mp4", 12)
    write_clip(folder / "nan" / "a.mp4", 24)
    np.save(folder / "nan" / "a.npy", np.full((24, 2), np.nan, np.float32))
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((24, 36, 3), np.uint8))
    np.save(folder / "codes.npy", np.random.default_rng(0).integers(0, 1024, (12, 128)))
    save_micro_model(folder / "worlddreamer")
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reworld_training, "FIT_CLIPS", 32)


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all stages, and what it said."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reworld_training, "FIT_CLIPS", 32)
        assert run(place, out, *TINY, "--data", "drives", "--sample-every", "2") == 0
    return out


def run(place: Path, out: Path, *words: str) -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["train", *found, "--out", str(out)])


def write_poses(folder: Path) -> None:
    """A drive of someone else's: it knows where the car was, not what stood around it."""
    from maskworld.data.lerobot import LeRobotWriter

    ego = np.zeros((44, 4), np.float32)
    ego[:, 0], ego[:, 3] = np.arange(44), 5.0
    frames = np.random.default_rng(0).integers(0, 256, (1, 44, 3, 24, 36)).astype(np.uint8)
    with LeRobotWriter(folder, fps=5, size=(24, 36)) as writer:
        writer.add_episode(frames=frames, caption="a drive", extra={"ego": ego})


def write_pool(place: Path, path: Path, *, prefix: str = "", shift: float = 0.0) -> Path:
    """A pool with one bad candidate for every expert's moment of the drives."""
    from maskworld.preparation.mining_pool import NegativePool, PoolMeta, fingerprint_of

    source = LeRobotDrives(open_source(place / "drives"))  # type: ignore[arg-type]
    tokens, experts = [], []
    for number in range(len(source)):
        episode = source.episode(number)
        for frame in range(8, 24):
            plan = episode.plan_at(frame)
            if plan.trajectory is not None:
                tokens.append(prefix + plan.token)
                experts.append(plan.trajectory.numpy() + np.float32(shift))
    rows = np.stack(experts)
    scores = np.zeros((len(rows), 1, len(SCORE_NAMES)))
    meta = PoolMeta(fingerprint_of(tokens, rows), "test", {}, 0)
    NegativePool(tuple(tokens), rows, rows[:, None] + 1, scores, meta).save(path)
    return path


def test_all_stages_run_in_turn_and_end_in_a_model(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert [s["name"] for s in config["stages"]] == ["tokenizer", "video", "action", "joint"]
    assert list((trained / "samples").iterdir())
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    terms = {row["stage"]: set(row) for row in map(json.loads, lines)}
    assert {"loss/velocity", "loss/intermediate_2"} <= terms["video"]
    assert {"loss/action_velocity", "loss/alignment"} <= terms["action"]
    assert {"loss/action_velocity", "loss/repulsion"} <= terms["joint"]
    system = load_reworld(trained / "model").system
    assert bool(system.normaliser.statistics.is_fitted)


def test_a_run_can_start_at_a_stage_from_a_model(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY[:1], *TINY[3:], "--data", "drives", "--init", f"{trained}/model"]
    pool = write_pool(place, tmp_path / "pool.safetensors")
    options = ["--start-at", "joint", "--pool", str(pool), "--sample-every", "0"]
    assert run(place, tmp_path / "joint", *words, *options) == 0, capsys.readouterr().err
    lines = (tmp_path / "joint" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"joint"}
    assert any(json.loads(line)["loss/repulsion"] < 0 for line in lines)  # negatives were there

    assert run(place, tmp_path / "action", *words, "--stages", "action", "--sample-every", "0") == 0
    before = read_safetensors(trained / "model" / "model.safetensors")
    after = read_safetensors(tmp_path / "action" / "model" / "model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"action"}


def test_videos_without_poses_train_the_video_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--data", "clips", "--stages", "video", "--sample-every", "0"]
    assert run(place, tmp_path / "run", *words) == 0, capsys.readouterr().err
    assert load_reworld(tmp_path / "run" / "model").system.config.future_actions == 0
    capsys.readouterr()
    line = ["plan", f"{tmp_path}/run/model", "--video", str(place / "clips" / "a.mp4")]
    assert main([*line, "--ego", "5", "0", "0", "0"]) == 2
    assert "a model of the video alone" in capsys.readouterr().err


def test_a_learnt_tokenizer_is_measured_after_its_stage_and_resumed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from maskworld.tokenizers.causal_vae import CausalVAEConfig

    tiny = load_recipe_of(ReWorldRecipe, "reworld-tiny")
    vae = CausalVAEConfig(
        channels=48, patch_size=4, widths=(8, 8, 8, 8), halves_space=(False, False, False)
    )
    video = replace(tiny.system.video, in_channels=48)
    system = replace(tiny.system, tokenizer=vae, video=video, carries_past=False)
    small = replace(tiny, system=system)
    monkeypatch.setattr("maskworld.cli.training.load_recipe", lambda name: small)
    words = [*TINY, "--data", "clips", "--stages", "video", "--sample-every", "0"]
    assert run(place, tmp_path / "run", *words) == 0
    assert bool(load_reworld(tmp_path / "run" / "model").system.tokenizer.is_measured)

    # Stopped after the tokenizer's stage, the run goes on to the same weights.
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    checkpoints = list_checkpoints(tmp_path / "again" / "checkpoints")
    assert [step for step, _ in checkpoints] == [1, 3]
    shutil.rmtree(checkpoints[-1][1])
    shutil.rmtree(tmp_path / "again" / "model")
    assert run(place, tmp_path / "again", *words, "--resume") == 0
    straight, resumed = (
        read_safetensors(tmp_path / name / "model" / "model.safetensors")
        for name in ("run", "again")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_negatives_are_mined_while_training_and_resumed_bit_for_bit(
    trained: Path,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reworld_mining, "FIT_STEPS", 5)
    words = ["reworld-tiny", "--data", "drives", "--start-at", "joint", "--steps", "4"]
    words += ["--batch-size", "4", "--frame-size", "24", "36", "--sample-every", "0"]
    words += ["--init", f"{trained}/model", "--save-every", "2", "--mine-online"]
    words += ["--mining-every", "2", "--num-candidates", "6", "--noise-scale", "1.0"]
    assert run(place, tmp_path / "run", *words) == 0, capsys.readouterr().err
    assert "Hard negatives in" in capsys.readouterr().out
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < row["mining/share_with_negative"] <= 1
    assert 0 < row["mining/scenes_mined"] <= 16
    assert row["loss/repulsion"] < 0
    assert (tmp_path / "run" / "generator" / "config.json").is_file()

    shutil.copytree(tmp_path / "run", tmp_path / "again")
    checkpoints = list_checkpoints(tmp_path / "again" / "checkpoints")
    assert [step for step, _ in checkpoints] == [2, 4]
    shutil.rmtree(checkpoints[-1][1])
    shutil.rmtree(tmp_path / "again" / "model")
    assert run(place, tmp_path / "again", *words, "--resume") == 0, capsys.readouterr().err
    straight, resumed = (
        read_safetensors(tmp_path / name / "model" / "model.safetensors")
        for name in ("run", "again")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert run(place, tmp_path / "again", *words, "--resume", "--threshold", "0.5") == 2
    assert "threshold" in capsys.readouterr().err


def test_a_planner_may_propose_its_own_negatives(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reworld-tiny", "--data", "drives", "--stages", "joint", "--steps", "2"]
    words += ["--batch-size", "2", "--frame-size", "24", "36", "--sample-every", "0"]
    words += ["--init", f"{trained}/model", "--mine-online", "--generator", "planner"]
    words += ["--num-candidates", "4", "--threshold", "1.01"]  # whatever it plans is unsafe
    assert run(place, tmp_path / "run", *words) == 0, capsys.readouterr().err
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["mining/share_with_negative"] == 1
    assert not (tmp_path / "run" / "generator").exists()


def test_a_pool_mined_from_the_same_data_trains_the_planner(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["data", "mine", "--out", str(tmp_path / "pool"), "--data", str(place / "drives")]
    mine += ["--num-candidates", "4", "--dim", "16", "--fit-steps", "5", "--noise-scale", "1.0"]
    assert main(mine) == 0, capsys.readouterr().err
    words = ["reworld-tiny", "--data", "drives", "--stages", "joint", "--steps", "1"]
    words += ["--batch-size", "4", "--frame-size", "24", "36", "--sample-every", "0"]
    words += ["--init", f"{trained}/model", "--pool", str(tmp_path / "pool"), "--threshold", "2"]
    assert run(place, tmp_path / "run", *words) == 0, capsys.readouterr().err
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["loss/repulsion"] < 0
    assert "not in the pool" not in capsys.readouterr().err
    assert main([*mine, "--overwrite", "--held-out", "0", "3"]) == 2
    assert "held-out" in capsys.readouterr().err


def test_stage_standard_trains_both_towers_at_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--data", "drives", "--stages", "standard", "--sample-every", "0"]
    assert run(place, tmp_path / "run", *words) == 0, capsys.readouterr().err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = {row["stage"]: row for row in map(json.loads, lines)}
    assert set(found) == {"tokenizer", "standard"}
    losses = {name for name in found["standard"] if name.startswith("loss/")}
    assert losses == {"loss/velocity", "loss/action_velocity"}  # Eq. 5 and nothing else
    system = load_reworld(tmp_path / "run" / "model").system
    assert bool(system.normaliser.statistics.is_fitted)


def test_a_curriculum_cuts_windows_of_its_own_for_every_stage(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from maskworld.systems.reworld import ReWorld

    tiny = load_recipe_of(ReWorldRecipe, "reworld-tiny")
    video = replace(tiny.stages[1], save_every=0)
    rows = (
        tiny.stages[0],
        replace(video, name="video-1", num_frames=25, frame_size=(12, 24)),
        replace(video, name="video-2"),
    )
    curriculum = replace(tiny, stages=rows)
    monkeypatch.setattr("maskworld.cli.training.load_recipe", lambda name: curriculum)
    seen: dict[str, tuple[int, ...]] = {}
    original = ReWorld.training_loss

    def noting(self: ReWorld, batch: object, stage: str, generator: torch.Generator) -> object:
        seen[stage] = tuple(batch.frames.shape[2:])  # type: ignore[attr-defined]
        return original(self, batch, stage, generator)  # type: ignore[arg-type]

    monkeypatch.setattr(ReWorld, "training_loss", noting)
    words = ["reworld-tiny", "--data", "drives", "--steps", "1", "--tokenizer-steps", "1"]
    words += ["--batch-size", "2", "--sample-every", "0"]
    assert run(place, tmp_path / "run", *words) == 0
    assert seen["video-1"] == (25, 3, 12, 24)
    assert seen["video-2"] == (17, 3, *tiny.system.frame_size)
    assert run(place, tmp_path / "own", *words, "--frame-size", "24", "36") == 0
    assert seen["video-1"] == (25, 3, 24, 36)


def test_stages_are_chosen_by_name_kind_or_first() -> None:
    paper = load_recipe_of(ReWorldRecipe, "reworld-paper")

    def names(**asked: object) -> list[str]:
        options = TrainOptions("reworld-paper", **asked)  # type: ignore[arg-type]
        return [stage.name for stage in choose_stages(options, paper)]

    assert names() == ["video-1", "video-2", "action", "joint"]
    assert names(stages=("video",)) == ["video-1", "video-2"]
    assert names(stages=("action", "video-1"), init="m") == ["video-1", "action"]
    assert names(start_at="action", init="m") == ["action", "joint"]
    assert names(start_at="video-2", init="m") == ["video-2", "action", "joint"]
    assert names(stages=("standard",)) == ["standard"]


def test_clips_tell_their_plan_at_the_last_past_frame(place: Path) -> None:
    source = open_source(place / "drives")
    dataset = open_dataset(source, 17, (24, 36), 5.0, plan_frame=8)
    clip = dataset[3]
    assert clip.plan is not None
    assert clip.actions is not None
    assert clip.plan.ego[0] == pytest.approx(float(clip.actions[8, 0]), abs=1e-5)
    assert clip.plan.token.endswith(f"frame {clip.start + 8}")


def test_ghosts_are_no_experts(place: Path) -> None:
    source = LeRobotDrives(open_source(place / "drives"))  # type: ignore[arg-type]
    kinds = {source.episode(i).attributes["kind"]: source.episode(i) for i in range(len(source))}
    assert kinds["expert"].plan_at(9).trajectory is not None
    assert kinds["ghost"].plan_at(9).trajectory is None
    dataset = open_dataset(open_source(place / "drives"), 9, (24, 36), 5.0, plan_frame=8)
    assert isinstance(dataset, ClipDataset)
    experts = reworld_data.experts_of(dataset)
    assert 0 < len(experts) < len(dataset)
    clips = [experts.get(number, seed=0) for number in range(len(experts))]
    assert all(clip.plan is not None and clip.plan.trajectory is not None for clip in clips)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("reworld-tiny", "--data"),
        ("reworld-tiny --data drives --stages vidio", "Did you mean 'video'?"),
        ("reworld-tiny --data drives --start-at 4", "video, action, joint"),
        ("reworld-tiny --data drives --start-at action", "--init"),
        ("reworld-tiny --data drives --stages video joint", "--init"),
        ("reworld-tiny --data drives --stages video --start-at video", "found both"),
        ("reworld-tiny --data clips", "--stages video"),
        ("reworld-tiny --data brief", "future too short"),
        ("reworld-tiny --data short --stages video", "has 12"),
        ("reworld-tiny --data nan --stages video", "NaN"),
        ("reworld-tiny --data images", "single images"),
        ("reworld-tiny --data codes.npy", "pixels"),
        ("reworld-tiny --data drives --frame-size 25 36", "--frame-size 24 36"),
        ("reworld-tiny --data drives --num-frames 16", "8k + 1"),
        ("reworld-tiny --data drives --num-frames 9", "fewer past frames"),
        ("reworld-tiny --data drives --tokenizer nothing", "no --tokenizer"),
        ("reworld-tiny --data drives --video-weights nothing", "LTX-Video"),
        ("reworld-tiny --data drives --pool nothing", "data mine"),
        ("reworld-tiny --data drives --stages standard video", "standard alone"),
        ("reworld-tiny --data drives --stages joint --no-world-model", "action alone"),
        ("reworld-tiny --data drives --mine-online --pool nothing", "data mine"),
        ("reworld-tiny --data poses --mine-online", "--mining-scenes"),
        ("reworld-tiny --data drives --mine-online --mining-scenes nothing", "scene file"),
        ("reworld-tiny --data drives --mine-online --generator nothing", "config.json"),
        ("reworld-tiny --data drives --mine-online --mining-every 0", "at least 1"),
        ("worlddreamer-tiny --data clips --mine-online", "ReWorld only"),
        ("reworld-tiny --data drives --init worlddreamer", "a model of reworld"),
        ("reworld-tiny --data drives --init nothing", "config.json"),
        ("reworld-paper --data drives", "--tokenizer"),
        ("worlddreamer-tiny --data clips --stages video", "ReWorld only"),
        ("worlddreamer-tiny --data clips --pool nothing", "ReWorld only"),
    ],
)
def test_bad_input_is_a_clear_error_and_makes_no_folder(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "run", *words.split()) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1]
    assert all(line.startswith("warning: ") for line in error[:-1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"prefix": "other "}, "mined from"), ({"shift": 1.0}, "another trajectory")],
)
def test_a_pool_of_other_data_is_refused(
    changes: dict[str, object],
    said: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = write_pool(place, tmp_path / "pool.safetensors", **changes)  # type: ignore[arg-type]
    words = [*TINY, "--data", "drives", "--pool", str(pool)]
    assert run(place, tmp_path / "run", *words) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_joint_without_negatives_warns(trained: Path, place: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no hard negatives"):
        reworld_training.run_reworld_training(
            TrainOptions(
                "reworld-tiny",
                data=(str(place / "drives"),),
                out=tmp_path / "run",
                init=f"{trained}/model",
                start_at="joint",
                steps=1,
                batch_size=2,
                frame_size=(24, 36),
                sample_every=0,
            ),
            load_recipe_of(ReWorldRecipe, "reworld-tiny"),
        )


def test_half_of_the_windows_must_have_a_plan_for_the_video_to_read_it(place: Path) -> None:
    def opened(name: str) -> object:
        source = open_source(place / name)

        def at(plan_frame: int | None) -> object:
            return open_dataset(source, 17, (24, 36), 5.0, plan_frame=plan_frame)

        return at

    assert reworld_data.with_plans(opened("drives"), 8).plan_frame == 8
    with pytest.warns(UserWarning, match="without ego states"):
        assert reworld_data.with_plans(opened("brief"), 8).plan_frame is None


def test_evaluate_scores_dreams_plans_and_drives_beside_other_models(
    trained: Path,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maskworld.cli import reworld_scoring

    monkeypatch.setattr(reworld_scoring, "EGO_WORLDS", 2)
    words = [*TINY[:1], *TINY[3:], "--data", "drives", "--init", f"{trained}/model"]
    words += ["--no-world-model", "--sample-every", "0"]
    assert run(place, tmp_path / "plain", *words) == 0, capsys.readouterr().err
    before = read_safetensors(trained / "model" / "model.safetensors")
    after = read_safetensors(tmp_path / "plain" / "model" / "model.safetensors")
    assert torch.equal(before["tokenizer.first.mean"], after["tokenizer.first.mean"])
    assert not torch.equal(before["video.proj_in.weight"], after["video.proj_in.weight"])

    out = tmp_path / "scores"
    line = ["evaluate", f"{trained}/model", "--data", str(place / "drives"), "--num-clips", "4"]
    line += ["--world", "drive", "--scenes", "2", "--reactive", "--drives", "2"]
    line += ["--beside", f"no_world_model={tmp_path}/plain/model"]
    with pytest.warns(UserWarning, match="no frechet_proxy"):  # four clips are too few, and said so
        assert main([*line, "--out", str(out)]) == 0
    results = read_results(out / "metrics.json")
    assert {"psnr", "ssim", "pdms", "dac", "action_sensitivity/shuffled"} <= set(results["metrics"])
    assert "copy_last" in results["metrics"]["psnr"]
    assert {"constant_velocity", "no_world_model"} <= set(results["metrics"]["pdms"])
    assert {"ego_status", "no_world_model"} <= set(results["metrics"]["closed_loop/pdms"])
    assert "not computed" in results["protocol"]["frechet_proxy"]
    assert len(results["metrics"]["psnr"]["per_horizon"]["model"]) == 8
    assert results["protocol"]["gamma"] == load_recipe("reworld-tiny").sampling.guidance.gamma
    assert len(list((out / "videos").iterdir())) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("reworld", "--data"),
        ("reworld --data clips --num-context 4", "--num-context"),
        ("reworld --data clips --num-frames 25", "--num-frames"),
        ("reworld --data short", "has 12"),
        ("reworld --data images", "single images"),
        ("reworld --data codes.npy", "tokens"),
        ("reworld --world drive --scenes 1", "--scenes"),
        ("reworld --data clips --gamma inf", "finite --gamma"),
        ("reworld --data clips --reactive", "--world"),
        ("reworld --world drive --reactive --drives 1", "--drives"),
        ("reworld --world drive --beside other", "NAME=MODEL"),
        ("worlddreamer --world drive", "plans nothing"),
        ("worlddreamer --data clips --gamma 1.2", "WorldDreamer"),
    ],
)
def test_evaluate_refuses_what_it_cannot_score_and_writes_nothing(
    words: str,
    said: str,
    trained: Path,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"reworld": str(trained / "model")}
    found = [known.get(w, str(place / w) if (place / w).exists() else w) for w in words.split()]
    assert main(["evaluate", *found, "--out", str(tmp_path / "scores")]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_plans_of_drives_lie_on_what_was_driven() -> None:
    clip = moving_drives(1)[0]
    assert clip.plan is not None
    assert clip.plan.trajectory is not None
    assert clip.plan.trajectory[-1, 0] == pytest.approx(4 * float(clip.plan.ego[0]))


def test_published_weights_are_where_training_starts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from diffusers import AutoencoderKLLTXVideo
    from test_tokenizers_video_vae import V090

    from maskworld.backbones.ltx import LTXConfig, LTXDiT
    from maskworld.tokenizers.video_vae import PretrainedVideoVAEConfig
    from maskworld.weights.ltx import save_ltx

    torch.manual_seed(0)
    AutoencoderKLLTXVideo(**V090).save_pretrained(tmp_path / "vae")
    tiny = load_recipe_of(ReWorldRecipe, "reworld-tiny")
    shape = LTXConfig(
        in_channels=8, out_channels=8, num_layers=6, num_heads=2, head_dim=48, has_text=False
    )
    published = LTXDiT(shape)
    save_ltx(published, tmp_path / "ltx.safetensors")
    system = replace(
        tiny.system, video=shape, tokenizer=PretrainedVideoVAEConfig(channels=8), carries_past=False
    )
    recipe = replace(tiny, system=system, stages=tiny.stages[1:])
    monkeypatch.setattr("maskworld.cli.training.load_recipe", lambda name: recipe)
    words = ["reworld-tiny", "--data", "clips", "--stages", "video", "--steps", "1"]
    words += ["--batch-size", "1", "--frame-size", "64", "64", "--sample-every", "0"]
    words += ["--learning-rate", "1e-12", "--tokenizer", str(tmp_path / "vae")]
    words += ["--video-weights", str(tmp_path / "ltx.safetensors")]
    assert run(place, tmp_path / "run", *words) == 0
    trained = load_reworld(tmp_path / "run" / "model").system
    assert trained.config.tokenizer.path == str(tmp_path / "vae")
    tensors = trained.video.state_dict()
    for name, value in published.state_dict().items():
        assert torch.allclose(tensors[name], value, atol=1e-7), name
    names = read_safetensors(tmp_path / "run" / "model" / "model.safetensors")
    assert not any(name.startswith("tokenizer") for name in names)  # they stay the user's
