"""WorldDreamer: a world model that fills in hidden visual tokens.

Wang et al. 2024, "WorldDreamer: Towards General World Models for Video Generation via Predicting
Masked Tokens", arXiv 2401.09985. A tokenizer turns every frame into a grid of codes. Some codes are
hidden; a Spatial Temporal Patchwise Transformer (STPT) sees the rest, a text and the ego's actions,
and predicts the hidden ones. One model so trained makes video from text, from an image, from
actions, fills holes and changes the style of a clip, each in about ten parallel steps: the tasks
differ only in what is hidden at the start.

| paper                      | here                                                  |
|----------------------------|-------------------------------------------------------|
| Eq. 1, V = F_v(I)          | `WorldDreamer.tokenize`                               |
| section 3.2, E_T, E_A, E_M | `WorldDreamer.embed_prompt`, `conditioning/`          |
| Eq. 2, 5, the loss         | `training_loss`, `objectives/masked_cross_entropy.py` |
| Eq. 3, patchwise attention | `backbones/stpt.py: to_regions`, `RegionAttention`    |
| Eq. 4, cross-attention     | `backbones/stpt.py: PromptCrossAttention`             |
| section 3.3, masks         | `masking.py: cosine_mask_ratio`, `tube_mask`          |
| section 3.3, decoding      | `samplers/parallel.py`                                |
| Eq. 6, guidance            | `guidance.py: extrapolate`                            |
| section 3.1, the tasks     | `task_mask`                                           |

Readings and deviations: h = H / 16 where the paper also prints H / 4, the mask law's density, what
a patch is and the diagonal attention of images are ADR 0004; the mask mixture is ADR 0005; carry,
action modulation and learned positions, which small models need, are off in `-paper` (ADR 0006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from maskworld.backbones.stpt import STPT, PromptEmbedding, STPTConfig
from maskworld.conditioning.actions import ActionEncoder
from maskworld.conditioning.text import (
    SmallTextConfig,
    T5TextConfig,
    build_text_encoder,
)
from maskworld.guidance import drop_conditions, extrapolate
from maskworld.masking import MaskMixture, num_hidden, random_positions
from maskworld.nn.pixels import to_uint8, to_unit
from maskworld.nn.release import ReleaseMixin
from maskworld.objectives.adversarial import AdversarialConfig, AdversarialLoss
from maskworld.objectives.masked_cross_entropy import masked_cross_entropy
from maskworld.objectives.vq import TokenizerObjective, TokenizerObjectiveConfig
from maskworld.samplers.parallel import Decoded, ParallelDecoding, decode_parallel
from maskworld.samplers.rollout import roll_out
from maskworld.tokenizers.patch import PatchTokenizer, PatchTokenizerConfig
from maskworld.tokenizers.pretrained import PretrainedVQ, PretrainedVQConfig
from maskworld.tokenizers.token_grid import TokenGrid, TokenGridConfig
from maskworld.tokenizers.vq import VQTokenizer, VQTokenizerConfig
from maskworld.types import Batch, LossOutput, Prompt

Task = Literal[
    "text-to-video",
    "image-to-video",
    "action-to-video",
    "inpainting",
    "stylization",
    "interpolation",
]
TokenizerConfig = PatchTokenizerConfig | VQTokenizerConfig | PretrainedVQConfig | TokenGridConfig
Tokenizer = PatchTokenizer | VQTokenizer | PretrainedVQ | TokenGrid
RESTYLE_MASKS = MaskMixture(tube=0.5, full=0.5)
"""Of clips with a reference: as stylization begins, and as it goes on. Ours."""
TASKS: tuple[Task, ...] = Task.__args__  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------ 1. Config


@dataclass(frozen=True)
class WorldDreamerConfig:
    """Everything that shapes the model. The paper's value beside each field; [?] = not given."""

    backbone: STPTConfig = field(default_factory=STPTConfig)
    tokenizer: TokenizerConfig = field(default_factory=PretrainedVQConfig)
    """A frozen VQGAN, 16x, 8192 codes; aMUSEd's is the likely one."""
    tokenizer_loss: TokenizerObjectiveConfig = field(default_factory=TokenizerObjectiveConfig)
    """Weights of the terms that train our own tokenizer. Perceptual weights are the user's:
    `system.tokenizer_objective.perceptual = load_perceptual(...)`."""
    adversarial: AdversarialConfig | None = None
    """A discriminator for the tokenizer; None = no adversarial term."""
    text: SmallTextConfig | T5TextConfig | None = field(default_factory=T5TextConfig)
    """T5, size [?]; None = no text."""
    action_dim: int = 2
    """Yaw and velocity; 0 = no actions."""
    action_scale: tuple[float, ...] = (10.0, 0.5)
    """What actions are divided by: m/s and rad/s [?]."""
    integrate_actions: bool = False
    """Also give the pose relative to the first frame. Off in the paper."""
    masks: MaskMixture = field(default_factory=MaskMixture)
    """100 % tube; the recommended mixture is in the recipes."""
    p_drop_prompt: float = 0.1
    """Text and actions dropped together: 10 % (section 4.2)."""
    p_drop_text: float = 0.0
    p_drop_actions: float = 0.0
    num_frames: int = 24
    """Frames of a training window (pre-training: 16)."""
    frame_size: tuple[int, int] = (192, 320)
    """Height and width in pixels (pre-training: 256 x 256)."""
    fps: float = 2.0
    """Frames per second of the windows [?]; 12 Hz with a frame interval of 6."""

    def __post_init__(self) -> None:
        if self.backbone.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(
                f"Expected the backbone and the tokenizer to share their codes, found vocab_size "
                f"{self.backbone.vocab_size} and {self.tokenizer.vocab_size}."
            )


