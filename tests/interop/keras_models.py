"""Small Keras 3 models of every kind of layer that TensorFlow.js can have, by name; of graphs: keras_graphs.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["MODELS", "functional", "inputs_of", "layers", "make", "model", "sequence", "tensor"]

MODELS: dict[str, Callable[[], Any]] = {}
"""Builders by name."""


def model(build: Callable[[], Any]) -> Callable[[], Any]:
    MODELS[build.__name__] = build
    return build


def make(name: str) -> Any:
    """The model, with weights that are all different, of a state of its own."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(sum(name.encode()))
    built = MODELS[name]()
    random = np.random.default_rng(len(name))
    for weight in built.weights:  # moving statistics and biases too, which are 0 and 1 at first
        shape, positive = weight.shape, "variance" in weight.path
        values = random.uniform(0.5, 1.5, shape) if positive else random.normal(0, 0.4, shape)
        weight.assign(values.astype("float32"))
    return built


def inputs_of(built: Any) -> list[np.ndarray]:
    """An input for each of a model's, in its order."""
    random = np.random.default_rng(7)
    given = []
    for tensor in built.inputs:
        shape = [d or 3 for d in tensor.shape]
        if "int" in str(tensor.dtype):
            given.append(random.integers(0, 5, shape).astype("int32"))
        else:
            given.append(random.normal(0, 1, shape).astype("float32"))
    return given


def layers() -> Any:
    from keras import layers

    return layers


def sequence(*parts: Any, name: str | None = None) -> Any:
    import keras

    return keras.Sequential(list(parts), name=name)


def functional(inputs: Any, outputs: Any, **options: Any) -> Any:
    import keras

    return keras.Model(inputs, outputs, **options)


def tensor(*shape: int | None, **options: Any) -> Any:
    import keras

    return keras.Input(shape, **options)


# --- dense ----------------------------------------------------------------------------------------
@model
def mlp() -> Any:
    L = layers()
    return sequence(tensor(4), L.Dense(8, "relu"), L.Dropout(0.3), L.Dense(3, "softmax"))


@model
def activations() -> Any:
    L = layers()
    x = i = tensor(6)
    names = ["elu", "gelu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign"]
    outputs = [L.Dense(3, n)(x) for n in [*names, "tanh", "log_softmax", "softmax", "swish", "celu"]]
    return functional(i, outputs)


@model
def activations_rewritten() -> Any:
    L = layers()
    i = tensor(6)
    names = ["leaky_relu", "hard_sigmoid", "hard_tanh", "log_sigmoid"]
    outputs = [L.Dense(3, n)(i) for n in names] + [L.Activation(n)(i) for n in names]
    outputs += [L.Dense(3, activation=L.LeakyReLU(0.07))(i), L.Dense(3, activation=L.ReLU(max_value=0.5))(i)]
    return functional(i, outputs)


@model
def advanced_activations() -> Any:
    L = layers()
    i = tensor(3, 4)
    outputs = [L.LeakyReLU(0.1)(i), L.ELU()(i), L.ReLU()(i), L.ReLU(max_value=1.0)(i), L.ReLU(negative_slope=0.2)(i)]
    outputs += [
        L.ReLU(threshold=0.5)(i),
        L.PReLU()(i),
        L.PReLU(shared_axes=[1])(i),
        L.Softmax()(i),
        L.Softmax(axis=1)(i),
    ]
    return functional(i, [*outputs, L.Softmax(axis=[1])(i)])


@model
def initializers() -> Any:
    import keras

    L = layers()
    names = ["lecun_normal", "lecun_uniform", "he_normal", "he_uniform", "glorot_normal", "orthogonal", "random_normal"]
    x = i = tensor(4)
    for n in [*names, "random_uniform", "truncated_normal", "variance_scaling", "identity", "ones", "zeros"]:
        x = L.Dense(4, "tanh", kernel_initializer=n, bias_initializer=keras.initializers.Constant(0.5))(x)
    return functional(i, x)


