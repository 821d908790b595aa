"""Claims about maskworld.conditioning.sd3_text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maskworld.conditioning.driving_prompt import embed_text
from maskworld.conditioning.sd3_text import SD3TextConfig, SD3TextEncoder

TEXTS = ["a night drive", "", "rain on a road at dawn then a left turn and more rain"]
PARTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of a release, made tiny, with word-level tokenizers."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("sd3")
    torch.manual_seed(0)
    for (tokenizer, encoder), width, pooled in zip(PARTS, (8, 12), (6, 10)):
        config = transformers.CLIPTextConfig(
            vocab_size=16,
            hidden_size=width,
            intermediate_size=16,
            projection_dim=pooled,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=9,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        )
        transformers.CLIPTextModelWithProjection(config).save_pretrained(path / encoder)
        _words(9).save_pretrained(path / tokenizer)
    config = transformers.T5Config(
        vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(path / "text_encoder_3")
    _words(11).save_pretrained(path / "tokenizer_3")
    return path


def _words(length: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<unk>", "</s>", "a", "night", "drive", "rain", "road", "left"]
    table = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def config(folder: Path, **changes: Any) -> SD3TextConfig:
    values = {"path": str(folder), "dim": 32, "pooled_dim": 16, "max_t5_tokens": 11}
    return SD3TextConfig(**values | changes)


def reference(folder: Path, has_t5: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers' pipeline makes of the same folder."""
    import diffusers
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

    parts: dict[str, Any] = {}
    for tokenizer, encoder in PARTS:
        parts[tokenizer] = AutoTokenizer.from_pretrained(folder, subfolder=tokenizer)
        parts[encoder] = CLIPTextModelWithProjection.from_pretrained(folder, subfolder=encoder)
    parts["tokenizer_3"] = AutoTokenizer.from_pretrained(folder, subfolder="tokenizer_3")
    parts["text_encoder_3"] = T5EncoderModel.from_pretrained(folder, subfolder="text_encoder_3")
    if not has_t5:
        parts |= {"tokenizer_3": None, "text_encoder_3": None}
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=4, num_layers=1, num_attention_heads=1, attention_head_dim=4,
        joint_attention_dim=32, caption_projection_dim=4, pooled_projection_dim=16,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=None, vae=None, **parts
    )
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(
            TEXTS, None, None, do_classifier_free_guidance=False, max_sequence_length=11
        )
    return states, pooled


@pytest.mark.parametrize("has_t5", [True, False])
def test_states_and_pooled_text_are_those_of_diffusers_pipeline(folder: Path, has_t5: bool) -> None:
    pytest.importorskip("diffusers")
    expected, expected_pooled = reference(folder, has_t5)
    states, pooled = SD3TextEncoder(config(folder, has_t5=has_t5))(TEXTS)
    assert states.shape == (3, 9 + 11, 32)
    assert pooled.shape == (3, 16)
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(pooled, expected_pooled)
    assert bool(states[:, 9:].any()) == has_t5
    assert not bool(states[:, :9, 20:].any())  # 8 + 12 numbers of the CLIPs, then zeros


def test_a_dropped_text_is_the_empty_text_and_nothing_is_saved_with_a_model(folder: Path) -> None:
    encoder = SD3TextEncoder(config(folder))
    like = torch.zeros(1, dtype=torch.float64)
    gone = torch.tensor([True, False, False])
    text, pooled = embed_text(encoder, TEXTS, 3, gone, like)
    assert text.dtype == torch.float64
    torch.testing.assert_close(text[0], text[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled[0], pooled[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(text[2], text[1])
    assert not list(encoder.parameters())
    assert not encoder.state_dict()


def test_what_is_missing_or_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_encoder in"):
        SD3TextEncoder(config(tmp_path))(TEXTS)
    with pytest.raises(ValueError, match=r"pooled_dim=16"):
        SD3TextEncoder(config(folder, pooled_dim=12))(TEXTS)
    with pytest.raises(ValueError, match=r"dim=32"):
        SD3TextEncoder(config(folder, dim=40))(TEXTS)
