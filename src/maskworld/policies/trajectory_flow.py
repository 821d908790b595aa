"""A small flow-matching trajectory generator: the candidates among which hard negatives are found.

A trained planner whose proposals are spread on purpose: half-strength conditions (guidance between
none and full) and stronger noise than in training. Its failures are those of a planner, not those
of a jittered expert. ReWorld follows BeyondDrive here (section 4.1), whose generator is a context
encoder and a one-layer decoder over one token that holds the whole trajectory as a delta map.

The candidates of a moment are tokens that do not see each other, so that the context is encoded
once. Time runs as everywhere here: t = 1 is noise, whose standard deviation is `noise_scale`, not
1. The network predicts the clean delta map x; its velocity is (z - x) / t.

Reference: BeyondDrive (arXiv 2605.19771) and its code; where theirs needs a camera backbone of
NAVSIM's size, ours has a few convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.conditioning.ego import EgoEncoder
from maskworld.conditioning.trajectory import DeltaMap
from maskworld.flow import interpolate, sample_logit_normal, uniform_sigmas
from maskworld.guidance import ClassifierFree, drop_conditions
from maskworld.interfaces import VelocityModel
from maskworld.nn.adaln import AdaLNSingle, VelocityHead, add_gated, merge_times, modulate
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import FeedForward
from maskworld.nn.pixels import to_unit
from maskworld.nn.release import ReleaseMixin
from maskworld.policies.baselines import plans_of
from maskworld.samplers.euler import euler
from maskworld.types import Batch, LossOutput, PlanBatch

CHANNELS = 4
"""dx, dy, sine and cosine of the heading (ReWorld, Eq. 17)."""


@dataclass(frozen=True)
class TrajectoryFlowConfig:
    """BeyondDrive's value beside each field; all others are ours."""

    ego_dim: int = 4
    ego_scale: tuple[float, ...] = (10.0, 1.0, 3.0, 3.0)
    """What vx, vy, ax, ay are divided by."""
    num_waypoints: int = 8
    dim: int = 256
    """BeyondDrive: 256. 64 is enough for the driving world."""
    num_layers: int = 1
    """Of the denoiser (BeyondDrive: 1)."""
    num_heads: int = 8
    picture: Literal["none", "frame", "latents"] = "none"
    """What is seen of the moment, in the first view: nothing, the last past frame, or the last past
    latent (BeyondDrive: a ResNet-34 on 1024x256 pixels)."""
    picture_channels: int = 3
    """3 of a frame; of latents, their width."""
    num_past: int = 1
    """Frames (or latents) until now; the last of them is looked at, none after it."""
    picture_size: tuple[int, int] = (24, 36)
    """Frames are averaged down to this height and width first; latents are not."""
    picture_grid: tuple[int, int] = (3, 5)
    """Tokens the picture becomes (BeyondDrive: 30 context queries)."""
    delta: Literal["beyonddrive", "dataset"] = "dataset"
    """Whose constants normalise steps: BeyondDrive's, for NAVSIM, or those of the training data."""
    noise_scale: float = 0.2
    """Standard deviation of the noise in training (BeyondDrive: 0.2)."""
    time_mean: float = 0.8
    time_std: float = 0.8
    """Times are sigmoid(N(mean, std)); BeyondDrive's mean is -0.8 where t = 1 is data."""
    min_time: float = 0.05
    """Least divisor in (z - x) / t (BeyondDrive: 0.05)."""
    p_drop_context: float = 0.1
    """Samples whose whole context is zeros (BeyondDrive: 0.1)."""
    num_draws: int = 4
    """Noises per sample and step (BeyondDrive: 1); they share the context."""

    def __post_init__(self) -> None:
        if self.noise_scale <= 0 or self.min_time <= 0 or self.num_draws < 1:
            raise ValueError(
                "Expected noise_scale and min_time above 0 and num_draws of at least 1, found "
                f"{self.noise_scale}, {self.min_time} and {self.num_draws}."
            )
        if self.picture == "frame" and self.picture_channels != 3:
            raise ValueError(
                f"Expected 3 picture_channels of a frame, found {self.picture_channels}: "
                'set picture to "latents" or leave picture_channels out.'
            )