@dataclass(frozen=True)
class Dream:
    """What `generate` returns."""

    tokens: Int[Tensor, "b t gh gw"]
    frames: UInt8[Tensor, "b v t c h w"] | None
    """Decoded from the tokens; None where the tokenizer cannot draw."""
    expected_frames: UInt8[Tensor, "b v t c h w"] | None = None
    """Decoded from expected code embeddings: blurry, best in squared error."""


class WorldDreamer(nn.Module, ReleaseMixin):
    """The system: tokenizer, prompt encoders, STPT."""

    name = "worlddreamer"

    def __init__(self, config: WorldDreamerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.backbone.dim
        self.tokenizer: Tokenizer = build_tokenizer(config.tokenizer)
        self.tokenizer_objective = TokenizerObjective(
            config.tokenizer_loss,
            adversarial=AdversarialLoss(config.adversarial) if config.adversarial else None,
        )
        self.backbone = STPT(config.backbone)
        self.text_encoder = build_text_encoder(config.text)
        if self.text_encoder is not None:
            self.text_projection = nn.Linear(self.text_encoder.dim, dim)
        self.null_text = nn.Parameter(torch.randn(dim) * 0.02)
        self.null_action = nn.Parameter(torch.randn(dim) * 0.02)
        self.action_encoder: ActionEncoder | None = None
        if config.action_dim:
            self.action_encoder = ActionEncoder(
                config.action_dim, dim, config.integrate_actions, config.action_scale
            )

    # ------------------------------------------------------------------------ 2. Conditioning

    @torch.no_grad()
    def tokenize(
        self, frames: UInt8[Tensor, "b v t c h w"] | Float[Tensor, "b v t c h w"]
    ) -> Int[Tensor, "b v t gh gw"]:
        """Codes of every frame on its own. Reference: Eq. 1."""
        b, v, t = frames.shape[:3]
        flat = to_unit(rearrange(frames, "b v t c h w -> (b v t) c h w"))
        tokens = torch.cat([self.tokenizer.encode(chunk) for chunk in flat.split(256)])
        return rearrange(tokens, "(b v t) gh gw -> b v t gh gw", b=b, v=v, t=t)

    def embed_prompt(
        self,
        prompt: Prompt,
        batch_size: int,
        num_frames: int,
        drop_text: Bool[Tensor, " b"] | None = None,
        drop_actions: Bool[Tensor, " b"] | None = None,
    ) -> PromptEmbedding:
        """E_M: a null token, the words, and one action token per frame (section 3.2).

        Text and actions may be empty; dropped samples look exactly like empty ones.
        """
        device = self.null_text.device
        text = self.null_text.expand(batch_size, 1, -1)
        real = torch.ones(batch_size, 1, dtype=torch.bool, device=device)
        if prompt.text is not None and self.text_encoder is not None:
            if len(prompt.text) not in (1, batch_size):
                raise ValueError(
                    f"Expected one text or one per sample ({batch_size}), found {len(prompt.text)}."
                )
            words, is_word = self.text_encoder(prompt.text)
            words = self.text_projection(words.to(device)).expand(batch_size, -1, -1)
            is_word = is_word.to(device).expand(batch_size, -1)
            if drop_text is not None:
                is_word = is_word & ~drop_text.to(device)[:, None]
            text = torch.cat([text, words], dim=1)
            real = torch.cat([real, is_word], dim=1)
        actions = self._embed_actions(prompt, batch_size, num_frames, drop_actions)
        return PromptEmbedding(text, real, actions)

    def _embed_actions(
        self,
        prompt: Prompt,
        batch_size: int,
        num_frames: int,
        drop: Bool[Tensor, " b"] | None,
    ) -> Float[Tensor, "b t d"]:
        null = self.null_action.expand(batch_size, num_frames, -1)
        if prompt.actions is None or self.action_encoder is None:
            return null
        given, device = prompt.actions.to(null.device), null.device
        expected = (batch_size, num_frames, self.config.action_dim)
        if tuple(given.shape) != expected:
            raise ValueError(
                f"Expected actions of shape {expected} (batch, frames, numbers), found "
                f"{tuple(given.shape)}: give one action per frame."
            )
        if not bool(given.isfinite().all()):
            raise ValueError(
                "Expected finite actions, found NaN or infinity: remove or interpolate the frames "
                "without an action."
            )
        fps = prompt.fps
        if fps is None:
            fps = torch.full((batch_size,), self.config.fps)
        absent = torch.zeros(batch_size, dtype=torch.bool, device=device)
        if prompt.has_actions is not None:
            absent = ~prompt.has_actions.to(device)
        if drop is not None:
            absent = absent | drop.to(device)
        encoded = self.action_encoder(given.float(), fps.to(device).expand(batch_size))
        return torch.where(absent[:, None, None], null, encoded)

    # ---------------------------------------------------------------------------- 3. Training

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """Stage "tokenizer": the tokenizer's own loss. Any other: cross-entropy on hidden tokens.

        Views are dreamt one by one. Reference: Eq. 2 and 5.
        """
        if stage == "tokenizer":
            return self._tokenizer_loss(batch, generator)
        tokens = self._flat_tokens(batch)
        b, t, gh, gw = tokens.shape
        drop = drop_conditions(b, self.config.p_drop_prompt, generator, tokens.device)
        drop_text = drop | drop_conditions(b, self.config.p_drop_text, generator, tokens.device)
        drop_actions = drop | drop_conditions(
            b, self.config.p_drop_actions, generator, tokens.device
        )
        prompt = self._batch_prompt(batch, b)
        if batch.is_image:
            # Each image has its own mask and caption; folding them into the batch is exact.
            hidden = self.config.masks.sample((b * t, 1, gh, gw), generator)
            hidden = rearrange(hidden, "(b t) 1 h w -> b t h w", b=b)
            drop_text = repeat(drop_text, "b -> (b t)", t=t)
            embedded = self._embed_image_prompts(prompt, b, t, drop_text)
        else:
            masks = self.config.masks if batch.reference_tokens is None else RESTYLE_MASKS
            hidden = masks.sample((b, t, gh, gw), generator)
            embedded = self.embed_prompt(prompt, b, t, drop_text, drop_actions)
        hidden = hidden.to(tokens.device)
        reference = batch.reference_tokens
        if reference is not None:
            reference = rearrange(reference, "b v t gh gw -> (b v) t gh gw")
        logits = self.backbone(tokens, hidden, embedded, batch.is_image, reference)
        targets = tokens[hidden]
        loss = masked_cross_entropy(logits, targets)  # Eq. 2, Eq. 5
        accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        return LossOutput(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """The tokenizer in its own stage; everything else in the others. No decay on vectors."""
        if stage == "tokenizer":
            return self.tokenizer.parameter_groups() + self.tokenizer_objective.parameter_groups()
        named = [
            (name, p)
            for name, p in self.named_parameters()
            if not name.startswith(("tokenizer.", "tokenizer_objective."))
        ]
        return [
            {"params": [p for _, p in named if p.ndim >= 2]},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]

    def _tokenizer_loss(self, batch: Batch, generator: torch.Generator) -> LossOutput:
        if batch.frames is None:
            raise ValueError("Expected frames to train the tokenizer on, found a batch of tokens.")
        frames = to_unit(rearrange(batch.frames, "b v t c h w -> (b v t) c h w"))
        return self.tokenizer.reconstruction_loss(frames, generator, self.tokenizer_objective)

    def _flat_tokens(self, batch: Batch) -> Int[Tensor, "b t gh gw"]:
        tokens = batch.tokens
        if tokens is None:
            if batch.frames is None:
                raise ValueError("Expected frames or tokens in the batch, found neither.")
            tokens = self.tokenize(batch.frames)
        return rearrange(tokens, "b v t gh gw -> (b v) t gh gw").long()

    def _batch_prompt(self, batch: Batch, num_clips: int) -> Prompt:
        """The batch's captions and actions, repeated for its views."""
        views = num_clips // len(batch)

        def per_view(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.repeat_interleave(views, dim=0)

        return Prompt(
            text=[caption for caption in batch.captions for _ in range(views)] or None,
            actions=per_view(batch.actions),
            has_actions=per_view(batch.has_actions),
            fps=per_view(batch.fps),
        )

    def _embed_image_prompts(
        self, prompt: Prompt, b: int, t: int, drop_text: Bool[Tensor, " bt"]
    ) -> PromptEmbedding:
        """One caption per image (a clip's caption has one line per image), no actions."""
        lines: list[str] = []
        for caption in prompt.text or [""] * b:
            images = caption.split("\n")
            lines += (images + [""] * t)[:t] if len(images) > 1 else images * t
        single = self.embed_prompt(Prompt(text=lines), b * t, 1, drop_text=drop_text)
        actions = rearrange(single.actions, "(b t) 1 d -> b t d", b=b)
        return PromptEmbedding(single.text, single.text_mask, actions)

    # -------------------------------------------------------------------------- 4. Generation

    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt,
        tokens: Int[Tensor, "b t gh gw"],
        hidden: Bool[Tensor, "b t gh gw"],
        decoding: ParallelDecoding,
        generator: torch.Generator,
        expected: bool = False,
    ) -> Dream:
        """Fills the hidden tokens. Visible ones are never changed.

        Args:
            expected: also decode expected code embeddings into `expected_frames`.
        """
        b, t = tokens.shape[:2]
        device = self.null_text.device
        decoded = decode_parallel(
            self.guided_model(prompt, b, t, decoding.guidance_scale),
            tokens.to(device),
            hidden.to(device),
            decoding,
            generator,
            keep_probabilities=expected,
        )
        return self.render(decoded)

    def guided_model(
        self,
        prompt: Prompt,
        batch_size: int,
        num_frames: int,
        guidance_scale: float,
        reference: Int[Tensor, "b t gh gw"] | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(tokens, hidden) -> logits, with classifier-free guidance if the scale is not 1.

        The conditional and the unconditional pass run as one batch. Reference: Eq. 6.
        """
        conditional = self.embed_prompt(prompt, batch_size, num_frames)
        if guidance_scale == 1:
            return lambda tokens, hidden: self.backbone(
                tokens, hidden, conditional, reference=reference
            )
        everyone = torch.ones(batch_size, dtype=torch.bool)
        empty = self.embed_prompt(prompt, batch_size, num_frames, everyone, everyone)
        both = PromptEmbedding(
            torch.cat([conditional.text, empty.text]),
            torch.cat([conditional.text_mask, empty.text_mask]),
            torch.cat([conditional.actions, empty.actions]),
        )

        def guided(tokens: Tensor, hidden: Tensor) -> Tensor:
            logits = self.backbone(
                torch.cat([tokens, tokens]),
                torch.cat([hidden, hidden]),
                both,
                reference=None if reference is None else torch.cat([reference, reference]),
            )
            strong, weak = logits.chunk(2)
            return extrapolate(weak, strong, guidance_scale)  # Eq. 6

        return guided

    def extend(
        self,
        prompt: Prompt,
        context: Int[Tensor, "b c gh gw"],
        num_frames: int,
        decoding: ParallelDecoding,
        generator: torch.Generator,
        overlap: int | None = None,
    ) -> Int[Tensor, "b t gh gw"]:
        """Prediction beyond one window: `num_frames` tokens frames that begin with `context`.

        Every window is given the last `overlap` frames (default: half a window). `prompt.actions`
        has one row per frame of the whole video.
        """
        window = self.config.num_frames
        if prompt.actions is not None and prompt.actions.shape[1] < num_frames:
            raise ValueError(
                f"Expected one action per frame of the video ({num_frames}), found "
                f"{prompt.actions.shape[1]}: give more actions or ask for fewer frames."
            )
        if overlap is None:
            overlap = max(1, window // 2)

        def dream(given: Tensor, start: int) -> Tensor:
            b, c, gh, gw = given.shape
            tokens = given.new_zeros(b, window, gh, gw)
            tokens[:, :c] = given
            hidden = torch.ones_like(tokens, dtype=torch.bool)
            hidden[:, :c] = False
            actions = prompt.actions
            if actions is not None:
                actions = actions[:, start : start + window]
                missing = window - actions.shape[1]
                actions = torch.cat([actions, actions[:, -1:].expand(-1, missing, -1)], dim=1)
            part = Prompt(prompt.text, actions, prompt.has_actions, prompt.fps)
            return self.generate(part, tokens, hidden, decoding, generator).tokens

        return roll_out(dream, context, num_frames, window, overlap)

    def stylize(
        self,
        prompt: Prompt,
        tokens: Int[Tensor, "b t gh gw"],
        decoding: ParallelDecoding,
        generator: torch.Generator,
        keep: float | None = None,
    ) -> Dream:
        """Dreams a clip again in the style of a prompt (section 3.1, task 2).

        Args:
            keep: the paper's way: this random share of the source's tokens stays, in its old style,
                and the rest is filled. None = the source is only a reference, read at every hidden
                token, and all is filled; for models trained with STPTConfig(reference=True).

        Raises:
            ValueError: None, and the model reads no reference.
        """
        b, t = tokens.shape[:2]
        tokens = tokens.to(self.null_text.device)
        if keep is not None:
            shape = (b, t, *tokens.shape[2:])
            hidden = task_mask("stylization", shape, generator, keep=keep)
            return self.generate(prompt, tokens, hidden, decoding, generator)
        model = self.guided_model(prompt, b, t, decoding.guidance_scale, reference=tokens)
        hidden = torch.ones_like(tokens, dtype=torch.bool)
        return self.render(decode_parallel(model, tokens, hidden, decoding, generator))

    def render(self, decoded: Decoded) -> Dream:
        """Pixels of decoded tokens; none where the tokenizer cannot draw."""
        if isinstance(self.tokenizer, TokenGrid):
            return Dream(decoded.tokens, None)
        frames = self.draw(decoded.tokens)
        expected = None
        if decoded.probabilities is not None:
            b = len(decoded.tokens)
            flat = rearrange(decoded.probabilities, "b t gh gw k -> (b t) gh gw k")
            drawn = torch.cat([self.tokenizer.decode_probabilities(p) for p in flat.split(64)])
            expected = to_uint8(rearrange(drawn, "(b t) c h w -> b 1 t c h w", b=b))
        return Dream(decoded.tokens, frames, expected)

    @torch.no_grad()
    def draw(self, tokens: Int[Tensor, "b t gh gw"]) -> UInt8[Tensor, "b 1 t c h w"]:
        """Frames of tokens."""
        flat = rearrange(tokens, "b t gh gw -> (b t) gh gw")
        drawn = torch.cat([self.tokenizer.decode(chunk) for chunk in flat.split(64)])
        return to_uint8(rearrange(drawn, "(b t) c h w -> b 1 t c h w", b=len(tokens)))


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that a config describes."""
    if isinstance(config, TokenGridConfig):
        return TokenGrid(config)
    if isinstance(config, VQTokenizerConfig):
        return VQTokenizer(config)
    if isinstance(config, PretrainedVQConfig):
        return PretrainedVQ(config)
    return PatchTokenizer(config)


def task_mask(
    task: Task,
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    region: Bool[Tensor, "#b #t gh gw"] | None = None,
    keep: float = 0.25,
) -> Bool[Tensor, "b t gh gw"]:
    """What is hidden at the start of a task (section 3.1).

    Args:
        region: the tokens to fill for inpainting.
        keep: share of source tokens that stay visible for stylization, the same in all frames.

    Raises:
        ValueError: inpainting without a region, or a task that is not known.
    """
    b, _, gh, gw = shape
    hidden = torch.ones(shape, dtype=torch.bool)
    if task in ("image-to-video", "action-to-video"):
        hidden[:, 0] = False
    elif task == "interpolation":
        hidden[:, [0, -1]] = False
    elif task == "inpainting":
        if region is None:
            raise ValueError("Expected a region to fill for inpainting: pass a box or a mask.")
        hidden = region.expand(shape).clone()
    elif task == "stylization":
        count = num_hidden(torch.full((b,), 1 - keep), gh * gw)
        spatial = random_positions(count, gh * gw, generator)
        hidden = rearrange(spatial, "b (h w) -> b 1 h w", h=gh).expand(shape).clone()
    elif task != "text-to-video":
        raise ValueError(f"Expected a task of {', '.join(TASKS)}, found {task!r}.")
    return hidden


def region_of_pixels(mask: Bool[Tensor, "b t h w"], stride: int) -> Bool[Tensor, "b t gh gw"]:
    """Tokens whose patch touches a masked pixel."""
    cells = rearrange(mask, "b t (gh p) (gw q) -> b t gh gw (p q)", p=stride, q=stride)
    return cells.any(dim=-1)
