"""Small Keras 3 models whose graphs are of every kind: inner models, shared layers, names; added to MODELS."""

from __future__ import annotations

from typing import Any

from tests.interop.keras_models import MODELS, functional, inputs_of, layers, make, model, sequence, tensor

__all__ = ["MODELS", "inputs_of", "make"]


# --- graphs ---------------------------------------------------------------------------------------
@model
def many_inputs_and_outputs() -> Any:
    L = layers()
    a, b = tensor(4, name="left"), tensor(5, name="right")
    x = L.Concatenate()([L.Dense(3)(a), L.Dense(3)(b)])
    return functional([b, a], [L.Dense(1, name="score")(x), L.Dense(2, name="class")(x), a])


@model
def dict_inputs_and_outputs() -> Any:
    L = layers()
    z, a = tensor(4, name="z"), tensor(4, name="a")
    x = L.Subtract()([z, a])
    return functional({"z": z, "a": a}, {"second": L.Dense(2)(x), "first": L.Dense(3)(x)})


@model
def shared_layers() -> Any:
    L = layers()
    a, b = tensor(4), tensor(4)
    tower = L.Dense(3, "leaky_relu", name="tower")
    return functional([a, b], L.Subtract()([tower(a), tower(b)]))


@model
def shared_dropped() -> Any:
    L = layers()
    a, b = tensor(4), tensor(4)
    same = L.Identity()
    return functional([a, b], L.Dense(2)(L.Concatenate()([same(a), same(same(b))])))


@model
def nested_sequential() -> Any:
    L = layers()
    inner = sequence(L.Dense(4, "relu", name="dense"), L.BatchNormalization(), L.Dense(3, name="d"), name="inner")
    return sequence(tensor(5), L.Dense(4, name="dense"), inner, L.Dense(2, name="dense_1"))


@model
def nested_functional() -> Any:
    L = layers()
    a, b = tensor(3), tensor(3)
    x = L.Dense(4, name="dense")(a)
    inner = functional([a, b], [L.Add()([x, L.Dense(4, name="other")(b)]), x], name="inner")
    i, j = tensor(3), tensor(3)
    p, q = inner([L.Dense(3, name="dense")(i), j])
    r, s = inner([j, i])
    return functional([i, j], [L.Concatenate()([p, s]), L.Multiply()([q, r])])


@model
def nested_three_deep() -> Any:
    L = layers()
    deepest = sequence(tensor(4), L.Dense(4, "leaky_relu", name="dense"), name="deepest")
    i = tensor(4)
    middle = functional(i, L.Dense(4, name="dense")(deepest(i)) + i, name="middle")
    outer = tensor(4)
    return functional(outer, L.Dense(2, name="dense")(middle(middle(outer))))


@model
def nested_dicts() -> Any:
    L = layers()
    b, a = tensor(3, name="b"), tensor(3, name="a")
    inner = functional({"b": b, "a": a}, {"y": L.Dense(2)(b), "x": L.Dense(2)(a)}, name="inner")
    i, j = tensor(3), tensor(3)
    out = inner({"b": i, "a": j})
    return functional([i, j], L.Concatenate()([out["y"], out["x"]]))


@model
def nested_first() -> Any:
    L = layers()
    base = sequence(tensor(6, 6, 2), L.Conv2D(3, 3), L.GlobalAveragePooling2D(), name="base")
    return sequence(base, L.Dense(2))


@model
def odd_names() -> Any:
    L = layers()
    i = tensor(4, name="my input")
    x = L.Dense(3, name="_hidden layer é")(i)
    x = L.Bidirectional(L.LSTM(2, name="in ner"), name="bi:di")(L.Reshape((3, 1), name="re shape")(x))
    return functional(i, L.Dense(2, name="hidden layer _")(x), name="odd model")


@model
def residual() -> Any:
    L = layers()
    i = tensor(8, 8, 3)
    x = L.Conv2D(4, 3, padding="same")(i)
    for _ in range(3):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
        x = L.ReLU()(x + L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(y)))
    return functional(i, L.Dense(3, "softmax")(L.GlobalAveragePooling2D()(x)))


@model
def u_net() -> Any:
    L = layers()
    i = tensor(8, 8, 1)
    a = L.Conv2D(4, 3, padding="same", activation="relu")(i)
    b = L.Conv2D(6, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    c = L.Concatenate()([L.Conv2DTranspose(4, 2, strides=2)(b), a])
    return functional(i, L.Conv2D(1, 1, activation="sigmoid")(L.Concatenate()([L.UpSampling2D()(b), c])))


@model
def mobile_net() -> Any:
    L = layers()
    i = tensor(12, 12, 3)
    x = L.Rescaling(1 / 127.5, -1)(i)
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(x)))
    for filters, stride in ((6, 1), (8, 2)):
        x = L.ZeroPadding2D(((0, 1), (0, 1)))(x) if stride == 2 else x
        x = L.DepthwiseConv2D(3, strides=stride, padding="valid" if stride == 2 else "same", use_bias=False)(x)
        x = L.ReLU(6.0)(L.BatchNormalization()(x))
        x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(filters, 1, use_bias=False)(x)))
    x = L.Conv2D(5, 1)(L.Dropout(0.1)(L.GlobalAveragePooling2D(keepdims=True)(x)))
    return functional(i, L.Activation("softmax")(L.Reshape((5,))(x)))


@model
def autoencoder() -> Any:
    L = layers()
    encoder = sequence(tensor(8), L.Dense(4, "silu"), L.Dense(2), name="encoder")
    decoder = sequence(tensor(2), L.Dense(4, "silu"), L.Dense(8, "hard_sigmoid"), name="decoder")
    i = tensor(8)
    return functional(i, decoder(encoder(i)))
