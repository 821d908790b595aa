"""Masks made offline by a segmenter, stored beside the data, read as the source's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.loader import make_loader
from maskworld.data.sources.mask_videos import robot_videos
from maskworld.data.sources.stored_masks import MaskedSource, masks_folder
from maskworld.data.transforms import ResizeCrop
from maskworld.preparation.conversion import ImportSettings
from maskworld.preparation.importing import import_source
from maskworld.preparation.segment import (
    PipelineSegmenter,
    Sam2Segmenter,
    Segmenter,
    read_points,
    segment,
)

REAL = Path(__file__).parents[3] / "shared/data/robot_real"
SIZE = (40, 60)


class Robots(ListSource):
    views = ("front", "wrist")
    size, fps = SIZE, 10.0


def robots(lengths: Iterable[int] = (20, 3)) -> Robots:
    """Frame t of camera v is grey of value 10 t + v."""
    episodes = []
    for length in lengths:
        grey = 10 * np.arange(length)[None, :] + np.arange(2)[:, None]
        shape = (2, length, 3, *SIZE)
        frames = np.broadcast_to(grey[..., None, None, None], shape).astype(np.uint8)
        episodes.append(ArrayEpisode(frames, caption="pour"))
    return Robots(episodes, "robots")


class StandIn:
    """Of a pipeline's contract: a list of label, mask (PIL, 255 inside) and score per image."""

    model = SimpleNamespace(config=SimpleNamespace(id2label={0: "arm", 1: "cup", 2: "wall"}))

    def __call__(self, image: Any) -> list[dict[str, Any]]:
        from PIL import Image

        value = np.asarray(image)[0, 0, 0]
        rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE, dtype=int)
        masks = {"cup": rows < value % 10 + 5, "arm": rows < 10, "wall": rows >= 0}
        return [
            {"label": k, "mask": Image.fromarray(255 * m.astype(np.uint8)), "score": None}
            for k, m in masks.items()
        ]


CLASSES = {"robot": ["arm"], "object": ["cup"]}


def test_masks_are_stored_beside_the_data_and_read_as_its_own(tmp_path: Path) -> None:
    source, out = robots(), masks_folder(tmp_path / "robots")
    segmenter = PipelineSegmenter(StandIn(), CLASSES)
    assert isinstance(segmenter, Segmenter)
    report = segment(source, out, segmenter)
    assert (out.name, report.num_made, report.num_maps) == ("robots.masks", 2, 46)
    masked = MaskedSource(source, out)
    assert masked.label_names == ["background", "robot", "object"]
    labels = masked.episode(0).read_labels([19, 2])
    assert labels.shape == (2, 2, *SIZE)
    for view in range(2):  # the cup covers the arm, whichever the model names first
        expected = [2] * (5 + view) + [1] * (5 - view) + [0] * 30
        assert labels[view, 0, :, 7].tolist() == expected
    window = ControlWindow(MemoryPick(2, "every"), num_future=2, frame_stride=2)
    batch = next(make_loader(
        [ControlClips(masked, window, reads_control=False, reads_labels=True)],  # type: ignore[arg-type]
        batch_size=3, num_workers=1,
    ))  # fmt: skip
    assert batch.labels is not None
    assert batch.labels.shape == (3, 2, 2, *SIZE)
    import_source(masked, tmp_path / "stored", ImportSettings(codec="png"))
    from maskworld.data.lerobot_reader import LeRobotSource

    stored = LeRobotSource(tmp_path / "stored")
    assert stored.label_names == masked.label_names
    np.testing.assert_array_equal(stored.episode(0).read_labels([19, 2]), labels)


class Stops:
    """Ends with an error in the middle of the second episode, once."""

    label_names = ["background", "robot"]  # noqa: RUF012
    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, error: type[BaseException] | None) -> None:
        self.error, self.asked = error, list[int]()

    def segment(
        self, frames: Iterable[np.ndarray], episode: int, view: str
    ) -> Iterator[np.ndarray]:
        self.asked.append(episode)
        for number, _ in enumerate(frames):
            if self.error is not None and (episode, number) == (1, 2):
                raise self.error("stopped")
            yield np.zeros(SIZE, dtype=np.uint8)


def test_an_interrupted_run_keeps_whole_episodes_and_goes_on(tmp_path: Path) -> None:
    source, out = robots([4, 4, 4]), tmp_path / "masks"
    with pytest.raises(KeyboardInterrupt):
        segment(source, out, Stops(KeyboardInterrupt))
    assert sorted(p.name for p in out.iterdir()) == ["episode-000000.zip", "meta.json"]
    with pytest.raises(ValueError, match=r"episode-000001.zip is missing"):
        MaskedSource(source, out).episode(1).read_labels([0])
    again = Stops(None)
    report = segment(source, out, again)
    assert again.asked == [1, 1, 2, 2]
    assert (report.num_made, report.num_kept) == (2, 1)
    assert "robot: no pixel in 16 of 16 masks" in str(report)
    other = Stops(None)
    other.label_names = ["background", "arm"]
    with pytest.raises(ValueError, match="holds masks made otherwise: label_names differ"):
        segment(source, out, other)


def test_episodes_that_cannot_be_segmented_are_named_or_skipped_and_listed(tmp_path: Path) -> None:
    source = robots([4, 4, 4])
    with pytest.raises(ValueError, match="episode 1 of robots: stopped"):
        segment(source, tmp_path / "a", Stops(ValueError))
    report = segment(source, tmp_path / "b", Stops(ValueError), on_error="skip")
    assert report.skipped == [("episode 1 of robots", "stopped")]
    assert report.num_made == 2


