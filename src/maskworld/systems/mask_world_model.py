"""Mask World Model: a policy that reads how a video network expects semantic masks to evolve.

Lou et al. 2026, "Mask World Model: Predicting What Matters for Robust Robot Policy Learning",
arXiv 2604.19683; it builds on GE-ACT (Genie Envisioner, arXiv 2508.05635).

A video transformer is shown a few remembered RGB frames and learns, by rectified flow, to turn
noise into the *masks* of the frames to come, drawn with a fixed palette and encoded by the same
tokenizer as pictures. In its first denoising step its blocks hold what it expects; an action
transformer reads these states, block by block, and turns noise into a chunk of actions. Masks are
needed to train the first stage only: neither the second nor a running policy reads any.

| paper | here |
|---|---|
| mask rendering, fixed palette | `tokenizers/palette.py`, `tokenizers/robot_clips.py` |
| mixed sequence x_s: clean memory, noisy future | `_video_terms`, `flow.add_noise` |
| L_mask, w(s) | `_video_terms`, `objectives/time_weight.py` |
| several views, joined every third block | `backbones/ltx.py`, `view_embedding` |
| feature bank H_t, future slots pure noise | `feature_bank`, `encode_once` |
| action loss, as written and as coded | `_action_terms`, `objectives/score_matching.py` |
| inference: video once, then actions alone | `act_chunk` |
| MWM-C1, MWM-C2, RGB twins | `policy="inverse_dynamics"`, `num_views=1`, `target="rgb"` |
| random token pruning | `p_prune` of `encode_once` and `act_chunk` |

Deviations and readings: docs/adr/0011-reading-of-mask-world-model.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from einops import reduce, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskworld.backbones.action_dit import ActionDiT, ActionDiTConfig, ProjectedBank
from maskworld.backbones.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from maskworld.backbones.latent_video import VideoPass, run_latent_video
from maskworld.backbones.ltx import LTXConfig, LTXDiT, grid_positions
from maskworld.conditioning.control import (
    ControlChunk,
    ControlNormaliser,
    StageConditions,
    demonstrated,
)
from maskworld.conditioning.priors import MeanPrior
from maskworld.conditioning.text import SmallTextConfig, T5TextConfig
from maskworld.conditioning.video_prompt import VideoPrompt, VideoPrompter
from maskworld.flow import SigmaSchedule, TimeSampling, add_noise
from maskworld.guidance import Guidance, drop_conditions
from maskworld.nn import latent_window
from maskworld.nn.latent_window import context_mask, side_by_side, to_latents, to_tokens
from maskworld.nn.parameters import beyond_blocks, check_layers, named_groups
from maskworld.nn.pixels import to_unit
from maskworld.nn.release import ReleaseMixin
from maskworld.objectives import score_matching
from maskworld.objectives.flow_matching import flow_matching_loss
from maskworld.objectives.score_matching import ScoreMatching
from maskworld.objectives.time_weight import TimeWeight, time_weight
from maskworld.samplers.euler import euler
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.tokenizers.latent import (
    CausalPatchTokenizer,
    LatentConfig,
    PretrainedVideoVAEConfig,
    build_latent_tokenizer,
)
from maskworld.tokenizers.palette import Palette, PaletteConfig
from maskworld.tokenizers.robot_clips import FutureFrames, RobotClips
from maskworld.tokenizers.video_frames import check_num_frames
from maskworld.types import Batch, ControlBatch, FeatureBank, LossOutput, Prompt

STAGES = ("tokenizer", "dynamics", "policy")
SAMPLING = FlowSampling(
    video=SigmaSchedule("uniform", 30), actions=SigmaSchedule("uniform", 10), guidance=Guidance()
)
"""10 Euler steps for a chunk (the paper's), 30 for a rollout of masks (ours), no guidance."""


# ------------------------------------------------------------------------------------ 1. Config


@dataclass(frozen=True)
class MaskWorldModelConfig:
    """Everything that shapes the model. The paper's value beside each field; [?] = not given,
    [GE] = GE-ACT's release, of which the paper's code is a fork."""

    video: LTXConfig = field(default_factory=LTXConfig)
    """LTX-Video 2B: 28 blocks, 2048 wide; views joined in blocks 1, 4, 7, ..."""
    action: ActionDiTConfig = field(
        default_factory=lambda: ActionDiTConfig(
            action_dim=15, num_tokens=37, ffn_dim=1365, ego_dim=0, rope_base_length=57.0
        )
    )
    """28 blocks, 512 wide; 36 steps of 7 + 8 numbers [GE], and the state's token."""
    bank_blocks: tuple[int, ...] = tuple(range(1, 29))
    """Video blocks (from 1) whose outputs the action layers read; all, block b for layer b."""
    tokenizer: LatentConfig = field(default_factory=PretrainedVideoVAEConfig)
    """LTX-Video's causal VAE, frozen (one reading of the paper says trainable)."""
    text: SmallTextConfig | T5TextConfig | None = field(
        default_factory=lambda: T5TextConfig("google/t5-v1_1-xxl", dim=4096, max_tokens=128)
    )
    """LTX-Video's T5 [GE]; the paper's appendix says T5-base, 768 wide."""
    palette: PaletteConfig = field(default_factory=PaletteConfig)
    """Background, robot, task objects; the colours [?]."""
    target: Literal["mask", "rgb"] = "mask"
    """What is predicted; "rgb" is the baseline of the same size."""
    num_views: int = 2
    """Third person and wrist. 1 is MWM-C2."""
    num_memory: int = 4
    """Remembered RGB frames, each encoded alone; the last is now."""
    future_frames: int = 9
    """Pixel frames to predict: 9 [GE], two latents; the paper's text reads as 33, five latents."""
    future_encoding: Literal["joint", "separate"] = "joint"
    """One clip for the causal tokenizer [GE], or every frame alone."""
    frame_stride: int = 4
    """Control steps per future frame [GE]; 36 actions for 9 frames."""
    policy: Literal["features", "inverse_dynamics"] = "features"
    """"inverse_dynamics" is MWM-C1: dream, decode, then read actions from the frames."""
    inverse_dynamics: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    """[?]"""
    state_dim: int = 8
    """Numbers of the state; the other numbers of a step are the action's."""
    tells_state: bool = True
    """Whether the state now is a first, clean token of the chunk [GE: optional]."""
    trains: Literal["all", "action_only"] = "all"
    """What stage 2 moves: both towers (main text, [GE]), or the action tower (appendix)."""
    world_loss_weight: float = 0.0
    """Of L_mask beside the action loss in stage 2; 0, the paper's, reads no masks there."""
    action_objective: Literal["flow", "score"] = "flow"
    """Flow matching (code), or score matching (as the paper writes it)."""
    score: ScoreMatching = field(default_factory=ScoreMatching)
    video_times: TimeSampling = field(default_factory=TimeSampling)
    action_times: TimeSampling = field(default_factory=TimeSampling)
    """Uniform [GE]."""
    time_weight: TimeWeight = "none"
    """w(s) [?]; none in GE."""
    dynamics_conditions: StageConditions = field(default_factory=lambda: StageConditions(0.06, 0.1))
    policy_conditions: StageConditions = field(default_factory=lambda: StageConditions(0.0, 0.01))
    carries_mean: bool = False
    """Start masks and chunks from the average of the training data (`conditioning.priors`). Input,
    output and error of the action tower are in units of what the average leaves open (the
    preconditioning of Karras et al. 2022). Ours, for small networks; ADR 0011."""
    bank_positions: int = 0
    """Frequencies at which states of the bank are told their place: sine and cosine of time, row
    and column. Rotary networks are told only differences of places. Ours, as in ReWorld."""
    frame_size: tuple[int, int] = (256, 256)
    fps: float = 5.0
    """Future frames per second: LIBERO's 20 Hz by the stride."""
    seconds_per_latent: float = 8 / 30
    """Between neighbours on the axis of rotary positions, memory and future alike [GE]."""
    memory_pick: Literal["random", "every"] = "random"
    """How remembered frames are drawn in training [GE: random]."""
    memory_stride: int = 20
    """Control steps between the frames that a running policy remembers [GE: 20 or 30]."""
    exec_steps: int = 8
    """Actions executed before the next chunk: 8 [GE]; the paper executes one."""

    def __post_init__(self) -> None:
        if self.future_encoding == "joint":
            check_num_frames("future_frames", self.future_frames, self.tokenizer.temporal_stride)
        if min(self.num_views, self.num_memory, self.future_frames, self.frame_stride) < 1:
            raise ValueError("Expected views, memory, future frames and stride of at least 1.")
        if self.video.in_channels != self.tokenizer.channels:
            raise ValueError(
                f"Expected a video network of {self.tokenizer.channels} input channels, found "
                f"{self.video.in_channels}: set LTXConfig(in_channels=...)."
            )
        check_layers("bank_blocks", self.bank_blocks, self.video.num_layers)
        if not 0 < self.state_dim < self.action.action_dim:
            raise ValueError(
                f"Expected an action tower of actions and {self.state_dim} states, found "
                f"{self.action.action_dim} numbers: set ActionDiTConfig(action_dim=...)."
            )
        if self.action.video_dim not in (0, self.video.dim):
            raise ValueError(
                f"Expected an action tower that reads states of width {self.video.dim}, found "
                f"{self.action.video_dim}: set ActionDiTConfig(video_dim=...)."
            )
        if self.action.ego_dim:
            raise ValueError("Expected ActionDiTConfig(ego_dim=0), found an ego of a car.")
        if not 1 <= self.exec_steps <= self.chunk:
            raise ValueError(
                f"Expected exec_steps from 1 to the chunk's {self.chunk}, found {self.exec_steps}."
            )
        if self.carries_mean and self.action_objective == "score":
            raise ValueError('Expected action_objective "flow" with carries_mean, found "score".')

    @property
    def chunk(self) -> int:
        """Actions of a chunk."""
        return self.action.num_tokens - int(self.tells_state)

    @property
    def num_future_latents(self) -> int:
        if self.future_encoding == "separate":
            return self.future_frames
        return (self.future_frames - 1) // self.tokenizer.temporal_stride + 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a view."""
        height, width = (side // self.tokenizer.stride for side in self.frame_size)
        return self.num_memory + self.num_future_latents, height, width


class MaskWorldModel(nn.Module, ReleaseMixin):
    """The system: tokenizer, palette, prompt encoder, video tower, action tower."""

    name = "mask_world_model"

    def __init__(self, config: MaskWorldModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.video.dim, config.action.action_dim
        self.tokenizer = build_latent_tokenizer(config.tokenizer)
        self.palette = Palette(config.palette)
        self.clips = RobotClips(self.tokenizer, self.palette, config)
        self.video = LTXDiT(config.video)
        self.view_embedding = nn.Embedding(config.num_views, dim)
        nn.init.normal_(self.view_embedding.weight, std=0.02)
        self.prompter = VideoPrompter(config.text, dim, ego="none")
        self.normaliser = ControlNormaliser(width - config.state_dim, config.state_dim)
        if config.policy == "inverse_dynamics":
            channels = self.palette.num_groups if config.target == "mask" else 3
            self.inverse_dynamics = InverseDynamics(
                config.inverse_dynamics,
                config.num_views * config.future_frames * channels,
                config.state_dim,
                config.chunk,
                width,
            )
        else:
            told = latent_window.NUM_PLACES * config.bank_positions
            reads = config.action.video_dim + told if config.action.video_dim else 0
            self.action = ActionDiT(replace(config.action, video_dim=reads))
        if config.carries_mean:
            k, gh, gw = config.grid
            num_future = config.num_views * (k - config.num_memory) * gh * gw
            self.future_prior = MeanPrior(num_future, config.tokenizer.channels)
            self.action_prior = MeanPrior(config.chunk, width)

    # ------------------------------------------------------------------------ 2. Conditioning

    @torch.no_grad()
    def fit_tokenizer(self, batch: Batch, generator: torch.Generator) -> None:
        """Fits patch latents on RGB and palette frames alike; they never change again."""
        if not isinstance(self.tokenizer, CausalPatchTokenizer):
            raise ValueError("Expected patch latents to fit, found a tokenizer that is trained.")
        self.tokenizer.fit(self.clips.tokenizer_clips(batch), generator)

    @torch.no_grad()
    def fit_latents(self, latents: Float[Tensor, "b v tl d gh gw"]) -> None:
        """Measures the average future on training data."""
        if self.config.carries_mean:
            future = to_tokens(latents[:, :, self.config.num_memory :])
            self.future_prior.fit(side_by_side(future, self.config.num_views))

    @torch.no_grad()
    def fit_control(self, control: ControlBatch) -> None:
        """Measures ranges, and the average chunk, on training data. What is fitted stays."""
        if not self.normaliser.is_fitted:
            self.normaliser.fit(control)
        if self.config.carries_mean:
            actions, states, _ = demonstrated(control)
            self.action_prior.fit(self.normaliser.normalise(actions, states))

    # ---------------------------------------------------------------------------- 3. Training

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """The loss of a stage, by its name.

        "tokenizer": the tokenizer's own, on RGB and palette frames. "dynamics...": L_mask.
        "policy...": the action loss, without masks, plus L_mask where `world_loss_weight` is set.
        """
        if stage == "tokenizer":
            frames = to_unit(self.clips.tokenizer_clips(batch))
            return self.tokenizer.reconstruction_loss(frames, generator)
        config = self.config
        terms: dict[str, Tensor] = {}
        if stage.startswith("dynamics"):
            terms["velocity"] = self._video_loss(batch, config.dynamics_conditions, generator)
        elif stage.startswith("policy"):
            terms["action"] = self._action_loss(batch, generator)
            if config.world_loss_weight:
                error = self._video_loss(batch, config.policy_conditions, generator)
                terms["velocity"] = config.world_loss_weight * error
        else:
            raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")
        total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def _video_loss(
        self, batch: Batch, conditions: StageConditions, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """L_mask: rectified flow on the future slots, the memory clean at time 0 (sequence x_s)."""
        latents = self.clips.encode(batch, with_future=True)
        b, v, k, _, gh, gw = latents.shape
        count = self.config.num_memory
        memory = latent_window.slightly_noisy(
            latents[:, :, :count], conditions.memory_noise, generator
        )
        z0 = to_tokens(torch.cat([memory, latents[:, :, count:]], dim=2))
        eps = torch.randn(z0.shape, generator=generator, device=generator.device).to(z0)
        t = self.config.video_times.sample(b, k, gh * gw, generator).to(z0)
        noisy = add_noise(z0, eps, t.repeat_interleave(v, dim=0), context_mask(latents, count))
        prompt = self._prompt(batch, b, conditions.p_drop_caption, generator)
        velocity = self.run_video(noisy.z, noisy.t, prompt, (k, gh, gw)).velocity
        assert velocity is not None
        weight = time_weight(noisy.t, self.config.time_weight)  # w(s)
        return flow_matching_loss(velocity, noisy.target, noisy.context, weight=weight)

    def _action_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """The action loss over the real steps of the chunk u = [action, state]."""
        config, control = self.config, self._control(batch)
        actions, states, is_real = demonstrated(control)
        u0 = self.normaliser.normalise(actions, states)
        if config.policy == "inverse_dynamics":
            guess = self._inverse(self.clips.target_frames(batch), batch.labels, control.state)
            return flow_matching_loss(guess, u0, ~is_real)
        eps = torch.randn(u0.shape, generator=generator, device=generator.device).to(u0)
        if config.action_objective == "score":
            sigma = config.score.sample(len(u0), generator).to(u0)
            z = (u0 + sigma[:, None, None] * eps) / (1 + sigma[:, None, None])
            t = score_matching.time_of(sigma)[:, None].expand(u0.shape[:2])
            output = self.run_action(z, t, self._training_bank(batch, generator), control)
            return score_matching.score_matching_loss(output, eps, sigma, ~is_real)
        t = config.action_times.sample(len(u0), 1, u0.shape[1], generator).to(u0)
        noisy = add_noise(u0, eps, t)
        velocity = self.run_action(noisy.z, noisy.t, self._training_bank(batch, generator), control)
        unit = self.action_prior.unit(noisy.t) if config.carries_mean else 1.0
        return flow_matching_loss(velocity / unit, noisy.target / unit, ~is_real)

    def _training_bank(self, batch: Batch, generator: torch.Generator) -> FeatureBank | None:
        """The bank of stage 2: made in the step, or once where the video tower is frozen."""
        config, conditions = self.config, self.config.policy_conditions
        if config.action.video_dim == 0:
            return None
        moves_video = config.trains == "all"
        if batch.features is not None and not moves_video:
            return FeatureBank(batch.features.unbind(dim=1))
        with torch.set_grad_enabled(moves_video and torch.is_grad_enabled()):
            memory = self.clips.encode(batch, with_future=False)
            memory = latent_window.slightly_noisy(memory, conditions.memory_noise, generator)
            prompt = self._prompt(batch, len(memory), conditions.p_drop_caption, generator)
            return self.feature_bank(memory, prompt, generator)

    def feature_bank(
        self,
        memory: Float[Tensor, "b v n d gh gw"],
        prompt: VideoPrompt,
        generator: torch.Generator,
        p_prune: float | int = 0.0,
    ) -> FeatureBank:
        """H_t: states of the first denoising step, the memory clean and the future pure noise at
        time 1. `p_prune` of the visual tokens, drawn anew, never reach the network."""
        latents = latent_window.followed_by_noise(memory, self.config.grid[0], generator)
        v, (k, gh, gw) = latents.shape[1], (latents.shape[2], *latents.shape[-2:])
        z = to_tokens(latents)
        t = (~context_mask(latents, self.config.num_memory)).to(z.dtype)
        kept = latent_window.draw_kept(len(z), z.shape[1], p_prune, generator) if p_prune else None
        order = self.config.bank_blocks
        out = self.run_video(z, t, prompt, (k, gh, gw), sorted(set(order)), max(order), kept)
        places = latent_window.grid_places((k, gh, gw), self.config.bank_positions).to(z)
        return latent_window.bank_of(out.blocks, order, v, places, kept)

    def run_video(
        self,
        z: Float[Tensor, "bv n c"],
        t: Float[Tensor, "bv n"],
        prompt: VideoPrompt,
        grid: tuple[int, int, int],
        return_blocks: Sequence[int] = (),
        last_block: int | None = None,
        kept: Int[Tensor, "bv m"] | None = None,
    ) -> VideoPass:
        """One forward pass of the video tower over all views of a grid (latent frames, rows,
        columns), or over the `kept` tokens of it, with their times and positions."""
        config, num_views, prior = self.config, self.config.num_views, None
        rate, stride = 1 / config.seconds_per_latent, self.tokenizer.stride
        positions = grid_positions(*grid, rate, 1, stride, is_causal=False, device=z.device)
        if config.carries_mean and last_block is None:
            prior = self.future_prior.velocity_of_views(z, t, num_views)
        if kept is not None:
            z, t, positions = latent_window.keep(kept, z, t, positions)
        elif config.video_times.scope != "token":
            t = t.unflatten(1, (grid[0], -1))[..., 0]  # one time per latent frame is cheaper
        views = repeat(self.view_embedding.weight, "v d -> (b v) 1 d", b=len(z) // num_views)
        return run_latent_video(
            self.video,
            z,
            t,
            prior=prior,
            return_blocks=return_blocks,
            last_block=last_block,
            positions=positions,
            text=prompt.text,
            text_mask=prompt.text_mask,
            condition=views,
            num_views=num_views,
        )

    def run_action(
        self,
        u: Float[Tensor, "b l u"],
        t: Float[Tensor, "b l"],
        bank: FeatureBank | ProjectedBank | None,
        control: ControlBatch,
    ) -> Float[Tensor, "b l u"]:
        """The action tower's output for a noisy chunk; the state's token, at time 0, is dropped."""
        x, time = self.action_prior.whitened(u, t) if self.config.carries_mean else u, t
        if self.config.tells_state:
            x = torch.cat([self.normaliser.state_token(control.state), x], dim=1)
            time = torch.cat([torch.zeros_like(t[:, :1]), t], dim=1)
        out = self.action(x, time, bank).velocity[:, -u.shape[1] :]
        if not self.config.carries_mean:
            return out
        return self.action_prior.velocity(u, t) + self.action_prior.unit(t) * out

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """What trains in a stage; everything else is frozen. No decay on vectors.

        Stage "policy" leaves alone what the feature bank does not depend on, unless L_mask is
        trained beside the actions.
        """
        config, video = self.config, ("video.", "prompter.", "view_embedding.")
        if stage == "tokenizer":
            return self.tokenizer.parameter_groups()
        if stage.startswith("dynamics"):
            return named_groups(self, video)
        if not stage.startswith("policy"):
            raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")
        if config.policy == "inverse_dynamics":
            return named_groups(self, ("inverse_dynamics.",))
        if config.trains == "action_only" or config.action.video_dim == 0:
            return named_groups(self, ("action.",))
        unread = beyond_blocks("video", max(config.bank_blocks), config.video.num_layers)
        without = () if config.world_loss_weight else unread
        return named_groups(self, (*video, "action."), without)

    def _prompt(
        self, batch: Batch, batch_size: int, p_drop: float, generator: torch.Generator
    ) -> VideoPrompt:
        dropped = drop_conditions(batch_size, p_drop, generator)
        return self.prompter(Prompt(batch.captions or None), batch_size, 1, dropped)

    def _control(self, batch: Batch) -> ControlBatch:
        if batch.control is None:
            raise ValueError("Expected the robot's state in Batch.control, found none.")
        return batch.control

    # -------------------------------------------------------------------------- 4. Generation

    @torch.no_grad()
    def rollout(
        self, batch: Batch, generator: torch.Generator, sampling: FlowSampling = SAMPLING
    ) -> FutureFrames:
        """Dreams the future after the remembered frames, all its steps, decoded and read.

        For inspection, scores and MWM-C1; the policy itself never denoises a video.
        """
        if sampling.guidance != Guidance():
            raise ValueError("Expected no guidance (gamma 1, cfg_scale 1) of a mask world model.")
        memory = self.clips.encode(batch, with_future=False).to(self.device)
        prompt = self._prompt(batch, len(memory), 0.0, generator)
        noisy = latent_window.followed_by_noise(memory, self.config.grid[0], generator)
        grid = (noisy.shape[2], *noisy.shape[-2:])

        def model(z: Tensor, t: Tensor) -> Tensor:
            velocity = self.run_video(z, t, prompt, grid).velocity
            assert velocity is not None
            return velocity

        context = context_mask(noisy, self.config.num_memory)
        z = euler(model, to_tokens(noisy), sampling.video.sigmas(), context)
        latents = to_latents(z, grid, noisy.shape[1])
        future = latents[:, :, self.config.num_memory :]
        return FutureFrames(latents, *self.clips.decode(future))

    # ---------------------------------------------------------------------------- 5. Planning

    @torch.no_grad()
    def encode_once(
        self, batch: Batch, generator: torch.Generator, p_prune: float | int = 0.0
    ) -> FeatureBank | None:
        """The single pass of the video tower for a chunk; None for a policy that reads none."""
        if self.config.action.video_dim == 0:
            return None
        memory = self.clips.encode(batch, with_future=False).to(self.device)
        prompt = self._prompt(batch, len(memory), 0.0, generator)
        return self.feature_bank(memory, prompt, generator, p_prune)

    @torch.no_grad()
    def denoise_actions(
        self,
        bank: FeatureBank | None,
        control: ControlBatch,
        generator: torch.Generator,
        sampling: FlowSampling = SAMPLING,
    ) -> ControlChunk:
        """Euler steps on the action tower alone, its keys and values made once."""
        config, draws = self.config, sampling.num_averaged
        projected = None if bank is None else self.action.project(bank).repeated(draws)
        asked = ControlBatch(control.state.repeat_interleave(draws, dim=0))
        shape = (len(asked.state), config.chunk, config.action.action_dim)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        is_score = config.action_objective == "score"

        def model(z: Tensor, t: Tensor) -> Tensor:
            out = self.run_action(z, t, projected, asked)
            return score_matching.score_velocity(z, t, out) if is_score else out

        top = config.score.t_max if is_score else 1.0
        sigmas = [top * sigma for sigma in sampling.actions.sigmas()]
        u = euler(model, top * noise.to(control.state), sigmas)
        u = reduce(u, "(b k) l u -> b l u", "mean", k=draws)
        return ControlChunk(*self.normaliser.denormalise(u))

    @torch.no_grad()
    def act_chunk(
        self,
        batch: Batch,
        generator: torch.Generator,
        sampling: FlowSampling = SAMPLING,
        p_prune: float | int = 0.0,
    ) -> ControlChunk:
        """A chunk of actions from remembered frames, caption and state; masks are never read.

        The video tower runs once. MWM-C1 instead dreams, decodes and reads actions from that.
        """
        control = self._control(batch).to(self.device)
        if self.config.policy == "features":
            bank = self.encode_once(batch, generator, p_prune)
            return self.denoise_actions(bank, control, generator, sampling)
        if p_prune:
            raise ValueError("Expected p_prune 0 with inverse dynamics, which decodes all tokens.")
        dreamt = self.rollout(batch, generator, sampling)
        u = self._inverse(dreamt.frames, dreamt.labels, control.state, is_read=True)
        return ControlChunk(*self.normaliser.denormalise(u))

    def _inverse(
        self,
        frames: UInt8[Tensor, "b v f c h w"],
        labels: UInt8[Tensor, "b v f h w"] | None,
        state: Float[Tensor, "b s"],
        is_read: bool = False,
    ) -> Float[Tensor, "b l u"]:
        """Actions from future pictures: one-hot groups, or RGB."""
        pictures = to_unit(frames)
        if self.config.target == "mask":
            assert labels is not None
            pictures = self.palette.one_hot(labels if is_read else self.palette.group(labels))
        return self.inverse_dynamics(pictures, self.normaliser.states.normalise(state))

    @property
    def device(self) -> torch.device:
        return self.video.proj_in.weight.device
