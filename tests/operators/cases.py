"""Layers and operations that every rule is tried on, with inputs of few elements."""

import keras
import numpy as np
from keras import layers
from keras.src import ops

from keras_soap.capture.modes import ByMode
from keras_soap.operators.weights import OF_WEIGHTS
from tests.operators.parts import subject

IMAGE = (4, 8, 6, 4)
SERIES = (4, 12, 4)
VOLUME = (2, 4, 6, 4, 2)


def conv(cls, *args, shape=IMAGE, **kwargs):
    return lambda: subject(cls(*args, **kwargs), [shape])


def with_states(inputs):
    return (inputs[0],), ({"initial_state": list(inputs[1:])} if len(inputs) > 1 else {})


def of(layer, *specs, **kwargs):
    return lambda: subject(layer(), list(specs), **kwargs)


def on_weight(operation, shape, *specs, first=False, **kwargs):
    """An operation on inputs and a weight, which is the last argument or the first."""

    def build():
        weight = keras.Variable(np.ones(shape, "float32"))

        def arguments(inputs):
            return ((weight, *inputs) if first else (*inputs, weight)), kwargs

        return subject(operation(), list(specs), arguments=arguments)

    return build


def of_weights(operation, *specs, kind):
    """An operation on weights alone, of which there may be up to three copies."""
    return lambda: subject(operation(), list(specs), kind + OF_WEIGHTS, copies=3)


def array(*shape):
    return np.random.default_rng(0).normal(size=shape) > -0.5


QUERIES = (4, 6, 2, 3)