def test_masks_of_another_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected stored masks in"):
        MaskedSource(robots(), tmp_path)
    segment(robots([2, 2]), tmp_path / "masks", Stops(None))
    with pytest.raises(ValueError, match=r"masks of 2 episodes, robots has 3"):
        MaskedSource(robots([2, 2, 2]), tmp_path / "masks")
    source = robots([2, 2])
    source.views = ("top",)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"\['top'\] are missing"):
        MaskedSource(source, tmp_path / "masks")
    with pytest.raises(ValueError, match=r"knows no labels \['bottle'\]: expected some of \['arm'"):
        PipelineSegmenter(StandIn(), {"object": ["bottle"]})


def sam2_config(side: int) -> Any:
    """The smallest that constructs."""
    from transformers import Sam2VideoConfig

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [side, side],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[side // k, side // k] for k in (4, 8, 16)],
        "fpn_hidden_size": 128,
    }
    decoder = {"hidden_size": 128, "mlp_dim": 16, "num_hidden_layers": 1}
    decoder |= {"num_attention_heads": 2, "iou_head_hidden_dim": 16, "iou_head_depth": 2}
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": side, "mask_input_channels": 4},
        mask_decoder_config=decoder,
        image_size=side,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_num_attention_heads=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=16,
        memory_fuser_num_layers=1,
        max_object_pointers_in_encoder=4,
    )


def test_sam_2_follows_points_through_an_episode(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformers.Sam2VideoModel(sam2_config(64)).save_pretrained(tmp_path / "sam2")
    points = {"*": {"front": {"robot": [[10, 12]], "object": [[40, 20], [5, 5, 0]]},
                    "wrist": {"object": [[30, 30]]}}}  # fmt: skip
    (tmp_path / "points.json").write_text(json.dumps(points))
    segmenter = Sam2Segmenter(tmp_path / "sam2", read_points(tmp_path / "points.json"))
    assert segmenter.label_names == ["background", "robot", "object"]
    steps: list[tuple[int, int]] = []
    inner = segmenter._step

    def step(session: Any, frame: np.ndarray, number: int) -> np.ndarray:
        found = inner(session, frame, number)
        outputs = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        steps.append((len(session.processed_frames), len(outputs)))
        return found

    segmenter._step = step  # type: ignore[method-assign]
    report = segment(robots([8]), tmp_path / "masks", segmenter)
    assert report.num_maps == 16
    assert max(steps) <= (1, 5)  # neither frames nor what is no longer looked at pile up
    labels = MaskedSource(robots([8]), tmp_path / "masks").episode(0).read_labels([0, 7])
    assert labels.max() <= 2
    with pytest.raises(ValueError, match="expected points for episode 0, camera wrist"):
        segment(robots([2]), tmp_path / "other", Sam2Segmenter(tmp_path / "sam2", {
            "*": {"front": {"robot": [[1, 1]]}}}))  # fmt: skip


def test_of_two_classes_that_claim_a_pixel_the_surer_has_it() -> None:
    class Claims:
        dtype = torch.float32
        config = SimpleNamespace(image_size=8)

        def __call__(self, **_: Any) -> Any:
            logits = torch.full((2, 1, 4, 4), -3.0)
            logits[0, :, :, :2], logits[1, :, :2] = 2.0, 5.0
            return SimpleNamespace(pred_masks=logits, object_ids=[2, 1])

    segmenter = object.__new__(Sam2Segmenter)
    segmenter._model, segmenter._device = Claims(), "cpu"
    labels = segmenter._step(None, np.zeros((4, 4, 3), dtype=np.uint8), 0)
    assert labels.tolist() == [[1, 1, 1, 1]] * 2 + [[2, 2, 0, 0]] * 2


@pytest.mark.slow
def test_a_segmentation_model_of_transformers_makes_masks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "decoder_hidden_size": 8}
    small |= {"num_attention_heads": [1, 1, 1, 1], "id2label": {0: "arm", 1: "cup"}}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**small))
    with torch.no_grad():
        model.decode_head.classifier.bias[:] = torch.tensor([0.0, 100.0])
    model.save_pretrained(tmp_path / "model")
    transformers.SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "model"
    )
    segmenter = PipelineSegmenter(tmp_path / "model", {"robot": ["arm"], "object": ["cup"]})
    segment(robots([2]), tmp_path / "masks", segmenter)
    labels = MaskedSource(robots([2]), tmp_path / "masks").episode(0).read_labels([0, 1])
    assert (labels == 2).all()
    with pytest.raises(ValueError, match="cannot be used to segment images"):
        PipelineSegmenter(tmp_path, {})
    with pytest.raises(ValueError, match="cannot be used to segment videos"):
        Sam2Segmenter(tmp_path, {})


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data of ../shared/data are not here")
def test_the_real_robot_gives_clips_of_stage_one() -> None:
    source = robot_videos(REAL)
    assert (len(source), source.label_names) == (1, ["background", "robot", "object"])
    window = ControlWindow(MemoryPick(4, window=60), num_future=9, frame_stride=3)
    clips: Any = ControlClips(
        source, window, reads_control=False, reads_labels=True, transforms=[ResizeCrop((64, 112))],
        allows_padding=False,
    )  # fmt: skip
    clip = clips[100]
    assert clip.frames.shape == (1, 4, 3, 64, 112)
    assert clip.labels.shape == (1, 9, 64, 112)
    parts = [float((clip.labels == k).float().mean()) for k in (1, 2)]
    assert all(0.005 < part < 0.5 for part in parts)
    with pytest.raises(ValueError, match=r"\['arm.mp4'\] are missing"):
        robot_videos(REAL / "video.mp4", {"robot": "arm.mp4"})