class TrajectoryFlow(nn.Module, ReleaseMixin):
    """Ego status, command and, if asked for, a picture of now, to many trajectories.

    Call `fit_statistics` before training; the statistics are buffers, saved with the weights.
    """

    name = "trajectory_flow"

    def __init__(self, config: TrajectoryFlowConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.dim, CHANNELS * config.num_waypoints
        self.ego = EgoEncoder(config.ego_dim, scale=config.ego_scale)
        self.embed_ego = nn.Sequential(
            nn.Linear(self.ego.width, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.look = None if config.picture == "none" else _Look(config)
        self.time = AdaLNSingle(dim)
        self.embed = nn.Linear(width, dim)
        self.layers = nn.ModuleList(_Layer(dim, config.num_heads) for _ in range(config.num_layers))
        self.head = VelocityHead(dim, width)  # its output is x, at first 0: the mean step
        self.delta = DeltaMap(config.delta)

    def fit_statistics(self, plans: PlanBatch) -> None:
        """The range of steps, from the rows that have a trajectory. BeyondDrive's need no fit."""
        if self.config.delta == "dataset":
            self.delta.fit(_experts(plans)[1])

    # ------------------------------------------------------------------------------ Network

    def sight(self, batch: Batch) -> Float[Tensor, "b c h w"] | None:
        """What is seen of now, small; None without a picture. Never looks at the future.

        Raises:
            ValueError: no frames or latents, or fewer than `num_past`.
        """
        config = self.config
        if config.picture == "none":
            return None
        seen = batch.frames if config.picture == "frame" else batch.latents
        if seen is None or seen.shape[2] < config.num_past:
            found = "none" if seen is None else str(seen.shape[2])
            raise ValueError(
                f"Expected {config.num_past} past {config.picture} in the batch, found {found}: "
                'give them, or use a generator with picture "none".'
            )
        now = seen[:, 0, config.num_past - 1].to(self.embed.weight.device)
        if now.dtype != torch.uint8:
            return now.to(self.embed.weight.dtype)
        return F.interpolate(to_unit(now), config.picture_size, mode="area")

    def context(
        self,
        plans: PlanBatch,
        sight: Float[Tensor, "b c h w"] | None,
        is_dropped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """One token of ego and command, then those of the picture; zeros where dropped."""
        tokens = self.embed_ego(self.ego(plans.ego, plans.command))[:, None]
        if self.look is not None and sight is not None:
            tokens = torch.cat([tokens, self.look(sight)], dim=1)
        if is_dropped is None:
            return tokens
        return tokens.masked_fill(is_dropped[:, None, None], 0.0)

    def denoise(
        self,
        z: Float[Tensor, "b n k"],
        t: Float[Tensor, "b n"],
        context: Float[Tensor, "b m d"],
    ) -> Float[Tensor, "b n k"]:
        """The clean delta maps, flattened; each of the n alone."""
        modulation, time = self.time(merge_times(t))
        x = self.embed(z)
        for layer in self.layers:
            x = layer(x, modulation, context)
        return self.head(x, time)

    def velocity(
        self, z: Float[Tensor, "b n k"], x: Float[Tensor, "b n k"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n k"]:
        """(z - x) / t, t at least `min_time`. BeyondDrive has (x - z) / (1 - t), time reversed."""
        return (z - x) / t.clamp(min=self.config.min_time)[..., None]

    # ----------------------------------------------------------------------------- Training

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """Mean absolute error of the velocity, over rows with a trajectory.

        A batch without any costs nothing.
        """
        del stage
        return self._loss(plans_of(batch), self.sight(batch), generator)

    def _loss(
        self, plans: PlanBatch, sight: Float[Tensor, "b c h w"] | None, generator: torch.Generator
    ) -> LossOutput:
        config = self.config
        if plans.trajectory is None:
            total = self.embed.weight.sum() * 0.0
            return LossOutput(total, {"plan": total.detach()})
        x = self.delta(plans.trajectory).flatten(1)[:, None].expand(-1, config.num_draws, -1)
        device = generator.device
        noise = config.noise_scale * torch.randn(x.shape, generator=generator, device=device).to(x)
        t = sample_logit_normal(x.shape[:2], generator, config.time_mean, config.time_std).to(x)
        z = interpolate(x, noise, t)
        is_dropped = drop_conditions(len(x), config.p_drop_context, generator).to(x.device)
        guess = self.denoise(z, t, self.context(plans, sight, is_dropped))
        error = (self.velocity(z, guess, t) - self.velocity(z, x, t)).abs().mean(dim=(1, 2))
        if plans.has_trajectory is not None:
            error = error[plans.has_trajectory]
        total = error.sum() / max(len(error), 1)
        return LossOutput(total, {"plan": total.detach()})

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Everything trains; no decay on vectors."""
        del stage
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    # ----------------------------------------------------------------------------- Sampling

    @torch.no_grad()
    def propose(
        self,
        batch: Batch,
        num_candidates: int,
        generator: torch.Generator,
        cfg_scale: float | int = 0.5,
        noise_scale: float | int = 0.4,
        num_steps: int = 5,
    ) -> Float[Tensor, "b n l 3"]:
        """Candidate trajectories of every moment, metres and radians.

        Args:
            cfg_scale: 0 ignores the context, 1 follows it; BeyondDrive mines with 0.5.
            noise_scale: standard deviation of the noise one starts from; BeyondDrive mines with
                0.4, twice that of training.
            num_steps: of Euler (BeyondDrive: 5).
        """
        plans = plans_of(batch)
        context = self.context(plans, self.sight(batch))
        shape = (len(context), num_candidates, CHANNELS * self.config.num_waypoints)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(context)
        nothing = torch.zeros_like(context)
        model = ClassifierFree(self._bound(context), self._bound(nothing), cfg_scale)
        x = euler(model, noise_scale * noise, uniform_sigmas(num_steps))
        return self.delta.inverse(rearrange(x, "b n (l c) -> b n l c", c=CHANNELS))

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """One proposal that follows the context, from noise as in training."""
        return self.propose(batch, 1, generator, 1.0, self.config.noise_scale)[:, 0]

    def _bound(self, context: Float[Tensor, "b m d"]) -> VelocityModel:
        def model(z: Tensor, t: Tensor) -> Tensor:
            return self.velocity(z, self.denoise(z, t, context), t)

        return model


class _Look(nn.Module):
    """A picture to a few tokens: two convolutions, then averages over a grid."""

    def __init__(self, config: TrajectoryFlowConfig) -> None:
        super().__init__()
        stride = 2 if config.picture == "frame" else 1  # latents are small already
        self.grid = config.picture_grid
        self.first = nn.Conv2d(config.picture_channels, 16, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=stride, padding=1)
        self.project = nn.Linear(32, config.dim)
        num_tokens = self.grid[0] * self.grid[1]
        self.position = nn.Parameter(torch.randn(num_tokens, config.dim) / config.dim**0.5)

    def forward(self, sight: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m d"]:
        x = F.gelu(self.second(F.gelu(self.first(sight))))
        x = rearrange(F.adaptive_avg_pool2d(x, self.grid), "b c h w -> b (h w) c")
        return self.project(x) + self.position


class _Layer(nn.Module):
    """Tokens read the context and think, each alone; both modulated by the time."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, 4 * dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "b g 6 d"],
        context: Float[Tensor, "b m d"],
    ) -> Float[Tensor, "b n d"]:
        shift, scale, gate, shift2, scale2, gate2 = (self.table + modulation).unbind(dim=2)
        query = self.query(modulate(F.layer_norm(x, x.shape[-1:]), shift, scale))
        key, value = self.key_value(context).chunk(2, dim=-1)
        x = add_gated(x, self.out(attend(query, key, value, self.num_heads)), gate)
        return add_gated(
            x, self.ffn(modulate(F.layer_norm(x, x.shape[-1:]), shift2, scale2)), gate2
        )


def fit_trajectory_flow(
    batch: Batch,
    generator: torch.Generator,
    *,
    config: TrajectoryFlowConfig | None = None,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    device: torch.device | str = "cpu",
) -> TrajectoryFlow:
    """Trains a generator in memory: AdamW with a cosine. Numbers are ours; BeyondDrive trains 100
    epochs at 3e-4.

    Args:
        batch: all of the training moments, frames or latents if the config looks at them; rows
            without a trajectory are left out.
        generator: draws the first weights, batches and noise, so that one seed gives one generator.
            On the CPU.

    Raises:
        ValueError: no row has a trajectory, or the picture is missing.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = TrajectoryFlow(config or TrajectoryFlowConfig()).to(device)
    plans = plans_of(batch).to(device)
    rows, trajectories = _experts(plans)
    flow.fit_statistics(plans)
    sight = flow.sight(batch)
    sight = None if sight is None else sight[rows]
    known = PlanBatch(plans.ego[rows], plans.command[rows], trajectories)
    optimizer = torch.optim.AdamW(flow.parameter_groups("generator"), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        drawn = torch.randint(len(trajectories), (batch_size,), generator=generator).to(device)
        part = PlanBatch(known.ego[drawn], known.command[drawn], trajectories[drawn])
        optimizer.zero_grad()
        flow._loss(part, None if sight is None else sight[drawn], generator).total.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


def _experts(plans: PlanBatch) -> tuple[Bool[Tensor, " b"], Float[Tensor, "n l 3"]]:
    """Which rows have a trajectory, and these.

    Raises:
        ValueError: none has.
    """
    rows = plans.has_trajectory
    if rows is None:
        has_any = plans.trajectory is not None
        rows = torch.full_like(plans.command, has_any, dtype=torch.bool)
    if plans.trajectory is None or not bool(rows.any()):
        raise ValueError(
            "Expected at least one plan sample with a trajectory, found none: ghosts have none, "
            "collect expert clips too."
        )
    return rows, plans.trajectory[rows]
