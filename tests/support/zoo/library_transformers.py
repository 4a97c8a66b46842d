"""Tiny configurations of the architectures of transformers, without weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {
    **TEXT,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
DECODER = {**ENCODER, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 2}
BOTH = {
    **TEXT,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "use_cache": False,
    "decoder_start_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}


def tokens(length: int = 9) -> Tensor:
    return torch.randint(3, 60, (2, length))


def text() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def text_to_text() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(5)}


def images(size: int = 32) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


CONFIGURATIONS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    # class of the model: class of its configuration, the configuration, the inputs
    "AlbertModel": ("AlbertConfig", {**ENCODER, "embedding_size": 16}, text),
    "BertForMaskedLM": ("BertConfig", ENCODER, text),
    "BloomForCausalLM": (
        "BloomConfig",
        {**TEXT, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
        text,
    ),
    "BartForConditionalGeneration": ("BartConfig", {**BOTH, "max_position_embeddings": 64}, text_to_text),
    "CLIPModel": (
        "CLIPConfig",
        {
            "text_config": {**ENCODER, "max_position_embeddings": 20},
            "vision_config": VISION,
            "projection_dim": 16,
        },
        lambda: {**text(), **images()},
    ),
    "CohereForCausalLM": ("CohereConfig", DECODER, text),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]},
        images,
    ),
    "DebertaV2ForMaskedLM": (
        "DebertaV2Config",
        {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        text,
    ),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {**TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
        text,
    ),
    "ElectraForMaskedLM": ("ElectraConfig", {**ENCODER, "embedding_size": 16}, text),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {**TEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
        text,
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", DECODER, text),
    "GemmaForCausalLM": ("GemmaConfig", {**GROUPED, "head_dim": 8}, text),
    "Gemma2ForCausalLM": ("Gemma2Config", {**GROUPED, "head_dim": 8}, text),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, text),
    "LlamaModel": ("LlamaConfig", {**GROUPED, "use_cache": True}, text),
    "MambaForCausalLM": (
        "MambaConfig",
        {**TEXT, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
        text,
    ),
    "MistralForCausalLM": ("MistralConfig", GROUPED, text),
    "OPTForCausalLM": (
        "OPTConfig",
        {
            **TEXT,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        text,
    ),
    "OlmoForCausalLM": ("OlmoConfig", DECODER, text),
    "PhiForCausalLM": ("PhiConfig", DECODER, text),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED, text),
    "RobertaForMaskedLM": ("RobertaConfig", ENCODER, text),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 16, 32, 32],
            "decoder_hidden_size": 16,
            "num_attention_heads": [1, 2, 2, 4],
        },
        partial(images, 64),
    ),
    "SwinForImageClassification": (
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        images,
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {**TEXT, **T5, "use_cache": False, "decoder_start_token_id": 0},
        text_to_text,
    ),
    "ViTForImageClassification": ("ViTConfig", VISION, images),
    "Wav2Vec2ForCTC": (
        "Wav2Vec2Config",
        {
            **TEXT,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "conv_dim": (16, 16),
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
        lambda: {"input_values": torch.randn(2, 900)},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**BOTH, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
        lambda: {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens(5)},
    ),
}


def make(name: str) -> tuple[nn.Module, Any]:
    import transformers

    kind, options, inputs = CONFIGURATIONS[name]
    return getattr(transformers, name)(getattr(transformers, kind)(**options)), inputs()


TRANSFORMERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    name: partial(make, name) for name in CONFIGURATIONS
}
