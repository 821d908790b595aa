"""Open-loop prediction of MaskGWM: given the first frames and the actions, how near are its dreams
to what came, does it read its actions, and what does it dream round after round?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maskworld.evaluation.flow_prediction import FlowDreams, prompt_of, rows_of
from maskworld.evaluation.results import Results
from maskworld.evaluation.sensitivity import score_velocity_sensitivity
from maskworld.flow import add_noise
from maskworld.metrics.scores import ClipScores, concatenate
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM
from maskworld.tokenizers.image_latents import decode_images, encode_images
from maskworld.types import Batch

AT_ONCE = 32
"""Clips that are dreamt together."""


def with_latents(system: MaskGWM, batch: Batch) -> Batch:
    """The batch with its frames encoded, each alone.

    Raises:
        ValueError: it has neither.
    """
    if batch.latents is not None:
        return batch
    if batch.frames is None:
        raise ValueError("Expected frames or latents in the batch, found neither.")
    return replace(batch, latents=encode_images(system.tokenizer, batch.frames))


def reconstruct(system: MaskGWM, batch: Batch) -> UInt8[Tensor, "b v t c h w"]:
    """What the tokenizer keeps of the clips: encoded and decoded."""
    latents = with_latents(system, batch).latents
    assert latents is not None
    return torch.cat([decode_images(system.tokenizer, part) for part in latents.split(AT_ONCE)])


def dream(
    system: MaskGWM,
    batch: Batch,
    sampling: FlowSampling,
    generator: torch.Generator,
    num_given: int = 1,
) -> FlowDreams:
    """Dreams every clip on from its first frames, under its actions."""
    system.eval()
    batch = with_latents(system, batch)
    frames, seconds = [], []
    for start in range(0, len(batch), AT_ONCE):
        part = rows_of(batch, slice(start, start + AT_ONCE))
        assert part.latents is not None
        started = time.perf_counter()
        given, length = part.latents[:, :, :num_given], part.latents.shape[2]
        latents = system.generate(given, prompt_of(part), sampling, generator, length)
        frames.append(decode_images(system.tokenizer, latents).cpu())
        seconds.append((time.perf_counter() - started) / len(part))
    return FlowDreams(torch.cat(frames), seconds)


@torch.no_grad()
def velocity_errors(
    system: MaskGWM, batch: Batch, seed: int, *, num_given: int = 1, num_draws: int = 1
) -> ClipScores:
    """Mean squared error of the velocity of each frame after the given ones: Eq. 1, nothing
    dropped.

    Noise and times are drawn as in training, the same for every call with one seed.
    """
    system.eval()
    batch, parts = with_latents(system, batch), []
    for draw in range(num_draws):
        generator = torch.Generator().manual_seed(1000 * seed + draw)
        errors = []
        for start in range(0, len(batch), AT_ONCE):
            part = rows_of(batch, slice(start, start + AT_ONCE))
            assert part.latents is not None
            z0 = rearrange(part.latents, "b v t d gh gw -> b t v d gh gw")
            b, t = z0.shape[:2]
            eps = torch.randn(z0.shape, generator=generator)
            times = system.config.times.sample(b, t, 1, generator)
            context = (torch.arange(t) < num_given).expand(b, t)
            noisy = add_noise(z0.flatten(2), eps.flatten(2), times, context)
            conditions = system.conditions(prompt_of(part), b)
            velocity = system.run(noisy.z.view_as(z0), noisy.t, num_given, conditions)
            error = (velocity.flatten(2) - noisy.target).square()
            errors.append(error[:, num_given:].double().mean(dim=2))
        parts.append(torch.cat(errors).numpy())
    mean: Float[np.ndarray, "n t"] = np.mean(parts, axis=0)
    return concatenate([ClipScores(mean, np.ones_like(mean))])


def score_frame_sensitivity(
    results: Results,
    system: MaskGWM,
    batch: Batch,
    groups: Int[np.ndarray, " n"],
    seed: int,
    *,
    num_given: int = 1,
    num_draws: int = 2,
) -> None:
    """Adds "action_sensitivity/...": does the model read what it is told after the given frames?

    Raises:
        ValueError: no actions to disturb.
    """

    def errors_of(told: Batch) -> ClipScores:
        return velocity_errors(system, told, seed, num_given=num_given, num_draws=num_draws)

    kind = system.config.times.kind
    score_velocity_sensitivity(
        results,
        with_latents(system, batch),
        errors_of,
        groups,
        seed,
        num_given=num_given,
        drawn={"times": f"{kind}, as in training", "draws": num_draws},
    )


def dream_in_rounds(
    system: MaskGWM,
    batch: Batch,
    sampling: FlowSampling,
    generator: torch.Generator,
    *,
    num_given: int = 1,
    overlap: int | None = None,
) -> Iterator[UInt8[Tensor, "b v t c h w"]]:
    """Long clips dreamt on from their first frames, under their actions, as many frames as they
    have: what each round adds, the given frames first."""
    system.eval()
    if batch.frames is None:
        raise ValueError("Expected frames to begin with, found a batch without.")
    length = batch.frames.shape[2]
    given = batch.frames[:, :, :num_given]
    for part in system.roll_out(given, prompt_of(batch), sampling, generator, length, overlap):
        yield decode_images(system.tokenizer, part).cpu()
