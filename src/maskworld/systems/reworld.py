"""ReWorld: a world action model whose inner representations are trained directly.

Xia et al. 2026, "ReWorld: Learning Better Representations for World Action Models",
arXiv 2606.27504; it builds on DriveLaW (arXiv 2512.23421).

A video transformer learns by rectified flow to turn noise into the future after given past frames.
In its first denoising step its blocks hold what it expects of that future; an action transformer
reads these states, block by block, and turns noise into a plan. Three losses shape the states
themselves: heads at intermediate layers predict the video's velocity too (and guide the sampler),
action states are pulled to what they read from the video, and plans are pushed away from unsafe
ones nearby. Three stages, in this order: video, actions, both.

| paper | here |
|---|---|
| Eq. 1, 2: z_t, L_Gen | `_video_terms` |
| Eq. 3, 4: a_t, L_FM, the features F | `_action_terms`, `feature_bank` |
| Eq. 5: L_Std, both at once | `training_loss`, stage "standard" |
| Eq. 6-8: heads q_l, L_Mid, L_Video | `heads`, `_video_terms`; weight `intermediate_weight` |
| Eq. 9: v_w, self-guidance gamma | `velocity_model`, `guidance.SelfGuided` |
| Eq. 10-12: readout, L_align, stage 2 | `_action_terms`, `objectives/alignment.py` |
| Eq. 13-15: hard negatives | `objectives/repulsion.py: select_hard_negative`, `Batch.plan` |
| Eq. 16-19: delta map, L_RDE, stage 3 | `_action_terms`, `objectives/repulsion.py` |
| Table 2: SRA, SRA2, Self-Flow, REPA | `objectives/representation.py`; off by default |

Deviations and readings: docs/adr/0009-reading-of-reworld.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskworld.backbones.action_dit import ActionDiT, ActionDiTConfig, ActionOutput, ProjectedBank
from maskworld.backbones.latent_video import VideoPass, run_latent_video
from maskworld.backbones.ltx import LTXConfig, LTXDiT, VelocityHead, grid_positions
from maskworld.conditioning.ego import EgoEncoder
from maskworld.conditioning.priors import (
    MIN_TIME,
    constant_velocity,
    measured_variance,
    standing_still,
)
from maskworld.conditioning.text import SmallTextConfig, T5TextConfig
from maskworld.conditioning.trajectory import DeltaMap, TrajectoryNormaliser, experts_of
from maskworld.conditioning.video_prompt import EGO_SCALE, VideoPrompt, VideoPrompter
from maskworld.flow import TimeSampling, add_noise, clean_estimate, linear_velocity
from maskworld.guidance import drop_conditions
from maskworld.interfaces import VelocityModel
from maskworld.nn.latent_window import (
    NUM_PLACES,
    bank_of,
    context_mask,
    followed_by_noise,
    grid_places,
    to_latents,
    to_tokens,
)
from maskworld.nn.parameters import beyond_blocks, check_layers, named_groups
from maskworld.nn.pixels import to_unit
from maskworld.nn.release import ReleaseMixin
from maskworld.objectives.alignment import alignment_loss
from maskworld.objectives.flow_matching import flow_matching_loss
from maskworld.objectives.representation import RepresentationConfig, RepresentationObjective
from maskworld.objectives.repulsion import repulsion_loss
from maskworld.samplers.euler import euler
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.tokenizers.latent import (
    CausalPatchConfig,
    CausalPatchTokenizer,
    LatentConfig,
    PretrainedVideoVAEConfig,
    build_latent_tokenizer,
    decode_views,
    encode_views,
    latents_of,
)
from maskworld.tokenizers.video_frames import check_num_frames
from maskworld.types import Batch, FeatureBank, LossOutput, PlanBatch, Prompt

STAGES = ("tokenizer", "video", "action", "joint", "standard")


# ------------------------------------------------------------------------------------ 1. Config


@dataclass(frozen=True)
class ReWorldConfig:
    """Everything that shapes the model. The paper's value beside each field; [?] = not given."""

    video: LTXConfig = field(default_factory=LTXConfig)
    """LTX-Video 2B: 28 blocks, 2048 wide."""
    action: ActionDiTConfig = field(default_factory=ActionDiTConfig)
    """133 M by the paper, 131.27 M in DriveLaW's release: 28 blocks, 512 wide."""
    bank_blocks: tuple[int, ...] = tuple(range(1, 29))
    """Video blocks (from 1) whose outputs the action layers read; all, block b for layer b."""
    tokenizer: LatentConfig = field(default_factory=PretrainedVideoVAEConfig)
    """LTX-Video's causal VAE."""
    text: SmallTextConfig | T5TextConfig | None = field(
        default_factory=lambda: T5TextConfig("google/t5-v1_1-xxl", dim=4096, max_tokens=128)
    )
    """T5-XXL; None = no text, as in the paper's Table 2."""
    ego_prompt: Literal["embedding", "text"] = "embedding"
    """How ego state and command reach the video: a learned embedding (ours), or as words in the
    prompt (DriveLaW's release, which has no other way)."""
    future_actions: int = 0
    """Numbers of an action per future frame that the video may be given. 0 = none, the paper's;
    2 (speed, yaw rate) lets it dream what a plan leads to. Ours."""
    action_scale: tuple[float, ...] = (10.0, 0.5)
    supervised_layers: tuple[int, ...] = (8,)
    """S of Eq. 7, from 1: {8} of 28 (Table 5). Empty = no intermediate supervision."""
    intermediate_weight: float = 0.5
    """lambda_Mid of Eq. 8 [?]; 0.5 in Internal Guidance."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """A rival of the intermediate supervision (Table 2), in stages "video..."; none in ReWorld."""
    guidance_layer: int | None = None
    """Which supervised layer guides the sampler; None = the first."""
    alignment_layers: tuple[int, ...] = (12,)
    """Cross-attention layers of Eq. 11, from 1."""
    alignment_weight: float = 0.05
    """lambda_align of Eq. 12."""
    repulsion_weight: float = 0.04
    """lambda_RDE of Eq. 19."""
    clamps_estimate: bool = False
    """Whether Denorm in Eq. 16 clamps to the normalised range, which also bounds the repulsion."""
    carries_past: bool = False
    """Start from "nothing moves": the future is told the latents of the last frame standing still,
    and the network predicts what that prior misses (`flow.linear_velocity`). Ours, for networks too
    small to find that out; only with patch latents. ADR 0010."""
    carries_motion: bool = False
    """Start plans from "go on as now", as the video starts from "nothing moves": the action network
    predicts what constant velocity misses. Ours; ADR 0010."""
    weighs_motion: bool = False
    """With `carries_motion`: input, output and error of the action network are in units of what
    that prior leaves open, at every waypoint and time (the preconditioning of Karras et al. 2022).
    Otherwise far waypoints and small noise, where nothing can be learnt, outweigh the rest. Ours;
    ADR 0010."""
    bank_positions: int = 0
    """Frequencies at which states of the bank are told their place: sine and cosine of time, row
    and column, `NUM_PLACES` numbers each beside the state's own. Rotary networks are told only
    differences of places. Ours; ADR 0010."""
    plan_interval: float = 0.5
    """Seconds between waypoints."""
    trajectory: Literal["navsim", "dataset"] = "navsim"
    """Whose ranges normalise plans: DriveLaW's constants, or those of the training data."""
    delta: Literal["beyonddrive", "dataset"] = "beyonddrive"
    """Whose constants normalise the steps of Eq. 17 [?]."""
    video_times: TimeSampling = field(default_factory=TimeSampling)
    """"Token-wise uniform": one t per sample, given to every target token (ADR 0009)."""
    action_times: TimeSampling = field(default_factory=lambda: TimeSampling("shifted_logit_normal"))
    """DriveLaW's release."""
    bank_latents: int | None = None
    """The last so many latents of the window are read by the planner: the future and what is just
    past. None, the paper's: all. Ours."""
    action_draws: int = 1
    """Plans of one sample that a step trains on, each with its own noise and time; they share what
    is read from the video, which costs a small planner more than the plan itself. Ours."""
    p_drop_prompt: float = 0.06
    """Text, ego and command dropped together, for guidance (DriveLaW: 0.06)."""
    p_drop_actions: float = 0.0
    """Future actions dropped, so that the video also dreams, and plans, without."""
    num_frames: int = 33
    """Frames of a window, 8k + 1 (DriveLaW: 33 at 1280x704, 121 at 512x512; Table 2: 25)."""
    num_past: int = 9
    """Given frames, 8k + 1 (DriveLaW's sampler: 9; its trainer: 1)."""
    frame_size: tuple[int, int] = (704, 1280)
    fps: float = 8.0

    def __post_init__(self) -> None:
        for name, value in (("num_frames", self.num_frames), ("num_past", self.num_past)):
            check_num_frames(name, value, self.tokenizer.temporal_stride)
        if self.num_past >= self.num_frames:
            raise ValueError(
                f"Expected fewer past frames than frames, found {self.num_past} of "
                f"{self.num_frames}."
            )
        if self.carries_past and not isinstance(self.tokenizer, CausalPatchConfig):
            raise ValueError("Expected patch latents with carries_past, found another tokenizer.")
        needed = self.tokenizer.channels * (2 if self.carries_past else 1)
        if self.video.in_channels != needed:
            raise ValueError(
                f"Expected a video network of {needed} input channels, found "
                f"{self.video.in_channels}: set LTXConfig(in_channels=...)."
            )
        check_layers("bank_blocks", self.bank_blocks, self.video.num_layers)
        check_layers("supervised_layers", self.supervised_layers, self.video.num_layers)
        check_layers("alignment_layers", self.alignment_layers, self.action.num_layers)
        if self.guidance_layer is not None and self.guidance_layer not in self.supervised_layers:
            raise ValueError(
                f"Expected guidance_layer among the supervised {self.supervised_layers}, found "
                f"{self.guidance_layer}."
            )
        if self.weighs_motion and not self.carries_motion:
            raise ValueError("Expected carries_motion with weighs_motion, found it off.")
        future = (self.num_frames - self.num_past) // self.tokenizer.temporal_stride
        if self.bank_latents is not None and self.bank_latents < future:
            raise ValueError(
                f"Expected bank_latents of at least the {future} of the future, found "
                f"{self.bank_latents}: the planner reads what it expects to come."
            )
        if self.action_draws < 1:
            raise ValueError(f"Expected action_draws of at least 1, found {self.action_draws}.")
        if self.ego_prompt == "text" and self.text is None:
            raise ValueError('Expected a text encoder with ego_prompt "text", found none.')


