"""Captioners of transformers, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskworld.preparation.captioning import Captioner, TransformersCaptioner

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "car", "road"]


def make_blip(folder: Path, word: str) -> Path:
    """A captioner that always says `word`."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = small | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 2}
    text |= {"sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    vision = small | {"image_size": 32, "patch_size": 16}
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    )
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[WORDS.index(word)] = 100.0
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_of_transformers_captions_an_image(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    captioner = TransformersCaptioner(make_blip(tmp_path / "blip", "car"), max_new_tokens=3)
    assert isinstance(captioner, Captioner)
    assert captioner.caption(np.zeros((40, 60, 3), dtype=np.uint8)) == "car car car"


@pytest.mark.slow
def test_what_is_no_captioner_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="cannot be used to caption images"):
        TransformersCaptioner(tmp_path)
