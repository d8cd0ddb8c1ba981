"""KerasHub backbones, made from small configurations without a download.

They need `pip install keras-hub`.
"""

from collections.abc import Callable
from typing import Any

import keras
from architecture import IMAGE, STEPS, VOCABULARY, WORDS, Architecture
from keras import layers, ops


def _hub(name: str, config: dict[str, Any], head: Callable[[Any], Any]) -> Callable[[], Any]:
    """A KerasHub backbone with a classifier on top of what `head` picks of its outputs."""

    def build() -> keras.Model:
        import keras_hub

        backbone = getattr(keras_hub.models, name)(**config)
        x = head(backbone.output)
        return keras.Model(backbone.input, layers.Dense(5, activation="softmax")(x))

    return build


def _causal_lm() -> keras.Model:
    """GPT-2, which predicts words by the table that it looks them up in."""
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(**_ENCODER, dropout=0.0, max_sequence_length=STEPS)
    model = keras_hub.models.GPT2CausalLM(backbone)
    return keras.Model(model.input, layers.Softmax()(model.output))


def _masked_lm() -> keras.Model:
    """BERT, which predicts words at some positions, likewise."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(**_ENCODER, dropout=0.0, max_sequence_length=STEPS)
    model = keras_hub.models.BertMaskedLM(backbone)
    names = ("token_ids", "segment_ids", "padding_mask", "mask_positions")
    inputs = {name: keras.Input(WORDS[0], dtype="int32", name=name) for name in names}
    read = {
        **inputs,
        "segment_ids": ops.mod(inputs["segment_ids"], 2),
        "mask_positions": ops.mod(inputs["mask_positions"], STEPS),
    }
    return keras.Model(inputs, layers.Softmax()(model(read)))


def _text_inputs(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, WORDS)


_ENCODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}


def _mean(x: Any) -> Any:
    return ops.mean(x, axis=1)


HUB_ARCHITECTURES: dict[str, Architecture] = {
    "hub_bert": Architecture(
        _hub(
            "BertBackbone",
            {**_ENCODER, "dropout": 0.0, "max_sequence_length": STEPS, "num_segments": VOCABULARY},
            lambda outputs: outputs["pooled_output"],
        ),
        _text_inputs("token_ids", "segment_ids", "padding_mask"),
    ),
    "hub_gpt2": Architecture(
        _hub("GPT2Backbone", {**_ENCODER, "dropout": 0.0, "max_sequence_length": STEPS}, _mean),
        _text_inputs("token_ids", "padding_mask"),
    ),
    "hub_gpt2_causal_lm": Architecture(
        _causal_lm,
        _text_inputs("token_ids", "padding_mask"),
        (STEPS,),
        num_classes=VOCABULARY,
    ),
    "hub_bert_masked_lm": Architecture(
        _masked_lm,
        _text_inputs("token_ids", "segment_ids", "padding_mask", "mask_positions"),
        (STEPS,),
        num_classes=VOCABULARY,
    ),
    "hub_t5": Architecture(
        _hub(
            "T5Backbone",
            {**_ENCODER, "dropout": 0.0},
            lambda outputs: _mean(outputs["decoder_sequence_output"]),
        ),
        _text_inputs(
            "encoder_token_ids", "encoder_padding_mask", "decoder_token_ids", "decoder_padding_mask"
        ),
    ),
    "hub_whisper": Architecture(
        _hub(
            "WhisperBackbone",
            {
                **_ENCODER,
                "dropout": 0.0,
                "num_mels": 4,
                "max_encoder_sequence_length": 2 * STEPS,
                "max_decoder_sequence_length": STEPS,
            },
            lambda outputs: _mean(outputs["decoder_sequence_output"]),
        ),
        {
            "encoder_features": ((2 * STEPS, 4), "float"),
            **_text_inputs("decoder_token_ids", "decoder_padding_mask"),
        },
    ),
    "hub_vit": Architecture(
        _hub(
            "ViTBackbone",
            {
                "image_shape": (16, 16, 3),
                "patch_size": 4,
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 8,
                "mlp_dim": 16,
            },
            _mean,
        ),
        IMAGE,
    ),
    "hub_resnet": Architecture(
        _hub(
            "ResNetBackbone",
            {
                "input_conv_filters": [64],
                "input_conv_kernel_sizes": [7],
                "stackwise_num_filters": [64, 64],
                "stackwise_num_blocks": [1, 1],
                "stackwise_num_strides": [1, 2],
                "block_type": "basic_block",
                "image_shape": (32, 32, 3),
            },
            lambda x: ops.mean(x, axis=(1, 2)),
        ),
        ((32, 32, 3), "float"),
    ),
    "hub_mobilenet": Architecture(
        _hub(
            "MobileNetBackbone",
            {
                "stackwise_expansion": [[40, 56], [64, 72]],
                "stackwise_num_blocks": [2, 2],
                "stackwise_num_filters": [[16, 16], [24, 24]],
                "stackwise_kernel_size": [[3, 3], [5, 5]],
                "stackwise_num_strides": [[2, 1], [2, 1]],
                "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
                "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]],
                "stackwise_padding": [[1, 1], [2, 2]],
                "output_num_filters": 64,
                "input_activation": "hard_swish",
                "output_activation": "hard_swish",
                "input_num_filters": 16,
                "image_shape": (32, 32, 3),
                "depthwise_filters": 8,
                "depthwise_stride": 2,
                "depthwise_residual": False,
                "squeeze_and_excite": 0.5,
                "last_layer_filter": 128,
            },
            lambda x: ops.mean(x, axis=(1, 2)),
        ),
        ((32, 32, 3), "float"),
    ),
}