@model
def regularizers() -> Any:
    import keras

    L, R, C = layers(), keras.regularizers, keras.constraints
    x = i = tensor(4)
    kinds = [(R.L1(0.1), C.MaxNorm(2)), (R.L2(0.1), C.NonNeg()), (R.L1L2(0.1, 0.2), C.UnitNorm()), ("l2", "non_neg")]
    for r, c in [*kinds, (R.OrthogonalRegularizer(), C.MinMaxNorm(0.1, 2.0))]:
        x = L.Dense(4, kernel_regularizer=r, kernel_constraint=c, activity_regularizer="l2")(x)
    return functional(i, x)


@model
def no_bias() -> Any:
    L = layers()
    return sequence(tensor(4), L.Dense(5, use_bias=False), L.Dense(2), name="no_bias")


@model
def frozen_layers() -> Any:
    L = layers()
    built = sequence(tensor(4), L.Dense(5), L.BatchNormalization(), L.Dense(2))
    built.layers[0].trainable = built.layers[1].trainable = False
    return built


@model
def dense_on_sequences() -> Any:
    L = layers()
    return sequence(tensor(5, 4), L.Dense(3, "relu"), L.Dense(2))


@model
def mixed_precision() -> Any:
    L = layers()
    i = tensor(4)
    x = L.Dense(5, "relu", dtype="mixed_bfloat16")(i)
    x = L.Dense(5, dtype="float32")(i)
    return functional(i, L.Dense(2, dtype="float32")(x))


@model
def integer_input() -> Any:
    L = layers()
    a, b = tensor(3, dtype="int64", name="ids"), tensor(3, name="values")
    return functional([a, b], L.Concatenate()([L.Flatten()(L.Embedding(6, 2)(a)), b]))


# --- convolutions ---------------------------------------------------------------------------------
@model
def conv1d() -> Any:
    L = layers()
    i = tensor(9, 3)
    x = L.Conv1D(4, 3, padding="same", activation="relu")(i)
    x = L.MaxPooling1D(2)(L.Conv1D(5, 2, strides=2)(x))
    y = L.AveragePooling1D(3, strides=2, padding="same")(L.Conv1D(4, 3, dilation_rate=2)(i))
    return functional(i, [L.GlobalAveragePooling1D()(x), L.GlobalMaxPooling1D()(y)])


@model
def conv2d() -> Any:
    L = layers()
    i = tensor(9, 8, 3)
    x = L.Conv2D(4, 3, padding="same", activation="relu")(i)
    x = L.MaxPooling2D(2)(L.Conv2D(5, (2, 3), strides=(1, 2), use_bias=False)(x))
    y = L.AveragePooling2D(3, strides=(2, 1), padding="same")(L.Conv2D(4, 3, dilation_rate=(2, 1))(i))
    return functional(i, [L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(y), L.Flatten()(x)])


@model
def conv3d() -> Any:
    L = layers()
    i = tensor(6, 5, 6, 2)
    x = L.Conv3D(3, 3, padding="same", activation="tanh")(i)
    return functional(i, [L.MaxPooling3D(2)(x), L.AveragePooling3D(2, strides=1)(L.Conv3D(2, 2, strides=2)(x))])


@model
def conv_transposed() -> Any:
    L = layers()
    i, j = tensor(5, 4, 2), tensor(3, 3, 4, 2)
    a = [L.Conv2DTranspose(3, 3, strides=s, padding=p)(i) for s in (1, 2, 3) for p in ("same", "valid")]
    b = [L.Conv3DTranspose(3, 2, strides=2, padding=p)(j) for p in ("same", "valid")]
    return functional([i, j], a + b)


@model
def separable() -> Any:
    L = layers()
    i = tensor(7, 7, 3)
    x = L.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu")(i)
    return functional(i, [x, L.SeparableConv2D(2, 3, strides=2, padding="same", use_bias=False)(i)])


@model
def depthwise() -> Any:
    L = layers()
    i = tensor(7, 7, 3)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(i)
    return functional(i, [x, L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(i)])


