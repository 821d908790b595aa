"""What the video tokenizers ask of clips and of latents, with the fix in the message."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_OVERSHOOT = 2.0
"""Largest absolute pixel value taken for [-1, 1]: room for filters that ring, none for 0..255."""


def check_video(frames: Tensor, channels: int, stride: int, temporal_stride: int) -> None:
    """Raises ValueError unless `frames` are a batch of clips that a video tokenizer can encode.

    Args:
        frames: `n t c h w`, float in [-1, 1].
        channels: of the pixels.
    """
    if frames.ndim != 5:
        raise ValueError(
            f"Expected clips of shape n t c h w, found {tuple(frames.shape)}: fold views into n, "
            "and give a single image a time axis of 1."
        )
    if not frames.is_floating_point():
        raise ValueError(
            f"Expected float frames in [-1, 1], found {frames.dtype}: convert them with "
            "maskworld.nn.pixels.to_unit."
        )
    check_clip_shape(frames, channels, stride, temporal_stride)
    largest = frames.detach().abs().amax() if frames.numel() else torch.zeros(())
    if not torch.isfinite(largest):  # amax hands NaN on
        raise ValueError(
            "Expected finite frames, found NaN or infinity: look for a damaged file, or for a "
            "division by zero before the tokenizer."
        )
    if largest > MAX_OVERSHOOT:
        raise ValueError(
            f"Expected frames in [-1, 1], found values up to {float(largest):.4g}: convert uint8 "
            "with maskworld.nn.pixels.to_unit, without casting it to float first."
        )


def check_clip_shape(frames: Tensor, channels: int, stride: int, temporal_stride: int) -> None:
    """Raises ValueError unless `n t c h w` has the channels, 8k + 1 frames and divisible sides."""
    _, t, c, h, w = frames.shape
    if c != channels:
        raise ValueError(f"Expected frames with {channels} channels, found {c}: convert to RGB.")
    if h % stride or w % stride or not h or not w:
        fix_h, fix_w = (max(side // stride, 1) * stride for side in (h, w))
        raise ValueError(
            f"Expected height and width divisible by the tokenizer's stride {stride}, found "
            f"{h}x{w}: resize or crop the frames to {fix_h}x{fix_w}."
        )
    if t < 1 or (t - 1) % temporal_stride:
        fix = nearest_num_frames(t, temporal_stride)
        raise ValueError(
            f"{fix} frames needed ({temporal_stride}k + 1), got {t}: pass --num-frames {fix}"
        )


def nearest_num_frames(num_frames: int, temporal_stride: int) -> int:
    """The nearest number of frames of the form `temporal_stride * k + 1`; of two, the larger."""
    return max((num_frames - 1 + temporal_stride // 2) // temporal_stride, 0) * temporal_stride + 1


def check_latents(latents: Tensor, channels: int) -> None:
    """Raises ValueError unless `latents` are finite and `n tl d gh gw` with `channels` channels."""
    if latents.ndim != 5 or latents.shape[2] != channels or not latents.shape[1]:
        raise ValueError(
            f"Expected latents n tl {channels} gh gw with tl >= 1, found {tuple(latents.shape)}: "
            "decode what this tokenizer (or a model trained on it) gave."
        )
    if not torch.isfinite(latents.detach()).all():
        raise ValueError(
            "Expected finite latents, found NaN or infinity: the model that made them diverged; "
            "lower its learning rate or guidance_scale."
        )


def check_num_frames(name: str, num_frames: int, temporal_stride: int) -> None:
    """Raises ValueError unless a setting called `name` is of the form temporal_stride * k + 1."""
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        near = num_frames // temporal_stride * temporal_stride + 1
        raise ValueError(
            f"Expected {name} of the form {temporal_stride}k + 1, found {num_frames}: use {near}."
        )