CASES = {
    # dense
    "dense": of(lambda: layers.Dense(6, "relu"), (4, 6)),
    "dense on a series": of(lambda: layers.Dense(6, use_bias=False), SERIES),
    "dense with softmax": of(lambda: layers.Dense(6, "softmax"), (4, 6)),
    # what depends on the mode
    "by mode": of(ByMode, SERIES, SERIES, list_of_inputs=False),
    # contractions
    "projection to heads": of(
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 6), bias_axes="de"), SERIES
    ),
    "projection of heads": of(
        lambda: layers.EinsumDense("abcd,cde->abe", (None, 6), "relu", bias_axes="e"), (4, 3, 2, 4)
    ),
    "dense along the middle": of(
        lambda: layers.EinsumDense("abc,bd->adc", (6, None), bias_axes="d"), (4, 3, 4)
    ),
    "einsum dense, ellipsis": of(
        lambda: layers.EinsumDense("...x,xy->...y", 6, bias_axes="y"), (4, 2, 3, 4)
    ),
    "einsum dense, fixed length": of(
        lambda: layers.EinsumDense("abc,cd->abd", (12, 6), bias_axes="bd"), SERIES
    ),
    "einsum": of(lambda: ops.numpy.Einsum("aecd,abcd->acbe"), (4, 3, 2, 4), (4, 6, 2, 4)),
    "einsum, ellipsis": of(lambda: ops.numpy.Einsum("...ij,jk->...ik"), (4, 2, 3, 4), (4, 6)),
    "einsum of a weight": on_weight(lambda: ops.numpy.Einsum("abc,cd->abd"), (4, 6), SERIES),
    "matmul": of(ops.numpy.Matmul, (4, 2, 3, 4), (4, 1, 4, 6)),
    "matmul of a weight": on_weight(ops.numpy.Matmul, (4, 6), SERIES),
    "matmul on a weight": on_weight(ops.numpy.Matmul, (4, 2, 6), (4, 6, 3), first=True),
    "matmul of a vector": on_weight(ops.numpy.Matmul, (4,), SERIES),
    "dot": of(lambda: layers.Dot((2, 1)), (4, 6, 3), (4, 3, 2)),
    "dot of vectors": of(lambda: layers.Dot(-1, normalize=True), (4, 6), (4, 6)),
    # convolution
    "convolution": conv(layers.Conv2D, 6, 3, activation="relu"),
    "convolution, same": conv(layers.Conv2D, 6, 3, padding="same"),
    "convolution, same, even kernel": conv(layers.Conv2D, 4, (2, 4), padding="same"),
    "convolution, same, strides": conv(layers.Conv2D, 4, 3, strides=2, padding="same"),
    "convolution, same, strides above kernel": conv(layers.Conv2D, 4, 1, strides=2, padding="same"),
    "convolution, strides": conv(layers.Conv2D, 4, (3, 2), strides=(2, 1), use_bias=False),
    "convolution, same, dilation": conv(layers.Conv2D, 4, 3, dilation_rate=2, padding="same"),
    "convolution, wide same": conv(layers.Conv2D, 4, 7, padding="same", shape=(2, 4, 4, 2)),
    "convolution, softmax": conv(layers.Conv2D, 4, 1, activation="softmax"),
    "convolution, groups": conv(layers.Conv2D, 8, 3, groups=4, padding="same"),
    "convolution, two groups": conv(layers.Conv2D, 8, 3, groups=2),
    "1-D convolution": conv(layers.Conv1D, 6, 3, shape=SERIES),
    "1-D convolution, causal": conv(layers.Conv1D, 6, 3, padding="causal", shape=SERIES),
    "1-D convolution, causal, dilation": conv(
        layers.Conv1D, 6, 3, padding="causal", dilation_rate=3, shape=SERIES
    ),
    "3-D convolution": conv(layers.Conv3D, 2, 3, padding="same", shape=VOLUME),
    "depthwise": conv(layers.DepthwiseConv2D, 3, padding="same"),
    "depthwise, multiplier, strides": conv(
        layers.DepthwiseConv2D, 3, strides=2, depth_multiplier=2, padding="same"
    ),
    "1-D depthwise": conv(layers.DepthwiseConv1D, 3, shape=SERIES),
    "separable": conv(layers.SeparableConv2D, 6, 3, padding="same", depth_multiplier=2),
    "1-D separable": conv(layers.SeparableConv1D, 6, 3, shape=SERIES),
    "transposed": conv(layers.Conv2DTranspose, 6, 3, strides=2, padding="same"),
    "transposed, valid": conv(layers.Conv2DTranspose, 4, (2, 3), strides=(2, 1)),
    "transposed, strides above kernel": conv(layers.Conv2DTranspose, 4, 2, strides=3),
    "transposed, wide": conv(layers.Conv2DTranspose, 2, 5, padding="same", activation="relu"),
    "1-D transposed": conv(layers.Conv1DTranspose, 4, 4, strides=2, padding="same", shape=SERIES),
    # pooling
    "max pooling": conv(layers.MaxPooling2D, 2),
    "max pooling, overlapping": conv(layers.MaxPooling2D, 3, strides=1),
    "max pooling, same": conv(layers.MaxPooling2D, 3, strides=2, padding="same"),
    "1-D max pooling, same": conv(layers.MaxPooling1D, 3, strides=1, padding="same", shape=SERIES),
    "3-D max pooling": conv(layers.MaxPooling3D, 2, shape=VOLUME),
    "average pooling": conv(layers.AveragePooling2D, 2),
    "average pooling, same": conv(layers.AveragePooling2D, 3, strides=1, padding="same"),
    "average pooling, same, strides": conv(layers.AveragePooling2D, 3, strides=2, padding="same"),
    "1-D average pooling, same": conv(
        layers.AveragePooling1D, 4, strides=1, padding="same", shape=SERIES
    ),
    "3-D average pooling": conv(layers.AveragePooling3D, 2, shape=VOLUME),
    "global average pooling": conv(layers.GlobalAveragePooling2D),
    "global max pooling": conv(layers.GlobalMaxPooling2D, keepdims=True),
    "1-D global average pooling": conv(layers.GlobalAveragePooling1D, shape=SERIES),
    # normalization
    "batch normalization": of(layers.BatchNormalization, IMAGE),
    "batch normalization of vectors": of(layers.BatchNormalization, (8, 6)),
    "batch normalization, bare": of(
        lambda: layers.BatchNormalization(center=False, scale=False), IMAGE
    ),
    "batch normalization, uncentered": of(lambda: layers.BatchNormalization(center=False), IMAGE),
    "batch normalization, frozen": of(lambda: layers.BatchNormalization(trainable=False), IMAGE),
    "layer normalization": of(layers.LayerNormalization, SERIES),
    "layer normalization, two axes": of(lambda: layers.LayerNormalization(axis=[1, 3]), IMAGE),
    "RMS normalization": of(layers.RMSNormalization, SERIES),
    "group normalization": of(lambda: layers.GroupNormalization(2), IMAGE),
    "instance normalization": of(lambda: layers.GroupNormalization(-1), IMAGE),
    "unit normalization": of(layers.UnitNormalization, SERIES),
    "normalization by constants": of(
        lambda: layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 16]), IMAGE
    ),
    # embedding
    "embedding": of(lambda: layers.Embedding(6, 8), ((4, 6), "int32")),
    "embedding of one word": of(lambda: layers.Embedding(5, 6), ((4,), "int64")),
    # recurrent
    "LSTM": of(lambda: layers.LSTM(4), (4, 3, 2)),
    "LSTM, sequences": of(lambda: layers.LSTM(4, return_sequences=True), (4, 3, 2)),
    "LSTM, states": of(
        lambda: layers.LSTM(4, return_sequences=True, return_state=True),
        (4, 3, 2),
        (4, 4),
        (4, 4),
        arguments=with_states,
    ),
    "LSTM, backwards": of(
        lambda: layers.LSTM(4, return_sequences=True, go_backwards=True), (4, 3, 2)
    ),
    "LSTM of one step": of(lambda: layers.LSTM(4, use_bias=False, return_state=True), (4, 1, 2)),
    "GRU": of(lambda: layers.GRU(4, return_sequences=True), (4, 3, 2)),
    "GRU, states": of(
        lambda: layers.GRU(4, return_state=True), (4, 3, 2), (4, 4), arguments=with_states
    ),
    "GRU, no bias": of(lambda: layers.GRU(4, use_bias=False), (4, 3, 2)),
    "GRU, reset before": of(lambda: layers.GRU(4, reset_after=False), (4, 3, 2)),
    "simple RNN": of(lambda: layers.SimpleRNN(4, return_sequences=True), (4, 3, 2)),
    "simple RNN, states": of(
        lambda: layers.SimpleRNN(4, return_state=True), (4, 3, 2), (4, 4), arguments=with_states
    ),
    # attention
    "attention": of(layers.Attention, (4, 6, 2), (4, 3, 2)),
    "attention with keys": of(
        lambda: layers.Attention(use_scale=True), (4, 6, 2), (4, 3, 4), (4, 3, 2)
    ),
    "additive attention": of(layers.AdditiveAttention, (4, 6, 2), (4, 3, 2)),
    "dot-product attention": of(ops.nn.DotProductAttention, QUERIES, (4, 5, 2, 3), (4, 5, 2, 3)),
    "dot-product attention, masked": of(
        ops.nn.DotProductAttention,
        QUERIES,
        (4, 5, 2, 3),
        (4, 5, 2, 3),
        ((4, 1, 6, 5), "bool"),
        arguments=lambda x: (tuple(x[:3]), {"mask": x[3], "scale": 0.5}),
    ),
    "dot-product attention, constant mask": of(
        ops.nn.DotProductAttention,
        *[QUERIES] * 3,
        mask=array(1, 2, 6, 6),
    ),
    "dot-product attention, causal": of(
        lambda: ops.nn.DotProductAttention(is_causal=True), *[QUERIES] * 3
    ),
    "dot-product attention, causal and masked": of(
        lambda: ops.nn.DotProductAttention(is_causal=True),
        *[QUERIES] * 3,
        ((4, 1, 1, 6), "bool"),
        arguments=lambda x: (tuple(x[:3]), {"mask": x[3]}),
    ),
    # elementwise
    "ReLU": of(lambda: layers.ReLU(max_value=1.0), IMAGE),
    "leaky ReLU": of(layers.LeakyReLU, IMAGE),
    "ELU": of(layers.ELU, SERIES),
    "PReLU": of(layers.PReLU, IMAGE),
    "PReLU, shared axes": of(lambda: layers.PReLU(shared_axes=[1, 2]), IMAGE),
    "activation": of(lambda: layers.Activation("gelu"), SERIES),
    "activation softmax": of(lambda: layers.Activation("softmax"), SERIES),
    "softmax": of(lambda: layers.Softmax(axis=1), SERIES),
    "logarithm of a softmax": of(lambda: layers.Activation("log_softmax"), SERIES),
    "softmax over two axes": of(lambda: layers.Softmax(axis=[1, 2]), IMAGE),
    "rescaling": of(lambda: layers.Rescaling(0.5, 1.0), IMAGE),
    "identity": of(layers.Identity, SERIES),
    "regularized activity": of(lambda: layers.ActivityRegularization(l2=0.1), SERIES),
    "dropout out of use": of(lambda: layers.Dropout(0.0), SERIES),
    # merging
    "add": of(layers.Add, SERIES, SERIES, SERIES),
    "subtract": of(layers.Subtract, SERIES, SERIES),
    "multiply, broadcasting": of(layers.Multiply, IMAGE, (4, 1, 1, 4)),
    "multiply, fewer axes": of(layers.Multiply, IMAGE, (4, 4)),
    "average": of(layers.Average, SERIES, SERIES),
    "maximum": of(layers.Maximum, SERIES, SERIES),
    "minimum": of(layers.Minimum, SERIES, (4, 12, 1)),
    "concatenate": of(layers.Concatenate, (4, 8, 2), (4, 8, 6), (4, 8, 4)),
    "concatenate in time": of(lambda: layers.Concatenate(axis=1), (4, 2, 6), (4, 10, 6)),
    # reshaping
    "flatten": of(layers.Flatten, IMAGE),
    "flatten one position": of(layers.Flatten, (4, 1, 1, 6)),
    "reshape": of(lambda: layers.Reshape((4, 4, 12)), IMAGE),
    "reshape, unmatched": of(lambda: layers.Reshape((4, 9)), (4, 6, 6)),
    "reshape to a column": of(lambda: layers.Reshape((6, 1)), (4, 6)),
    "permute": of(lambda: layers.Permute((3, 1, 2)), IMAGE),
    "repeat vector": of(lambda: layers.RepeatVector(6), (4, 6)),
    "zero padding": of(lambda: layers.ZeroPadding2D(((1, 3), (0, 2))), IMAGE),
    "zero padding, wider than parts": of(lambda: layers.ZeroPadding2D(4), (2, 4, 4, 2)),
    "1-D zero padding": of(lambda: layers.ZeroPadding1D((2, 0)), (4, 6, 4)),
    "3-D zero padding": of(lambda: layers.ZeroPadding3D(1), VOLUME),
    "cropping": of(lambda: layers.Cropping2D(((1, 3), (0, 2))), IMAGE),
    "1-D cropping": of(lambda: layers.Cropping1D((1, 3)), SERIES),
    "up-sampling": of(lambda: layers.UpSampling2D((2, 3)), IMAGE),
    "up-sampling, bilinear": of(lambda: layers.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    "1-D up-sampling": of(lambda: layers.UpSampling1D(2), SERIES),
    # operations of keras.ops
    "operation add": of(lambda: ops.numpy.Add(), IMAGE, (6, 1)),
    "operation add of columns": of(ops.numpy.Add, (4, 4, 6), (4, 1)),
    "operation multiply": of(lambda: ops.numpy.Multiply(), SERIES, SERIES),
    "operation where": of(lambda: ops.numpy.Where(), (SERIES, "bool"), SERIES, (4,)),
    "operation tanh": of(lambda: ops.numpy.Tanh(), SERIES),
    "operation softmax": of(lambda: ops.nn.Softmax(axis=1), SERIES),
    "operation logarithm of a softmax": of(lambda: ops.nn.LogSoftmax(axis=-1), SERIES),
    "operation concatenate": of(
        lambda: ops.numpy.Concatenate(axis=1), SERIES, SERIES, list_of_inputs=True
    ),
    "operation reshape": of(lambda: ops.numpy.Reshape((48, 4)), SERIES),
    "operation transpose": of(lambda: ops.numpy.Transpose((0, 2, 1)), SERIES),
    "operation squeeze": of(lambda: ops.numpy.Squeeze(1), (4, 1, 6)),
    "operation cast": of(lambda: ops.core.Cast("float16"), SERIES),
    "operation softmax, constant mask": of(layers.Softmax, (4, 2, 6, 6), mask=array(1, 1, 6, 6)),
    "operation add of a weight": on_weight(ops.numpy.Add, (12, 4), SERIES),
    "operation multiply with a weight": on_weight(ops.numpy.Multiply, (4,), SERIES, first=True),
    "operation swapaxes": of(lambda: ops.numpy.Swapaxes(1, -1), IMAGE),
    "operation moveaxis": of(lambda: ops.numpy.Moveaxis(1, -1), IMAGE),
    "operation flip": of(lambda: ops.numpy.Flip(1), SERIES),
    "operation mean": of(lambda: ops.numpy.Mean(1), IMAGE),
    "operation sum": of(lambda: ops.numpy.Sum((1, 2), keepdims=True), IMAGE),
    "operation max": of(lambda: ops.numpy.Max(-1), IMAGE),
    "operation split": of(lambda: ops.numpy.Split(2, 2), SERIES),
    "operation split at": of(lambda: ops.numpy.Split([2, 8], 1), SERIES),
    "operation stack": of(lambda: ops.numpy.Stack(2), *[SERIES] * 4, list_of_inputs=True),
    "operation repeat": of(lambda: ops.numpy.Repeat(3, 2), SERIES),
    "operation broadcast": of(lambda: ops.numpy.BroadcastTo((4, 3, 12, 4)), (4, 1, 12, 1)),
    "item": of(ops.numpy.GetItem, SERIES, key=(slice(None), 3)),
    "items": of(ops.numpy.GetItem, IMAGE, key=(Ellipsis, slice(2, 6), None, slice(-3, None))),
    "rows of a weight": on_weight(
        lambda: ops.numpy.Take(axis=0), (5, 6), ((4, 3), "int32"), first=True
    ),
    # operations on weights alone
    "transposed weight": of_weights(ops.numpy.Transpose, (6, 4), kind="permute"),
    "sum of weights": of_weights(ops.numpy.Add, (6, 4), (4,), kind="sum"),
    "product of weights": of_weights(ops.numpy.Matmul, (6, 2), (2, 4), kind="matmul"),
    "softmax of a weight": of_weights(ops.nn.Softmax, (6, 4), kind="softmax"),
    "halves of a weight": of_weights(lambda: ops.numpy.Split(2, 1), (6, 4), kind="split"),
    "sorted weight": of_weights(ops.numpy.Sort, (6, 4), kind="whole"),
    # fallbacks
    "samplewise": of(lambda: layers.LSTM(4, return_state=True), SERIES, kind="samplewise"),
    "whole": of(lambda: layers.Dense(4), (4, 6), kind="whole"),
}
