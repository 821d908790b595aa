"""Scores of predictions against what really happened. Nothing here knows a model or a data set."""

from maskworld.metrics.codebook import CodebookUsage, CodebookUse
from maskworld.metrics.image import PSNR_CAP, FrameMetric, psnr, ssim
from maskworld.metrics.intervals import bootstrap_interval, success_rate, wilson_interval
from maskworld.metrics.motion import horizontal_shift, nearer_to_own_future, turned_right_way
from maskworld.metrics.scores import ClipScores, concatenate
from maskworld.metrics.style import (
    StyleClassifier,
    layout_agreement,
    layout_rank,
    structure_map,
    style_features,
)
from maskworld.metrics.tokens import (
    MASK_RATIOS,
    NATS_PER_BIT,
    ChainRule,
    TokenMetric,
    changed_tokens,
    fixed_masks,
    token_bits,
)

__all__ = [
    "MASK_RATIOS",
    "NATS_PER_BIT",
    "PSNR_CAP",
    "ChainRule",
    "ClipScores",
    "CodebookUsage",
    "CodebookUse",
    "FrameMetric",
    "StyleClassifier",
    "TokenMetric",
    "bootstrap_interval",
    "changed_tokens",
    "concatenate",
    "fixed_masks",
    "horizontal_shift",
    "layout_agreement",
    "layout_rank",
    "nearer_to_own_future",
    "psnr",
    "ssim",
    "structure_map",
    "style_features",
    "success_rate",
    "token_bits",
    "turned_right_way",
    "wilson_interval",
]
