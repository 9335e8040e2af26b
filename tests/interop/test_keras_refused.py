"""What TensorFlow.js cannot have is refused before anything is written, with all reasons at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.interop.keras_support import keras_or_skip

import weightlift as wl

keras = keras_or_skip()
L = keras.layers

ON_VECTORS: dict[str, Callable[[], Any]] = {
    "UnitNormalization": lambda: L.UnitNormalization(),
    "RMSNormalization": lambda: L.RMSNormalization(),
    "Discretization": lambda: L.Discretization(bin_boundaries=[0.0, 1.0]),
    "Lambda": lambda: L.Lambda(lambda x: x + 1),
    "rms_scaling": lambda: L.LayerNormalization(rms_scaling=True),
    "renorm": lambda: L.BatchNormalization(renorm=True),
    "alpha=0.5: TensorFlow.js has only alpha=1": lambda: L.ELU(0.5),
    "TensorFlow.js has each alone": lambda: L.ReLU(max_value=2.0, negative_slope=0.1),
    "activation exponential": lambda: L.Dense(3, "exponential"),
    "activation hard_silu": lambda: L.Activation("hard_silu"),
    "activation tanh_shrink": lambda: L.Dense(3, "tanh_shrink"),
    "activation squareplus": lambda: L.Dense(3, "squareplus"),
    "scale is not one number": lambda: L.Rescaling([1.0, 2.0, 3.0, 4.0]),
    "EinsumDense": lambda: L.EinsumDense("ab,bc->ac", output_shape=3),
    "use Rescaling or BatchNormalization": lambda: L.Normalization(mean=0.5, variance=2.0),
}
ON_SEQUENCES: dict[str, Callable[[], Any]] = {
    "reset_after=True": lambda: L.GRU(3),
    "causal": lambda: L.Conv1D(3, 2, padding="causal"),
    "Conv1DTranspose": lambda: L.Conv1DTranspose(3, 2),
    "ZeroPadding1D": lambda: L.ZeroPadding1D(1),
    "Cropping1D": lambda: L.Cropping1D(1),
    "UpSampling1D": lambda: L.UpSampling1D(2),
    "SeparableConv1D": lambda: L.SeparableConv1D(3, 2),
    "DepthwiseConv1D": lambda: L.DepthwiseConv1D(2),
    "groups=2": lambda: L.Conv1D(4, 2, groups=2),
    "GroupNormalization": lambda: L.GroupNormalization(2),
    "activation leaky_relu": lambda: L.LSTM(3, activation="leaky_relu"),
    "activation hard_sigmoid: TensorFlow.js computes it otherwise": lambda: L.LSTM(
        3, recurrent_activation="hard_sigmoid"
    ),
    "its GRU: reset_after=True": lambda: L.Bidirectional(L.GRU(3)),
    "backward_layer differs": lambda: L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(2, go_backwards=True)),
    "would have to become 2 layers": lambda: L.TimeDistributed(L.Dense(3, "leaky_relu")),
    "a model inside a wrapper": lambda: L.TimeDistributed(keras.Sequential([keras.Input((4,)), L.Dense(2)])),
}
ON_IMAGES: dict[str, Callable[[], Any]] = {
    "groups=4": lambda: L.Conv2D(4, 2, groups=4),
    "output_padding=[1, 1]": lambda: L.Conv2DTranspose(3, 3, strides=2, output_padding=1),
    "dilation_rate=[2, 2]": lambda: L.Conv2DTranspose(3, 2, dilation_rate=2),
    "interpolation='bilinear'": lambda: L.UpSampling2D(2, interpolation="bilinear"),
    "Resizing": lambda: L.Resizing(4, 4),
    "CenterCrop": lambda: L.CenterCrop(2, 2),
    "RandomCrop": lambda: L.RandomCrop(2, 2),
    "AdaptiveAveragePooling2D": lambda: L.AdaptiveAveragePooling2D(2),
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Conv2D(2, 2)),
}
LAYERS = [
    *((text, build, (4,)) for text, build in ON_VECTORS.items()),
    *((text, build, (6, 4)) for text, build in ON_SEQUENCES.items()),
    *((text, build, (6, 6, 4)) for text, build in ON_IMAGES.items()),
]


@pytest.mark.parametrize(("text", "build", "shape"), LAYERS, ids=[text.split(":")[0] for text, _, _ in LAYERS])
def test_a_layer_is_refused(text: str, build: Callable[[], Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    layer = build()
    model = keras.Sequential([keras.Input(shape), layer])
    with pytest.raises(wl.UnsupportedFeatureError) as caught:
        wl.save_model(model, tmp_path / "m")
    message = str(caught.value)
    assert text in message and layer.name in message and "; instead: " in message
    assert not (tmp_path / "m").exists()


def other_models() -> dict[str, Callable[[], Any]]:
    i, s = keras.Input((4,)), keras.Input((5, 4))
    ids = keras.Input((5,), dtype="int32")

    @keras.saving.register_keras_serializable("mine")
    class Twice(L.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    def masked(layer: Any) -> Any:
        x = L.Embedding(6, 4, mask_zero=True)(ids)
        return keras.Model(ids, [layer(x), L.LSTM(2)(x)])

    def half_masked() -> Any:
        other = keras.Input((5, 4))
        x = L.Add()([L.Embedding(6, 4, mask_zero=True)(ids), other])
        return keras.Model([ids, other], L.LSTM(2)(x))

    def lora() -> Any:
        layer = L.Dense(4)
        model = keras.Sequential([keras.Input((4,)), layer])
        layer.enable_lora(2)
        return model

    def quantised() -> Any:
        model = keras.Sequential([keras.Input((4,)), L.Dense(4)])
        model.quantize("int8")
        return model

    return {
        "a class of your own": lambda: keras.Sequential([keras.Input((4,)), Twice()]),
        "a subclassed model is code": Own,
        "the shape of its input is not known": lambda: keras.Sequential([L.Dense(3)]),
        "it is given a mask": lambda: masked(L.GlobalAveragePooling1D()),
        "it uses a mask in Keras": lambda: keras.Sequential(
            [keras.Input((5,), dtype="int32"), L.Embedding(6, 4, mask_zero=True), L.GlobalAveragePooling1D()]
        ),
        "a mask that is no layer's": lambda: keras.Model(
            [s, m := keras.Input((5,), dtype="bool")], L.LSTM(2)(s, mask=m)
        ),
        "a mask reaches it": lambda: masked(L.Conv1D(2, 2)),
        "zero_output_for_mask": lambda: masked(L.Bidirectional(L.LSTM(2, return_sequences=True))),
        "only some of its inputs have masks": half_masked,
        "LoRA": lora,
        "quantised by Keras": quantised,
        "an operation on tensors": lambda: keras.Model(i, keras.ops.sin(i)),
        "(Power)": lambda: keras.Model(i, i**2),
        "(GetItem)": lambda: keras.Model(s, s[:, 0]),
        "MultiHeadAttention": lambda: keras.Model(s, L.MultiHeadAttention(1, 2)(s, s)),
        "(Attention)": lambda: keras.Model(s, L.Attention()([s, s])),
        "inputs of string": lambda: keras.Model(*[keras.Input((1,), dtype="string")] * 2),
        "an optional input": lambda: keras.Model([i, o := keras.Input((4,), optional=True)], L.Add()([i, o])),
        "it is called with several tensors": lambda: keras.Model([s, m := keras.Input((5, 4))], L.Softmax()(s, m)),
    }


@pytest.mark.parametrize("text", other_models())
def test_a_model_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError) as caught:
        wl.save_model(other_models()[text](), tmp_path / "m")
    assert text in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_all_reasons_appear_at_once(tmp_path: Path) -> None:
    i = keras.Input((6, 6, 4), name="in")
    inner = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(4, 2, groups=2, name="grouped")], name="inner")
    x = L.UpSampling2D(2, interpolation="bilinear", name="up")(inner(i))
    x = L.Conv2D(3, 2, activation="exponential", groups=1, name="exp")(x)
    x = L.Lambda(lambda t: t, output_shape=(11, 11, 3), name="code")(x)
    with pytest.raises(wl.UnsupportedFeatureError, match="4 reasons; nothing was written") as caught:
        wl.save_model(keras.Model(i, x), tmp_path / "m")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "- inner/grouped (Conv2D)", "- up (UpSampling2D)", "- exp (Conv2D)", "- code (Lambda)",
    ]  # fmt: skip
    assert all("; instead: " in line for line in lines)
    assert not (tmp_path / "m").exists()


def test_an_older_model_stays_when_the_new_one_is_refused(tmp_path: Path) -> None:
    wl.save_model(keras.Sequential([keras.Input((4,)), L.Dense(2)]), tmp_path / "m", durable=False)
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    with pytest.raises(wl.UnsupportedFeatureError):
        wl.save_model(keras.Sequential([keras.Input((4,)), L.UnitNormalization()]), tmp_path / "m")
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before
