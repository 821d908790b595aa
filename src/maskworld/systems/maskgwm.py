"""MaskGWM: a driving video diffusion transformer trained with hidden tokens.

Ni et al. 2025, "MaskGWM: A Generalizable Driving World Model with Video Mask Reconstruction",
CVPR 2025, arXiv 2502.11663.

SD3's transformer, grown to videos, turns noise into the frames after 0 to 3 given ones. While it
trains, a quarter of the tokens is dropped after they were embedded: an encoder sees the rest, mask
tokens take the empty places, one of two small blocks guesses what was there, and a decoder must
give the velocity of all tokens, the dropped ones too. There is no other loss. At inference nothing
is dropped, and none of this runs. Long videos are dreamt round by round, each given the last frames
of the one before; cameras are joined row by row.

| paper | here |
|---|---|
| Eq. 1: L, rectified flow on all tokens | `training_loss`, `flow.add_noise` |
| Eq. 2: G = D(F(E(z M) M + m (1 - M))) | `run_masked` |
| Eq. 3: the diffusion-related mask token | `backbones/mask_branch.py: MaskTokens` |
| Eq. 4: F_s or F_t by the kind of mask | `backbones/mask_branch.py: MaskBranch` |
| Eq. 5: temporal blocks, time 0 on given frames | `backbones/mmdit_video.py: TemporalBlock` |
| section 3.3: masks, row by row | `masking.drop_tokens` |
| section 3.4: view blocks | `backbones/mmdit_video.py: ViewBlock` |
| section 7: 0-3 given frames, long rollouts | `_draw_given`, `roll_out` |

The paper's target is z_0 - eps; ours is eps - z_0, as SD3's (ADR 0002). Deviations and readings:
docs/adr/0012-reading-of-maskgwm.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from maskworld.backbones.mask_branch import MaskBranch, MaskTokens, ReconstructionConfig
from maskworld.backbones.mmdit import MMDiT, MMDiTConfig
from maskworld.conditioning.driving_prompt import (
    POSE,
    Conditions,
    carried_past,
    embed_signals,
    embed_text,
    unknown_signals,
)
from maskworld.conditioning.priors import measured_variance
from maskworld.conditioning.sd3_text import SD3TextConfig, SD3TextEncoder
from maskworld.conditioning.signals import VISTA_SIGNALS, Signal, SignalEncoder
from maskworld.conditioning.text import SmallTextConfig, T5TextConfig, build_text_encoder
from maskworld.flow import TimeSampling, add_noise, interpolate
from maskworld.guidance import drop_conditions
from maskworld.interfaces import VelocityModel
from maskworld.masking import DroppedTokens, drop_either
from maskworld.nn.anchoring import anchored
from maskworld.nn.parameters import named_groups
from maskworld.nn.pixels import to_unit
from maskworld.nn.release import ReleaseMixin
from maskworld.objectives.contrast import ContrastConfig, ContrastObjective
from maskworld.objectives.flow_matching import flow_matching_loss
from maskworld.samplers.euler import euler
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.tokenizers.image_latents import decode_images, encode_images
from maskworld.tokenizers.latent import (
    LatentConfig,
    PretrainedImageVAEConfig,
    build_latent_tokenizer,
)
from maskworld.types import Batch, LossOutput, Prompt

STAGES = ("tokenizer", "image", "video", "masked")

# ------------------------------------------------------------------------------------ 1. Config


@dataclass(frozen=True)
class MaskGWMConfig:
    """Everything that shapes the model. The paper's value beside each field; [?] = not given."""

    network: MMDiTConfig = field(default_factory=lambda: MMDiTConfig(action_dim=1536))
    """SD3-medium, a temporal block after every layer; view_attention "KW" for six cameras."""
    tokenizer: LatentConfig = field(default_factory=PretrainedImageVAEConfig)
    """SD3's VAE; a video tokenizer is used frame by frame."""
    text: SmallTextConfig | T5TextConfig | SD3TextConfig | None = field(
        default_factory=SD3TextConfig
    )
    signals: tuple[Signal, ...] = VISTA_SIGNALS
    """What `Batch.actions` holds; empty = no actions."""
    integrates_actions: bool = False
    """Signals also hold the pose at each frame relative to the first one, integrated from speed and
    yaw rate, which must then be all there is: a small network need not learn to add up what
    single steps say. Ours; off in the paper."""
    modulates_by_actions: bool = False
    """Actions also join the embedded time of their frame, for networks too small to learn to obey
    what they only read. Ours; off in the paper."""
    reconstruction: ReconstructionConfig | None = field(default_factory=ReconstructionConfig)
    """Used in stages "masked..."; None = the baseline without."""
    contrast: ContrastConfig | None = None
    """The rival of the paper's Table 4, z_tau in the empty places and a contrastive term; goes
    with `ReconstructionConfig(token="latent")`. None in the paper's own model."""
    clip_lengths: tuple[int, ...] = ()
    """In stages of clips each batch is cut to one of these lengths at random (16, 20 and 24 in the
    paper's stages 1b and 1c); empty = as they come."""
    carries_past: bool = False
    """Start from "nothing moves": each future frame is told the last given one, and the network
    predicts what that misses. Ours; ADR 0010."""
    times: TimeSampling = field(default_factory=lambda: TimeSampling("logit_normal"))
    """OpenDWM's; [?] in the paper."""
    weighs_by_time: bool = False
    """Weigh errors by t^2, that is, score the clean estimate (OpenDWM); False: Eq. 1."""
    max_given: int = 3
    """0 to this many first frames are given, drawn per batch."""
    min_given: int = 0
    given_noise: float = 0.0
    """In training, given frames hold a share of noise drawn per sample from 0 to this, and still
    have t = 0: long rollouts then start each round from frames like those they learnt on. Ours; 0
    in the paper."""
    anchored_channels: int = 0
    """In long rollouts, so many first channels of every dreamt frame keep the mean and deviation
    over the picture that they had in the last given frame: rounds of a small model else fade into
    the mean of all pictures. Ours; 0, not at all, in the paper."""
    p_drop_text: float = 0.1
    """[?]."""
    p_drop_signal: float = 0.15
    """Each signal by itself (Vista); [?] in the paper."""
    num_frames: int = 25
    num_views: int = 1
    frame_size: tuple[int, int] = (288, 512)
    fps: float = 10.0

    def __post_init__(self) -> None:
        network, stride = self.network, self.tokenizer.stride
        channels = self.tokenizer.channels * (2 if self.carries_past else 1)
        if (network.in_channels, network.out_channels) != (channels, self.tokenizer.channels):
            raise ValueError(
                f"Expected a network of {channels} input and {self.tokenizer.channels} output "
                f"channels, found {network.in_channels} and {network.out_channels}: set "
                "MMDiTConfig(in_channels=..., out_channels=...)."
            )
        text_dim = pooled = 0 if self.text is None else self.text.dim
        if isinstance(self.text, SD3TextConfig):
            pooled = self.text.pooled_dim
        if network.text_dim != text_dim or network.pooled_dim not in (0, pooled):
            raise ValueError(
                f"Expected a network with text_dim {text_dim} and pooled_dim 0 or {pooled}, "
                f"found {network.text_dim} and {network.pooled_dim}."
            )
        if bool(self.signals) != bool(network.action_dim):
            raise ValueError(
                f"Expected action_dim exactly where there are signals, found action_dim "
                f"{network.action_dim} and {len(self.signals)} signals."
            )
        if self.integrates_actions and [s.size for s in self.signals] != [1, 1]:
            raise ValueError(
                f"Expected the signals speed and yaw rate, of one number each, to integrate, found "
                f"{', '.join(f'{s.name} ({s.size})' for s in self.signals) or 'none'}: set "
                "integrates_actions=False."
            )
        if not 0 <= self.min_given <= self.max_given < self.num_frames:
            raise ValueError(
                f"Expected 0 <= min_given <= max_given < num_frames, found {self.min_given}, "
                f"{self.max_given} and {self.num_frames}."
            )
        unit = stride * network.patch_size
        if not 0 <= self.given_noise < 1:
            raise ValueError(
                f"Expected given_noise in [0, 1), found {self.given_noise}: 0 is the paper's."
            )
        if any(side % unit for side in self.frame_size):
            raise ValueError(
                f"Expected frames with sides of multiples of {unit} (latents of {stride}, patches "
                f"of {network.patch_size}), found {self.frame_size}."
            )
        if self.reconstruction is not None:
            self.reconstruction.check(network.num_layers, network.view_attention == "KW")
        elif self.contrast is not None:
            raise ValueError("Expected reconstruction with contrast, found none.")
        if self.clip_lengths and not self.max_given < min(self.clip_lengths):
            raise ValueError(
                f"Expected clip_lengths above max_given {self.max_given}, found "
                f"{self.clip_lengths}."
            )