@model
def channels_first() -> Any:
    L = layers()
    first = {"data_format": "channels_first"}
    i = tensor(3, 8, 7)
    x = L.Conv2D(4, 3, activation="relu", **first)(i)
    x = L.ZeroPadding2D(1, **first)(L.MaxPooling2D(2, **first)(x))
    pooled = [L.GlobalAveragePooling2D(**first)(x), L.GlobalMaxPooling2D(keepdims=True, **first)(x)]
    grown = [L.UpSampling2D(2, **first)(x), L.Cropping2D(1, **first)(x), L.AveragePooling2D(2, **first)(x)]
    return functional(i, [*pooled, *grown, L.Flatten(**first)(x), L.BatchNormalization(axis=1)(x)])


@model
def keepdims() -> Any:
    L = layers()
    i, j = tensor(4, 4, 3), tensor(5, 3)
    a = [L.GlobalAveragePooling2D(keepdims=True)(i), L.GlobalMaxPooling2D(keepdims=True)(i)]
    b = [L.GlobalAveragePooling1D(keepdims=True)(j), L.GlobalMaxPooling1D(keepdims=True)(j)]
    return functional([i, j], a + b)


# --- normalisation --------------------------------------------------------------------------------
@model
def batch_norm() -> Any:
    L = layers()
    i = tensor(6, 5, 3)
    x = L.BatchNormalization(epsilon=0.01, momentum=0.9)(L.Conv2D(4, 3)(i))
    return functional(i, L.BatchNormalization(center=False)(L.BatchNormalization(scale=False)(x)))


@model
def batch_norm_other_axes() -> Any:
    L = layers()
    i, j = tensor(4, 3), tensor(2, 5, 4)
    outputs = [L.BatchNormalization(axis=1)(i), L.BatchNormalization(axis=2)(i), L.BatchNormalization(axis=-2)(i)]
    return functional([i, j], [*outputs, *(L.BatchNormalization(axis=a)(j) for a in (1, 2, 3, -3))])


@model
def layer_norm() -> Any:
    L = layers()
    i = tensor(4, 5)
    outputs = [L.LayerNormalization()(i), L.LayerNormalization(axis=[1, 2])(i)]
    return functional(
        i, [*outputs, L.LayerNormalization(center=False, epsilon=0.1)(i), L.LayerNormalization(scale=False)(i)]
    )


# --- recurrent ------------------------------------------------------------------------------------
@model
def embedding_masked_lstm() -> Any:
    L = layers()
    i = tensor(6, dtype="int32")
    return functional(i, L.Dense(2)(L.LSTM(4)(L.Embedding(10, 3, mask_zero=True)(i))))


@model
def embedding_masked_sequential() -> Any:
    L = layers()
    parts = [L.Embedding(10, 3, mask_zero=True), L.Dropout(0.2), L.LSTM(4, return_sequences=True), L.SimpleRNN(3)]
    return sequence(tensor(6, dtype="int32"), *parts)


@model
def embedding_mask_unused() -> Any:
    L = layers()
    return sequence(tensor(6, dtype="int32"), L.Embedding(10, 3, mask_zero=True), L.Flatten(), L.Dense(2))


@model
def bidirectional_masked() -> Any:
    L = layers()
    i = tensor(6, dtype="int32")
    x = L.Embedding(10, 3, mask_zero=True)(i)
    return functional(i, [L.Bidirectional(L.LSTM(2))(x), L.LSTM(3, return_sequences=True)(x)])


@model
def masking() -> Any:
    L = layers()
    return sequence(tensor(5, 3), L.Masking(0.0), L.LSTM(4))


@model
def lstm_states() -> Any:
    L = layers()
    i, h, c = tensor(5, 3), tensor(4), tensor(4)
    y, a, b = L.LSTM(4, return_sequences=True, return_state=True)(i, initial_state=[h, c])
    return functional([i, h, c], [y, a, b])


@model
def gru() -> Any:
    L = layers()
    i = tensor(5, 3)
    outputs = [L.GRU(4, reset_after=False)(i), L.GRU(3, reset_after=False, use_bias=False, go_backwards=True)(i)]
    return functional(i, [*outputs, L.GRU(2, reset_after=False, activation="relu", return_sequences=True)(i)])


@model
def simple_rnn() -> Any:
    L = layers()
    return sequence(tensor(5, 3), L.SimpleRNN(4, return_sequences=True, unroll=True), L.SimpleRNN(2, "relu"))


