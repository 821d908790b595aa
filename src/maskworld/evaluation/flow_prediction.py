"""Open-loop prediction of flow systems: how near are their dreams to what came, and do they read
their actions?

Every score stands beside the trivial futures (`baselines.TrivialFutures`), per horizon step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.evaluation.sensitivity import score_velocity_sensitivity
from maskworld.flow import SigmaSchedule, add_noise
from maskworld.guidance import Guidance
from maskworld.metrics.scores import ClipScores, concatenate
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.tokenizers.latent import decode_views, encode_views
from maskworld.types import Batch, PlanBatch, Prompt

POSTERIOR_MEAN = FlowSampling(video=SigmaSchedule("uniform", 1), guidance=Guidance())
"""One unguided step from t = 1 to 0: z - v is then the mean of the future given the past."""
GAMMAS = (1.0, 1.2, 1.4, 1.6, 1.8)
"""Of ReWorld's self-guidance, Eq. 9; the paper's Table 5 sweeps the same range."""


@dataclass(frozen=True)
class FlowDreams:
    """Dreams of a set of clips, and what they cost."""

    frames: UInt8[Tensor, "b v t c h w"]
    """The given frames as the tokenizer draws them, then the dreamt ones."""
    seconds: list[float]
    """Per clip, of every batch, decoding included."""


def rows_of(batch: Batch, rows: slice | Int[Tensor, " n"] | Int[np.ndarray, " n"]) -> Batch:
    """Some clips of a batch, plans included."""
    index = torch.arange(len(batch))[rows]
    tensors = {
        name: value[index]
        for name in ("frames", "latents", "actions", "has_actions", "fps")
        if (value := getattr(batch, name)) is not None
    }
    plan = batch.plan
    if plan is not None:
        fields = ("ego", "command", "trajectory", "has_trajectory", "negative", "has_negative")
        kept = {name: v[index] for name in fields if (v := getattr(plan, name)) is not None}
        tokens = [plan.tokens[i] for i in index.tolist()] if plan.tokens else []
        plan = PlanBatch(**kept, tokens=tokens)
    captions = [batch.captions[i] for i in index.tolist()] if batch.captions else []
    return replace(
        batch, **tensors, plan=plan, captions=captions, tokens=None, labels=None,
        reference_tokens=None,
    )  # fmt: skip


def with_latents(system: ReWorld, batch: Batch) -> Batch:
    """The batch with its frames encoded.

    Raises:
        ValueError: it has neither.
    """
    if batch.latents is not None:
        return batch
    if batch.frames is None:
        raise ValueError("Expected frames or latents in the batch, found neither.")
    return replace(batch, latents=encode_views(system.tokenizer, batch.frames))


@torch.no_grad()
def reconstruct(system: ReWorld, batch: Batch) -> UInt8[Tensor, "b v t c h w"]:
    """What the tokenizer keeps of the clips: encoded and decoded."""
    latents = with_latents(system, batch).latents
    assert latents is not None
    return decode_views(system.tokenizer, latents)


def prompt_of(batch: Batch) -> Prompt:
    """Everything that a clip says of itself: text, actions, ego state and command."""
    return Prompt(batch.captions or None, batch.actions, batch.has_actions, batch.fps, batch.plan)


def dream(
    system: ReWorld,
    batch: Batch,
    sampling: FlowSampling,
    generator: torch.Generator,
    batch_size: int = 32,
) -> FlowDreams:
    """Dreams the future of every clip from its past, its ego state and its actions."""
    system.eval()
    batch = with_latents(system, batch)
    frames, seconds = [], []
    for start in range(0, len(batch), batch_size):
        part = rows_of(batch, slice(start, start + batch_size))
        assert part.latents is not None
        past = part.latents[:, :, : system.num_past_latents]
        started = time.perf_counter()
        frames.append(system.generate(past, prompt_of(part), sampling, generator).frames.cpu())
        seconds.append((time.perf_counter() - started) / len(part))
    return FlowDreams(torch.cat(frames), seconds)


@torch.no_grad()
def velocity_errors(
    system: ReWorld,
    batch: Batch,
    seed: int,
    *,
    num_draws: int = 1,
    batch_size: int = 32,
) -> ClipScores:
    """Mean squared error of the velocity at each future latent of every clip: L_Gen (Eq. 2).

    Noise and times are drawn as in training, the same for every call with one seed.
    """
    system.eval()
    batch, config = with_latents(system, batch), system.config
    parts = []
    for draw in range(num_draws):
        generator = torch.Generator().manual_seed(1000 * seed + draw)
        errors = []
        for start in range(0, len(batch), batch_size):
            part = rows_of(batch, slice(start, start + batch_size))
            assert part.latents is not None
            b, v, k, _, gh, gw = part.latents.shape
            z0 = rearrange(part.latents, "b v k d gh gw -> (b v) (k gh gw) d")
            eps = torch.randn(z0.shape, generator=generator)
            t = config.video_times.sample(b, k, gh * gw, generator).repeat_interleave(v, dim=0)
            is_past = torch.arange(k) < system.num_past_latents
            context = repeat(is_past, "k -> n (k m)", n=b * v, m=gh * gw)
            noisy = add_noise(z0, eps, t, context)
            prompt = system.prompter(prompt_of(part), b, k)
            velocity = system.run_video(noisy.z, noisy.t, prompt, (k, gh, gw), v).velocity
            assert velocity is not None
            error = rearrange(
                (velocity - noisy.target).square(), "(b v) (k m) d -> b k (v m d)", b=b, k=k
            )
            errors.append(error[:, system.num_past_latents :].double().mean(dim=2))
        parts.append(torch.cat(errors).numpy())
    mean: Float[np.ndarray, "n k"] = np.mean(parts, axis=0)
    return concatenate([ClipScores(mean, np.ones_like(mean))])


def score_flow_sensitivity(
    results: Results,
    system: ReWorld,
    batch: Batch,
    groups: Int[np.ndarray, " n"],
    seed: int,
    *,
    num_draws: int = 2,
) -> None:
    """Adds "action_sensitivity/...": does the model read the future actions? Past and ego state
    stay.

    Raises:
        ValueError: no actions to disturb.
    """

    def errors_of(told: Batch) -> ClipScores:
        return velocity_errors(system, told, seed, num_draws=num_draws)

    kind = system.config.video_times.kind
    score_velocity_sensitivity(
        results,
        with_latents(system, batch),
        errors_of,
        groups,
        seed,
        num_given=system.config.num_past,
        drawn={"times": f"{kind}, as in training", "draws": num_draws},
    )


def dream_with_gammas(
    system: ReWorld,
    batch: Batch,
    sampling: FlowSampling,
    gammas: Sequence[float],
    seed: int,
) -> dict[float, UInt8[Tensor, "b v t c h w"]]:
    """Sampled dreams of the same clips from the same noise, by gamma of self-guidance (Eq. 9)."""
    return {
        gamma: dream(
            system,
            batch,
            replace(sampling, guidance=replace(sampling.guidance, gamma=gamma)),
            torch.Generator().manual_seed(seed),
        ).frames
        for gamma in gammas
    }


def score_dream_speed(results: Results, name: str, seconds: Sequence[float], n: int) -> None:
    """Adds "seconds_per_clip/<name>" of this machine: the median batch, and as the interval the
    fastest and the slowest."""
    results.add(
        f"seconds_per_clip/{name}",
        model=float(np.median(seconds)),
        interval=(min(seconds), max(seconds)),
        n=n,
        better="lower",
    )