class Prepared(NamedTuple):
    """What the layers of the network read."""

    x: Float[Tensor, "b t v n d"]
    text: Float[Tensor, "btv m d"] | None
    condition: Float[Tensor, "b t d"]
    """Embedded times, and what joins them."""
    actions: Float[Tensor, "b t a"] | None
    prior: Float[Tensor, "b t v c gh gw"] | None
    """The velocity known beforehand."""
    grid: tuple[int, int]


class MaskedPass(NamedTuple):
    """What comes out of `run_masked`."""

    velocity: Float[Tensor, "b t v d gh gw"]
    seen: Float[Tensor, "b t v k c"]
    """The encoder's states of the tokens that are left."""
    tokens: DroppedTokens


class MaskGWM(nn.Module, ReleaseMixin):
    """The system: tokenizer, text and signals, network, and the branch that trains it."""

    name = "maskgwm"
    prior_variance: Tensor

    def __init__(self, config: MaskGWMConfig) -> None:
        super().__init__()
        self.config, network = config, config.network
        self.tokenizer = build_latent_tokenizer(config.tokenizer)
        self.text_encoder = (
            SD3TextEncoder(config.text)
            if isinstance(config.text, SD3TextConfig)
            else build_text_encoder(config.text)
        )
        self.network = MMDiT(network)
        if config.signals:
            told = (*config.signals, POSE) if config.integrates_actions else config.signals
            self.signals = SignalEncoder(told, network.action_dim)
            if config.modulates_by_actions:
                self.modulation = nn.Linear(network.action_dim, network.dim)
                nn.init.zeros_(self.modulation.weight)
                nn.init.zeros_(self.modulation.bias)
        masks = config.reconstruction
        if masks is not None and masks.token != "latent":
            self.mask_tokens = MaskTokens(
                masks.token, network.out_channels, network.patch_size, network.dim
            )
        if masks is not None:
            self.branch = MaskBranch(
                network.dim,
                network.num_heads,
                network.text_dim > 0,
                masks.branch_depth,
                masks.is_shared,
            )
        if config.contrast is not None:
            self.contrast = ContrastObjective(config.contrast, self.network, network.dim)
        if config.carries_past:
            self.register_buffer("prior_variance", torch.ones(config.tokenizer.channels))

    # ------------------------------------------------------------------------ 2. Conditioning

    @torch.no_grad()
    def fit_latents(self, latents: Float[Tensor, "b v t d gh gw"]) -> None:
        """Measures on training data how far the future is from a still first frame."""
        if self.config.carries_past:
            miss = latents[:, :, 1:] - latents[:, :, :1]
            self.prior_variance.copy_(measured_variance(miss, (0, 1, 2, 4, 5)))

    def conditions(
        self,
        prompt: Prompt,
        batch_size: int,
        dropped_text: Bool[Tensor, " b"] | None = None,
        dropped_signals: Bool[Tensor, "b s"] | None = None,
    ) -> Conditions:
        """Embeddings of text and signals; what is absent or dropped becomes the empty text and
        learned nulls."""
        text = pooled = actions = None
        if self.text_encoder is not None:
            like = self.network.patch_in.weight
            text, pooled = embed_text(
                self.text_encoder, prompt.text, batch_size, dropped_text, like
            )
        if self.config.signals:
            fps = self.config.fps if self.config.integrates_actions else None
            actions = embed_signals(self.signals, prompt, dropped_signals, self.device, fps)
        return Conditions(text, pooled if self.config.network.pooled_dim else None, actions)

    # ---------------------------------------------------------------------------- 3. Training

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """The loss of a stage, by its name.

        "tokenizer": the tokenizer's own. "image...": single frames (stage 1a). "video...": clips
        with nothing dropped (1b). "masked...": clips with dropped tokens (1c, 2, 3).
        """
        if stage == "tokenizer":
            if batch.frames is None:
                raise ValueError("Expected frames to train the tokenizer on, found none.")
            frames = to_unit(rearrange(batch.frames, "b v t c h w -> (b v t) 1 c h w"))
            return self.tokenizer.reconstruction_loss(frames, generator)
        if stage.startswith(("video", "masked")) and self.config.clip_lengths:
            batch = self._cut(batch, generator)
        latents = self._latents_of(batch)
        prompt = Prompt(batch.captions or None, batch.actions, batch.has_actions, batch.fps)
        if stage.startswith("image"):
            latents = rearrange(latents, "b v t d h w -> (b t v) 1 1 d h w")
            texts = [text for text in batch.captions for _ in range(len(latents) // len(batch))]
            prompt = Prompt(texts or None)
        elif stage.startswith(("video", "masked")):
            latents = rearrange(latents, "b v t d h w -> b t v d h w")
        else:
            raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")
        masked = stage.startswith("masked") and self.config.reconstruction is not None
        terms = self._terms(latents, prompt, masked, stage.startswith("image"), generator)
        total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def _cut(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch's first frames, as many as one draw of `clip_lengths` says."""
        lengths = self.config.clip_lengths
        draw = torch.randint(len(lengths), (1,), generator=generator, device=generator.device)
        length = lengths[int(draw)]
        found = [x.shape[2] for x in (batch.frames, batch.latents) if x is not None]
        if any(max(lengths) > count for count in found):
            raise ValueError(
                f"Expected clips of at least {max(lengths)} frames for clip_lengths {lengths}, "
                f"found {min(found)}: make longer clips, or shorten clip_lengths."
            )
        frames, latents, actions = (
            None if x is None else x.narrow(axis, 0, length)
            for x, axis in ((batch.frames, 2), (batch.latents, 2), (batch.actions, 1))
        )
        return replace(batch, frames=frames, latents=latents, actions=actions)

    def _terms(
        self,
        z0: Float[Tensor, "b t v d gh gw"],
        prompt: Prompt,
        masked: bool,
        is_image: bool,
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """Eq. 1 over all tokens that are not given, the dropped ones included; beside it only the
        rival's term, where there is one."""
        config = self.config
        b, t = z0.shape[:2]
        given = 0 if is_image else self._draw_given(generator)
        context = (torch.arange(t, device=z0.device) < given).expand(b, t)
        eps = torch.randn(z0.shape, generator=generator, device=generator.device).to(z0)
        times = config.times.sample(b, t, 1, generator).to(z0)
        noisy = add_noise(z0.flatten(2), eps.flatten(2), times, context)
        z = noisy.z.view_as(z0)
        if config.given_noise and given:
            share = torch.rand(b, generator=generator, device=generator.device) * config.given_noise
            z[:, :given] = interpolate(z0[:, :given], eps[:, :given], share.to(z0))
        conditions = self.conditions(
            prompt,
            b,
            drop_conditions(b, config.p_drop_text, generator),
            torch.stack(
                [drop_conditions(b, config.p_drop_signal, generator) for _ in config.signals], dim=1
            )
            if config.signals
            else None,
        )
        terms: dict[str, Tensor] = {}
        if masked:
            velocity = self._reconstruct(z0, z, noisy.t, eps, given, conditions, generator, terms)
        else:
            velocity = self.run(z, noisy.t, given, conditions)
        weight = noisy.t.square() if config.weighs_by_time else None
        out = velocity.flatten(2)
        loss = flow_matching_loss(out, noisy.target, noisy.context, weight=weight)
        return {"velocity": loss} | terms

    def _reconstruct(
        self,
        z0: Float[Tensor, "b t v d gh gw"],
        z: Float[Tensor, "b t v d gh gw"],
        t: Float[Tensor, "b t"],
        eps: Float[Tensor, "b t v d gh gw"],
        given: int,
        conditions: Conditions,
        generator: torch.Generator,
        terms: dict[str, Tensor],
    ) -> Float[Tensor, "b t v d gh gw"]:
        """Velocity, from what is left of samples whose time is in `token_times`; the rival's term
        goes into `terms`."""
        masks = self.config.reconstruction
        assert masks is not None
        low, high = masks.token_times
        level = t.amax(dim=1)
        inside = (level >= low) & (level <= high)
        if not bool(inside.any()):
            return self.run(z, t, given, conditions)
        told = conditions.of(inside)
        out = self.run_masked(z[inside], t[inside], eps[inside], given, told, generator)
        if self.config.contrast is not None:

            def teach(network: MMDiT) -> Tensor:
                return out.tokens.gather(
                    self._taught(network, z0[inside], eps[inside], given, told)
                )

            context = (torch.arange(z.shape[1], device=z.device) < given).expand(len(out.seen), -1)
            terms["contrast"] = self.contrast(self.network, out.seen, teach, context)
        if bool(inside.all()):
            return out.velocity
        plain = self.run(z[~inside], t[~inside], given, conditions.of(~inside))
        order = torch.cat([inside.nonzero(), (~inside).nonzero()]).flatten().argsort()
        return torch.cat([out.velocity, plain])[order]

    def _taught(
        self,
        network: MMDiT,
        z0: Float[Tensor, "b t v d gh gw"],
        eps: Float[Tensor, "b t v d gh gw"],
        given: int,
        conditions: Conditions,
    ) -> Float[Tensor, "b t v n c"]:
        """What the rival's teacher makes of all tokens of nearly clean latents."""
        contrast = self.config.contrast
        assert contrast is not None
        t = torch.full(z0.shape[:2], contrast.teacher_time).to(z0)
        t[:, :given] = 0.0
        x, text, condition, actions, _, grid = self._prepare(
            interpolate(z0, eps, t), t, given, conditions, network
        )
        encoder = self._encoder_layers
        return network.run(x, text, condition, actions, rows=grid[0], layers=encoder)[0]

    def _draw_given(self, generator: torch.Generator) -> int:
        low, high = self.config.min_given, self.config.max_given
        draw = torch.randint(low, high + 1, (1,), generator=generator, device=generator.device)
        return int(draw)

    def run(
        self,
        z: Float[Tensor, "b t v d gh gw"],
        t: Float[Tensor, "b t"],
        num_given: int,
        conditions: Conditions,
    ) -> Float[Tensor, "b t v d gh gw"]:
        """Velocity of every frame; nothing is dropped, and no part of the branch is touched."""
        x, text, condition, actions, prior, grid = self._prepare(z, t, num_given, conditions)
        x, _ = self.network.run(x, text, condition, actions, rows=grid[0])
        return self._finish(x, condition, grid, prior)

    def run_masked(
        self,
        z: Float[Tensor, "b t v d gh gw"],
        t: Float[Tensor, "b t"],
        eps: Float[Tensor, "b t v d gh gw"],
        num_given: int,
        conditions: Conditions,
        generator: torch.Generator,
    ) -> MaskedPass:
        """Velocity of every frame from the tokens that are left.

        Reference: MaskGWM, Eq. 2.
        """
        masks, network = self.config.reconstruction, self.network
        assert masks is not None
        x, text, condition, actions, prior, grid = self._prepare(z, t, num_given, conditions)
        tokens, is_time = drop_either(
            (masks.space_kind, masks.time_kind),
            masks.p_time,
            (*z.shape[:2], *grid),
            masks.ratio,
            generator,
            self.device,
        )
        encoder, places = self._encoder_layers, network.places(*grid)
        seen, text = network.run(  # E, on what is left
            tokens.gather(x),
            text,
            condition,
            actions,
            rows=grid[0],
            layers=encoder,
            left=tokens if masks.time_attention == "places" else None,
        )
        fill = x if masks.token == "latent" else self.mask_tokens(eps, t, places)
        if not masks.hides_given:
            fill = torch.cat([x[:, :num_given], fill[:, num_given:]], dim=1)
        x = tokens.scatter(seen, fill)
        x = self.branch(x, text, condition, is_time, tokens)  # F
        rest = range(encoder.stop, network.config.num_layers + 1)
        x, _ = network.run(x, text, condition, actions, rows=grid[0], layers=rest)  # D
        return MaskedPass(self._finish(x, condition, grid, prior), seen, tokens)

    def _prepare(
        self,
        z: Float[Tensor, "b t v d gh gw"],
        t: Float[Tensor, "b t"],
        num_given: int,
        conditions: Conditions,
        network: MMDiT | None = None,
    ) -> Prepared:
        """Everything embedded.

        Args:
            network: another one than the system's own, for a teacher.
        """
        network = self.network if network is None else network
        x, prior, actions = z, None, conditions.actions
        if self.config.carries_past:
            still, prior = carried_past(z, t, num_given, self.prior_variance)
            x = torch.cat([z, still], dim=3)
        if self.config.signals and actions is None:
            actions = unknown_signals(self.signals, *z.shape[:2])
        grid = network.check(x, conditions.text, conditions.pooled, actions)
        condition = network.condition(t, conditions.pooled)
        if self.config.modulates_by_actions and actions is not None:
            condition = condition + self.modulation(actions)
        text = network.read_text(conditions.text, z.shape[1] * z.shape[2])
        return Prepared(network.embed(x), text, condition, actions, prior, grid)

    def _finish(
        self, x: Tensor, condition: Tensor, grid: tuple[int, int], prior: Tensor | None
    ) -> Float[Tensor, "b t v d gh gw"]:
        velocity = self.network.head(x, condition, grid)
        return velocity if prior is None else velocity + prior

    @property
    def _encoder_layers(self) -> range:
        """E, counted from 1; the others are D."""
        masks = self.config.reconstruction
        assert masks is not None
        return range(1, self.config.network.num_layers - masks.decoder_layers + 1)

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """What trains in a stage; everything else is frozen. No decay on vectors.

        Images train no temporal or view blocks; only stages "masked..." train the branch.
        """
        if stage == "tokenizer":
            return self.tokenizer.parameter_groups()
        parts = ["network.", "text_encoder."]
        without: list[str] = []
        if stage.startswith("image"):
            count = self.config.network.num_layers
            without = [
                f"network.layers.{i}.{p}." for i in range(count) for p in ("temporal", "views")
            ]
        elif stage.startswith(("video", "masked")):
            parts += ["signals.", "modulation."]
        else:
            raise ValueError(f"Expected a stage of {', '.join(STAGES)}, found {stage!r}.")
        if stage.startswith("masked"):
            parts += ["mask_tokens.", "branch.", "contrast.head."]
        return named_groups(self, parts, without)

    def _latents_of(self, batch: Batch) -> Float[Tensor, "b v t d gh gw"]:
        if batch.latents is not None:
            return batch.latents
        if batch.frames is None:
            raise ValueError("Expected frames or latents in the batch, found neither.")
        return encode_images(self.tokenizer, batch.frames)

    # -------------------------------------------------------------------------- 4. Generation

    @torch.no_grad()
    def generate(
        self,
        given: UInt8[Tensor, "b v p c h w"] | Float[Tensor, "b v p d gh gw"],
        prompt: Prompt,
        sampling: FlowSampling,
        generator: torch.Generator,
        num_frames: int | None = None,
    ) -> Float[Tensor, "b v t d gh gw"]:
        """Latents of a window: the given frames, then dreamt ones. See `decode`.

        Args:
            given: 1 or more first frames, or their latents.
            prompt: `actions` has one row of signals per frame of the window.
            num_frames: of the window; default: as in training.
        """
        latents = encode_images(self.tokenizer, given) if given.dtype == torch.uint8 else given
        latents = latents.to(self.device)
        count, (b, v, p, d, gh, gw) = num_frames or self.config.num_frames, latents.shape
        if not 1 <= p < count:
            raise ValueError(f"Expected 1 to {count - 1} given frames, found {p}.")
        noise = torch.randn(
            (b, v, count - p, d, gh, gw), generator=generator, device=generator.device
        )
        start = torch.cat([latents, noise.to(latents)], dim=2)
        model = self.velocity_model(prompt, p, (b, count, v, d, gh, gw), sampling)
        context = (torch.arange(count, device=self.device) < p).expand(b, count)
        z = rearrange(start, "b v t d gh gw -> b t (v d gh gw)")
        z = euler(model, z, sampling.video.sigmas(), context)
        return rearrange(z, "b t (v d gh gw) -> b v t d gh gw", v=v, d=d, gh=gh)

    def velocity_model(
        self,
        prompt: Prompt,
        num_given: int,
        shape: tuple[int, int, int, int, int, int],
        sampling: FlowSampling,
    ) -> VelocityModel:
        """The velocity of frames as rows of numbers, with classifier-free guidance if asked for."""

        def bind(conditions: Conditions) -> Any:
            def both(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
                v = self.run(z.view(shape), t, num_given, conditions).flatten(2)
                return v, v

            return both

        if sampling.guidance.gamma != 1:
            raise ValueError(
                f"Expected gamma 1, found {sampling.guidance.gamma}: MaskGWM has no intermediate "
                "heads to guide itself with; use cfg_scale."
            )
        told = bind(self.conditions(prompt, shape[0]))
        if sampling.guidance.cfg_scale == 1:
            return sampling.guidance.bind(told)
        return sampling.guidance.bind(told, bind(self.conditions(Prompt(), shape[0])))

    def decode(self, latents: Float[Tensor, "b v t d gh gw"]) -> UInt8[Tensor, "b v t c h w"]:
        """Pixels of what `generate` and `roll_out` give."""
        return decode_images(self.tokenizer, latents)

    @torch.no_grad()
    def roll_out(
        self,
        given: UInt8[Tensor, "b v p c h w"] | Float[Tensor, "b v p d gh gw"],
        prompt: Prompt,
        sampling: FlowSampling,
        generator: torch.Generator,
        num_frames: int,
        overlap: int | None = None,
    ) -> Iterator[Float[Tensor, "b v t d gh gw"]]:
        """A video of any length, round by round: what each round adds, the given frames first.

        Holds one window at a time. Every round is given the last `overlap` frames (max_given: 3 in
        the paper, which then adds 22 of 25).

        Args:
            prompt: `actions` has `num_frames` rows; rows past their end are not known.
        """
        overlap = self.config.max_given if overlap is None else overlap
        if not 1 <= overlap < self.config.num_frames:
            raise ValueError(
                f"Expected an overlap from 1 to {self.config.num_frames - 1}, found {overlap}."
            )
        latents = encode_images(self.tokenizer, given) if given.dtype == torch.uint8 else given
        latents = latents.to(self.device)
        anchor = latents[:, :, -1]
        yield latents[:, :, :num_frames]
        done = latents.shape[2]
        while done < num_frames:
            latents = latents[:, :, -overlap:]
            start = done - latents.shape[2]
            asked = self._rows(prompt, start)
            window = self.generate(latents, asked, sampling, generator)
            window = anchored(window, latents.shape[2], anchor, self.config.anchored_channels)
            new = window[:, :, latents.shape[2] :][:, :, : num_frames - done]
            yield new
            done += new.shape[2]
            latents = window[:, :, : done - start]

    def _rows(self, prompt: Prompt, start: int) -> Prompt:
        """The prompt of a window that starts at a frame."""
        if prompt.actions is None:
            return prompt
        rows = prompt.actions[:, start : start + self.config.num_frames]
        missing = self.config.num_frames - rows.shape[1]
        unknown = rows.new_full((len(rows), missing, rows.shape[2]), torch.nan)
        return Prompt(prompt.text, torch.cat([rows, unknown], dim=1), prompt.has_actions)

    @property
    def device(self) -> torch.device:
        return self.network.patch_in.weight.device