@model
def bidirectional() -> Any:
    L = layers()
    i = tensor(5, 3)
    modes = ["concat", "sum", "mul", "ave"]
    outputs = [L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode=m)(i) for m in modes]
    return functional(i, [*outputs, L.Bidirectional(L.GRU(2, reset_after=False), name="both")(i)])


@model
def time_distributed() -> Any:
    L = layers()
    i = tensor(4, 6, 6, 2)
    x = L.TimeDistributed(L.Conv2D(3, 3, activation="relu"))(i)
    x = L.TimeDistributed(L.Flatten())(x)
    return functional(i, L.TimeDistributed(L.Dense(2), name="per_step")(x))


@model
def stacked_cells() -> Any:
    L = layers()
    cells = [L.LSTMCell(4), L.GRUCell(3, reset_after=False), L.SimpleRNNCell(2)]
    return sequence(tensor(5, 3), L.RNN(cells))


@model
def one_cell() -> Any:
    L = layers()
    return sequence(tensor(5, 3), L.RNN(L.LSTMCell(4), return_sequences=True), L.RNN(L.SimpleRNNCell(2)))


@model
def conv_lstm() -> Any:
    L = layers()
    return sequence(tensor(3, 6, 6, 2), L.ConvLSTM2D(3, 3, return_sequences=True, padding="same"), L.ConvLSTM2D(2, 2))


@model
def seq2seq() -> Any:
    L = layers()
    source, target = tensor(5, 3), tensor(4, 2)
    _, h, c = L.LSTM(6, return_state=True)(source)
    return functional([source, target], L.Dense(2)(L.LSTM(6, return_sequences=True)(target, initial_state=[h, c])))


# --- merges and shapes ----------------------------------------------------------------------------
@model
def merges() -> Any:
    L = layers()
    a, b, c = tensor(4), tensor(4), tensor(4)
    three = [layer()([a, b, c]) for layer in (L.Add, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate)]
    return functional([a, b, c], [*three, L.Subtract()([a, b]), L.Dot(1)([a, b]), L.Dot(-1, normalize=True)([b, c])])


@model
def broadcast_merges() -> Any:
    L = layers()
    a, b = tensor(3, 4), tensor(1, 4)
    return functional(
        [a, b], [L.Add()([a, b]), L.Multiply()([a, b]), L.Subtract()([b, a]), L.Concatenate(axis=1)([a, b])]
    )


@model
def operators() -> Any:
    L = layers()
    a, b = tensor(4), tensor(4)
    x = (a + b) * a - L.Dense(4)(b)
    return functional([a, b], [x, x * 2.0, 3.0 - x, x / 4.0, x + 1.0, x - 0.5, 2.0 * b])


@model
def reshapes() -> Any:
    L = layers()
    i, v = tensor(4, 6), tensor(3)
    outputs = [L.Flatten()(i), L.Reshape((6, 4))(i), L.Reshape((2, -1))(i), L.Permute((2, 1))(i), L.RepeatVector(3)(v)]
    return functional([i, v], outputs)


@model
def paddings() -> Any:
    L = layers()
    i = tensor(5, 6, 2)
    pads = [L.ZeroPadding2D(p)(i) for p in (1, (1, 2), ((1, 0), (2, 3)))]
    return functional(
        i, [*pads, L.Cropping2D(((1, 0), (2, 1)))(i), L.UpSampling2D((2, 3))(i), L.Rescaling(0.5, 0.25)(i)]
    )


@model
def left_out() -> Any:
    L = layers()
    i = tensor(6, 6, 2)
    x = L.RandomRotation(0.1)(L.RandomFlip()(i))
    x = L.SpatialDropout2D(0.3)(L.Conv2D(3, 3)(L.Identity()(x)))
    return functional(i, [L.Identity()(L.GaussianNoise(0.1)(x)), L.ActivityRegularization(0.1)(L.AlphaDropout(0.2)(x))])


@model
def left_out_sequential() -> Any:
    L = layers()
    return sequence(tensor(4), L.Identity(), L.Dense(3), L.GaussianDropout(0.1), L.Identity())