@dataclass(frozen=True)
class VideoDream:
    """What `generate` returns: the given past, then what was dreamt."""

    frames: UInt8[Tensor, "b v t c h w"]
    latents: Float[Tensor, "b v tl d gh gw"]


class ReWorld(nn.Module, ReleaseMixin):
    """The system: tokenizer, prompt encoders, video tower with its heads, action tower."""

    name = "reworld"
    prior_variance: Tensor
    plan_variance: Tensor

    def __init__(self, config: ReWorldConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.video.dim
        self.tokenizer = build_latent_tokenizer(config.tokenizer)
        self.video = LTXDiT(config.video)
        self.heads = nn.ModuleDict(  # q_l of Eq. 6
            {
                str(layer): VelocityHead(dim, config.video.out_channels, config.video.norm_eps)
                for layer in config.supervised_layers
            }
        )
        self.representation = RepresentationObjective(
            config.representation,
            self.video,
            config.video.num_layers,
            dim,
            config.tokenizer.channels,
        )
        self.prompter = VideoPrompter(
            config.text,
            dim,
            ego=config.ego_prompt,
            num_past=config.num_past,
            frames_per_latent=self.tokenizer.temporal_stride,
            action_dim=config.future_actions,
            action_scale=config.action_scale,
            fps=config.fps,
        )
        told = config.action.video_dim + NUM_PLACES * config.bank_positions
        self.action = ActionDiT(replace(config.action, video_dim=told))
        self.action_ego = EgoEncoder(command="one_hot", scale=EGO_SCALE)
        if config.carries_past:
            self.register_buffer("prior_variance", torch.ones(config.tokenizer.channels))
        if config.carries_motion:
            shape = (config.action.num_tokens, config.action.action_dim)
            self.register_buffer("plan_variance", torch.ones(shape))
        self.normaliser = TrajectoryNormaliser(config.trajectory)
        self.delta = DeltaMap(config.delta)

    # ------------------------------------------------------------------------ 2. Conditioning

    @property
    def num_past_latents(self) -> int:
        return (self.config.num_past - 1) // self.tokenizer.temporal_stride + 1

    @torch.no_grad()
    def fit_latents(self, latents: Float[Tensor, "b v tl d gh gw"]) -> None:
        """Measures on training data how far the future is from the carried past."""
        if self.config.carries_past:
            flat = latents.flatten(0, 1)
            miss = (flat - self._carried(flat))[:, self.num_past_latents :]
            self.prior_variance.copy_(measured_variance(miss, (0, 1, 3, 4)))

    @torch.no_grad()
    def fit_plans(self, plans: PlanBatch) -> None:
        """Measures on experts' plans what the config leaves to the data: their ranges, those of
        their steps, how far they are from the carried motion. What is fitted already stays."""
        if plans.trajectory is None:
            raise ValueError("Expected plans of experts to fit to, found none with a trajectory.")
        for part in (self.normaliser, self.delta):
            if not bool(part.statistics.is_fitted):
                part.fit(plans.trajectory)
        if self.config.carries_motion and bool((self.plan_variance == 1).all()):
            miss = self.normaliser.normalise(plans.trajectory) - self._carried_motion(plans)
            self.plan_variance.copy_(measured_variance(miss, (0,)))

    def _carried(self, latents: Float[Tensor, "n tl d gh gw"]) -> Float[Tensor, "n tl d gh gw"]:
        """The past as it is, then the last frame standing still."""
        assert isinstance(self.tokenizer, CausalPatchTokenizer)
        past = latents[:, : self.num_past_latents]
        return standing_still(past, self.tokenizer.still(past), latents.shape[1])

    def _carried_motion(self, plan: PlanBatch) -> Float[Tensor, "b l a"]:
        """The normalised plan of constant velocity."""
        count, interval = self.config.action.num_tokens, self.config.plan_interval
        return self.normaliser.normalise(constant_velocity(plan.ego, count, interval))

    # ---------------------------------------------------------------------------- 3. Training

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """The loss of a stage, by its name.

        "tokenizer": the tokenizer's own. "video...": L_Video (Eq. 8); rows of a resolution
        curriculum are called video-1, video-2. "action": L_FM + L_align with a frozen video tower
        (Eq. 12). "joint": L_FM + L_RDE on both towers (Eq. 19). "standard": L_Gen + L_FM (Eq. 5).
        """
        if stage == "tokenizer":
            if batch.frames is None:
                raise ValueError("Expected frames to train the tokenizer on, found none.")
            frames = to_unit(rearrange(batch.frames, "b v t c h w -> (b v) t c h w"))
            return self.tokenizer.reconstruction_loss(frames, generator)
        latents = latents_of(self.tokenizer, batch)
        terms: dict[str, Tensor] = {}
        if stage.startswith("video") or stage == "standard":
            terms |= self._video_terms(latents, batch, stage, generator)
        if stage in ("action", "joint", "standard"):
            terms |= self._action_terms(latents, batch, stage, generator)
        if not terms:
            raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")
        total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def _video_terms(
        self,
        latents: Float[Tensor, "b v tl d gh gw"],
        batch: Batch,
        stage: str,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """L_Gen and lambda_Mid L_Mid, and a rival's loss."""
        config, rival = self.config, self.representation
        b, v, k, _, gh, gw = latents.shape
        z0, grid = to_tokens(latents), (k, gh, gw)
        eps = torch.randn(z0.shape, generator=generator, device=generator.device).to(z0)
        draw = partial(config.video_times.sample, b, k, gh * gw, generator)
        t, context = draw().to(z0), context_mask(latents, self.num_past_latents)
        is_alone = stage != "standard"  # Eq. 5 has L_Gen and L_FM only
        t, teacher_t = rival.times(t, draw, generator) if is_alone else (t, t)
        noisy = add_noise(z0, eps, t.repeat_interleave(v, dim=0), context)  # Eq. 1
        prompt = self.prompter(
            Prompt(batch.captions or None, batch.actions, batch.has_actions, batch.fps, batch.plan),
            b,
            k,
            drop_conditions(b, config.p_drop_prompt, generator),
            drop_conditions(b, config.p_drop_actions, generator),
        )
        layers, reads = (config.supervised_layers, rival.layers) if is_alone else ((), ())
        out = self.run_video(noisy.z, noisy.t, prompt, grid, v, layers, reads)
        assert out.velocity is not None
        error = flow_matching_loss(out.velocity, noisy.target, noisy.context)
        terms = {"velocity": error}  # Eq. 2
        for layer, guess in out.intermediate.items():
            error = flow_matching_loss(guess, noisy.target, noisy.context)  # Eq. 7
            terms[f"intermediate_{layer}"] = config.intermediate_weight * error  # Eq. 8
        if reads:

            def teach(network: nn.Module, block: int) -> Tensor:
                less = add_noise(z0, eps, teacher_t.repeat_interleave(v, dim=0), context)
                given = (less.z, less.t, prompt, grid, v, (), (block,), block, network)
                return self.run_video(*given).blocks[block]

            frames = batch.frames if batch.frames is None else batch.frames.flatten(0, 1)
            terms |= rival.terms(self.video, out.blocks, z0, context, teach, frames, grid)
        return terms

    def _action_terms(
        self,
        latents: Float[Tensor, "b v tl d gh gw"],
        batch: Batch,
        stage: str,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """L_FM, and lambda_align L_align in stage 2 or lambda_RDE L_RDE in stage 3."""
        config = self.config
        rows, moments = experts_of(batch)
        chosen = _repeated(moments, config.action_draws)
        assert chosen.trajectory is not None
        a0 = self.normaliser.normalise(chosen.trajectory)
        eps = torch.randn(a0.shape, generator=generator, device=generator.device).to(a0)
        t = config.action_times.sample(len(a0), 1, a0.shape[1], generator).to(a0)
        noisy = add_noise(a0, eps, t)  # Eq. 3
        if stage == "action" and batch.features is not None:
            states = batch.features[rows].to(a0)  # made once: the video is frozen
            bank = FeatureBank(states.unbind(dim=1))
        else:
            texts = [text for text, kept in zip(batch.captions, rows.tolist()) if kept]
            past = latents[rows][:, :, : self.num_past_latents]
            with torch.set_grad_enabled(stage != "action" and torch.is_grad_enabled()):
                bank = self.feature_bank(past, Prompt(texts or None, plan=moments), generator)
        read = self.action.project(bank)
        weighs_alignment = stage == "action" and config.alignment_weight > 0
        layers = config.alignment_layers if weighs_alignment else ()
        out = self.run_action(noisy.z, t, read, chosen, layers)
        unit = self._plan_unit(t)
        error = flow_matching_loss(out.velocity / unit, noisy.target / unit)
        terms = {"action_velocity": error}  # Eq. 4
        if weighs_alignment:
            align = alignment_loss(out.states, out.readouts)  # Eq. 10, 11
            terms["alignment"] = config.alignment_weight * align  # Eq. 12
        if stage == "joint" and config.repulsion_weight > 0:
            estimate = clean_estimate(noisy.z, out.velocity, t)
            tau = self.normaliser.denormalise(estimate, clamp=config.clamps_estimate)  # Eq. 16
            negative, has_negative = chosen.negative, chosen.has_negative
            if negative is None or has_negative is None:
                negative, has_negative = torch.zeros_like(tau), rows.new_zeros(len(tau))
            repulsion = repulsion_loss(self.delta(tau), self.delta(negative), has_negative)
            terms["repulsion"] = config.repulsion_weight * repulsion  # Eq. 18, 19
        return terms

    def feature_bank(
        self,
        past: Float[Tensor, "b v tp d gh gw"],
        prompt: Prompt,
        generator: torch.Generator,
    ) -> FeatureBank:
        """F: states of the first denoising step, the past clean and the future pure noise at t = 1.

        The released DriveLaW trains with the sampled time beside pure noise and samples with t = 1;
        here both are t = 1. Reference: section 3.1.
        """
        latents = self._with_noise(past, self.config.num_frames, generator)
        b, v, k, _, gh, gw = latents.shape
        t = (~context_mask(latents, self.num_past_latents)).to(latents.dtype)
        order = self.config.bank_blocks
        wanted = tuple(sorted(set(order)))
        out = self.run_video(
            to_tokens(latents),
            t,
            self.prompter(prompt, b, k),
            (k, gh, gw),
            v,
            return_blocks=wanted,
            last_block=wanted[-1],
        )
        places = grid_places((k, gh, gw), self.config.bank_positions).to(latents)
        unread = (k - (self.config.bank_latents or k)) * gh * gw
        told = {
            block: torch.cat([states, places.expand(b * v, -1, -1)], dim=-1)[:, unread:]
            for block, states in out.blocks.items()
        }
        return bank_of(told, order, v)

    def run_video(
        self,
        z: Float[Tensor, "bv n c"],
        t: Float[Tensor, "bv n"],
        prompt: VideoPrompt,
        grid: tuple[int, int, int],
        num_views: int = 1,
        supervised: Sequence[int] = (),
        return_blocks: Sequence[int] = (),
        last_block: int | None = None,
        network: nn.Module | None = None,
    ) -> VideoPass:
        """One forward pass of the video tower (or `network`, a copy of it) over tokens of a grid
        (latent frames, rows, columns), with the velocities of the `supervised` layers and the
        states of others."""
        config, prompt = self.config, prompt.for_views(num_views)
        strides = self.tokenizer.temporal_stride, self.tokenizer.stride
        x, prior = z, None
        if config.carries_past:
            mean = to_tokens(self._carried(to_latents(z, grid, 1)[:, 0])[:, None])
            x = torch.cat([z, mean], dim=-1)
            prior = linear_velocity(z, t.clamp(min=MIN_TIME), mean, self.prior_variance)
        if config.video_times.scope != "token" and config.representation.kind != "self_flow":
            t = t.unflatten(1, (grid[0], -1))[..., 0]  # one time per latent frame is cheaper
        return run_latent_video(
            self.video if network is None else network,
            x,
            t,
            prior=prior,
            heads=self.heads,  # Eq. 6
            supervised=supervised,
            return_blocks=return_blocks,
            last_block=last_block,
            positions=grid_positions(*grid, config.fps, *strides, device=z.device),
            text=prompt.text,
            text_mask=prompt.text_mask,
            condition=prompt.condition,
            num_views=num_views,
        )

    def run_action(
        self,
        a: Float[Tensor, "b l a"],
        t: Float[Tensor, "b l"],
        bank: FeatureBank | ProjectedBank,
        plan: PlanBatch,
        readout_layers: Sequence[int] = (),
    ) -> ActionOutput:
        """One forward pass of the action tower for the ego states and commands of `plan`."""
        config, ego = self.config, self.action_ego(plan.ego, plan.command)
        time = t if config.action_times.scope == "token" else t[:, 0]
        if not config.carries_motion:
            return self.action(a, time, bank, ego, readout_layers)
        mean, unit, given = self._carried_motion(plan), self._plan_unit(t), a
        if config.weighs_motion:
            scale = self.plan_variance.sqrt() / unit
            given = (a - (1 - t[..., None]) * mean) / scale
        out = self.action(given, time, bank, ego, readout_layers)
        prior = linear_velocity(a, t, mean, self.plan_variance)
        return replace(out, velocity=prior + unit * out.velocity)

    def _plan_unit(self, t: Float[Tensor, "b l"]) -> Float[Tensor, "b l a"] | Float[Tensor, ""]:
        """The standard deviation of the velocity where z_t and the carried motion are known; 1
        without `weighs_motion`."""
        if not self.config.weighs_motion:
            return t.new_ones(())
        time, variance = t[..., None], self.plan_variance
        return (variance / ((1 - time).square() * variance + time.square())).sqrt()

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """What trains in a stage; everything else is frozen. No decay on vectors.

        Stage "joint" leaves the video's output heads alone: no gradient of the plan reaches them.
        """
        if stage == "tokenizer":
            return self.tokenizer.parameter_groups()
        video, action = ("video.", "prompter."), ("action.", "action_ego.")
        if stage.startswith("video"):
            return named_groups(self, (*video, "heads.", "representation.projector."))
        if stage == "action":
            return named_groups(self, action)
        if stage == "standard":
            return named_groups(self, (*video, *action))
        if stage == "joint":
            last, depth = max(self.config.bank_blocks), self.config.video.num_layers
            return named_groups(self, (*video, *action), beyond_blocks("video", last, depth))
        raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")

    def _with_noise(
        self,
        past: Float[Tensor, "b v tp d gh gw"],
        num_frames: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "b v tl d gh gw"]:
        """The past, then pure noise up to the latents of `num_frames`."""
        if past.shape[2] != self.num_past_latents:
            raise ValueError(
                f"Expected {self.num_past_latents} past latents ({self.config.num_past} frames), "
                f"found {past.shape[2]}: give as many past frames as the model was trained with."
            )
        num_latents = (num_frames - 1) // self.tokenizer.temporal_stride + 1
        return followed_by_noise(past, num_latents, generator)

    # -------------------------------------------------------------------------- 4. Generation

    @torch.no_grad()
    def generate(
        self,
        past: UInt8[Tensor, "b v p c h w"] | Float[Tensor, "b v tp d gh gw"],
        prompt: Prompt,
        sampling: FlowSampling,
        generator: torch.Generator,
        num_frames: int | None = None,
    ) -> VideoDream:
        """Dreams what follows the past frames (or their latents), up to the model's window.

        `prompt.actions`, for models that take them, has a row per frame of the window; None, the
        future is dreamt without. A single step from t = 1 gives the posterior mean.
        """
        latents = encode_views(self.tokenizer, past) if past.dtype == torch.uint8 else past
        frames = num_frames or self.config.num_frames
        noisy = self._with_noise(latents.to(self.device), frames, generator)
        b, v, k, _, gh, gw = noisy.shape
        z = euler(
            self.velocity_model(prompt, b, (k, gh, gw), v, sampling),
            to_tokens(noisy),
            sampling.video.sigmas(),
            context_mask(noisy, self.num_past_latents),
        )
        dreamt = to_latents(z, (k, gh, gw), v)
        return VideoDream(decode_views(self.tokenizer, dreamt), dreamt)

    def velocity_model(
        self,
        prompt: Prompt,
        batch_size: int,
        grid: tuple[int, int, int],
        num_views: int,
        sampling: FlowSampling,
    ) -> VelocityModel:
        """The guided velocity: v_w of Eq. 9, then classifier-free guidance if asked for.

        gamma = 1 is the plain model, exactly, and skips the head.
        """
        guidance, layers = sampling.guidance, self.config.supervised_layers
        if guidance.gamma != 1 and not layers:
            raise ValueError(
                f"Expected gamma 1 for a model without supervised layers, found {guidance.gamma}: "
                "train with supervised_layers, or sample with --gamma 1."
            )
        layer = self.config.guidance_layer or next(iter(layers), 0)
        asked = (layer,) if guidance.gamma != 1 else ()

        def bind(embedded: VideoPrompt) -> Any:
            def both(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
                out = self.run_video(z, t, embedded, grid, num_views, asked)
                assert out.velocity is not None
                return out.intermediate.get(layer, out.velocity), out.velocity

            return both

        conditional = bind(self.prompter(prompt, batch_size, grid[0]))
        if guidance.cfg_scale == 1:
            return guidance.bind(conditional)
        everyone = torch.ones(batch_size, dtype=torch.bool)
        empty = self.prompter(prompt, batch_size, grid[0], everyone, everyone)
        return guidance.bind(conditional, bind(empty))

    # ---------------------------------------------------------------------------- 5. Planning

    @torch.no_grad()
    def plan(
        self,
        batch: Batch,
        generator: torch.Generator,
        sampling: FlowSampling | None = None,
        num_plans: int = 1,
    ) -> Float[Tensor, "bn l 3"]:
        """Waypoints from past frames, ego state and command; row i * num_plans + j is plan j of
        sample i.

        The video tower runs once; the features of that first step serve all action steps. Frames
        after the past, if the batch has any, are not read.
        """
        if batch.plan is None:
            raise ValueError("Expected ego state and command in Batch.plan to plan, found none.")
        sampling = sampling or FlowSampling()
        past = latents_of(self.tokenizer, batch, self.config.num_past)
        prompt = Prompt(batch.captions or None, plan=batch.plan)
        bank = self.feature_bank(past.to(self.device), prompt, generator)
        return self.plan_from(bank, batch.plan, sampling, generator, num_plans)

    @torch.no_grad()
    def plan_from(
        self,
        bank: FeatureBank,
        plan: PlanBatch,
        sampling: FlowSampling,
        generator: torch.Generator,
        num_plans: int = 1,
    ) -> Float[Tensor, "bn l 3"]:
        """Euler steps on the action tower alone, its keys and values made once."""
        num_draws = num_plans * sampling.num_averaged
        projected = self.action.project(bank)
        asked = PlanBatch(
            plan.ego.repeat_interleave(num_draws, dim=0),
            plan.command.repeat_interleave(num_draws, dim=0),
        )
        config = self.config.action
        shape = (len(asked.ego), config.num_tokens, config.action_dim)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(plan.ego)

        def model(z: Tensor, t: Tensor) -> Tensor:
            return self.run_action(z, t, projected, asked).velocity

        draws = self.normaliser.denormalise(euler(model, noise, sampling.actions.sigmas()))
        return reduce(draws, "(b k) l a -> b l a", "mean", k=sampling.num_averaged)

    @property
    def device(self) -> torch.device:
        return self.video.proj_in.weight.device


def _repeated(plan: PlanBatch, count: int) -> PlanBatch:
    """Every sample `count` times in a row."""
    if count == 1:
        return plan
    rows: dict[str, Any] = {
        f.name: value.repeat_interleave(count, dim=0)
        for f in fields(plan)
        if isinstance(value := getattr(plan, f.name), Tensor)
    }
    tokens = [token for token in plan.tokens for _ in range(count)]
    return replace(plan, **rows, tokens=tokens)
