"""What TensorFlow.js 4.22 knows: its layers, its graph operations, and the names beside them.

Facts as plain data, for those who check a model (:func:`weightlift.check_tfjs`) and those who make one. They were read
off the running library (``tf.serialization.SerializationMap``, the converter's op lists), and
``tests/interop/test_tfjs_registry.py`` compares them with it. Keys of configs are spelled as in a ``model.json``, in
snake case. What variables a layer has is in ``_tfjs_layers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "CONSTRAINTS",
    "GRAPH_OPS",
    "INITIALIZERS",
    "LAYERS",
    "LOSSES",
    "METRICS",
    "MODELS",
    "NAME",
    "OPTIMIZERS",
    "REGULARIZERS",
    "UNMAPPED_OPS",
    "VERSION",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERSION = "4.22.0"
"""The TensorFlow.js that these tables are of."""

NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._/]*", re.ASCII)
"""Names of layers and weights, whole; TensorFlow.js refuses others: ``Not a valid tensor name``."""

MODELS = frozenset({"Sequential", "Functional", "Model"})
"""Classes that hold layers."""

LAYERS = _words(
    """
    Activation Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
    Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D Conv2D Conv2DTranspose Conv3D Conv3DTranspose
    ConvLSTM2D Cropping2D Dense DepthwiseConv2D Dot Dropout ELU Embedding Flatten GRU GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D InputLayer
    LSTM LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum Multiply
    PReLU Permute RNN RandomWidth ReLU RepeatVector Rescaling Reshape Resizing SeparableConv2D SimpleRNN Softmax
    SpatialDropout1D ThresholdedReLU TimeDistributed UpSampling2D ZeroPadding2D
    """
)
"""Registered layer classes, models and cells aside."""

CELLS = frozenset({"SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells", "ConvLSTM2DCell"})
"""What an ``RNN`` layer may hold."""

INITIALIZERS = _words(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LeCunNormal LeCunUniform Ones Orthogonal
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    """
)
"""Registered initializers. ``Identity`` shadows any layer of that name."""

REGULARIZERS = frozenset({"L1L2"})
"""Registered regularizers."""

CONSTRAINTS = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})
"""Registered constraints."""

ACTIVATIONS = _words(
    """
    elu gelu hard_sigmoid linear log_softmax mish relu relu6 selu sigmoid softmax softplus softsign swish tanh
    """
)
"""Activations that load by their names (``gelu_new`` is written by TensorFlow.js, but does not load)."""

OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "SGD": ("learning_rate",),
    "Momentum": ("learning_rate", "momentum", "use_nesterov"),
    "Adam": ("learning_rate", "beta_1", "beta_2", "epsilon"),
    "Adamax": ("learning_rate", "beta_1", "beta_2", "epsilon", "decay"),
    "RMSProp": ("learning_rate", "decay", "momentum", "epsilon", "centered"),
    "Adagrad": ("learning_rate", "initial_accumulator_value"),
    "Adadelta": ("learning_rate", "rho", "epsilon"),
}
"""Registered optimizers, and the options that each needs: it has no defaults for them when it is loaded."""

LOSSES = _words(
    """
    binary_crossentropy categorical_crossentropy categorical_hinge cosine_proximity hinge
    kullback_leibler_divergence logcosh mean_absolute_error mean_absolute_percentage_error mean_squared_error
    mean_squared_logarithmic_error poisson sparse_categorical_crossentropy squared_hinge
    """
)
"""Losses that a training configuration may name."""

METRICS = _words(
    """
    MAE MAPE MSE acc accuracy binary_accuracy categorical_accuracy categorical_crossentropy ce cosine
    crossentropy mae mape mse precision sparse_categorical_crossentropy
    """
)
"""Metrics that a training configuration may name."""

GRAPH_OPS = _words(
    """
    Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool AvgPool3D
    BatchMatMul BatchMatMulV2 BatchToSpaceND BiasAdd Bincount BitwiseAnd BroadcastArgs BroadcastTo Cast Ceil
    ClipByValue Complex ComplexAbs Concat ConcatV2 Const Conv1D Conv2D Conv2DBackpropInput Conv3D Cos Cosh
    CropAndResize Cumprod Cumsum DenseBincount DepthToSpace DepthwiseConv2d DepthwiseConv2dNative Dilation2D Div
    DivNoNan Einsum Elu EmptyTensorList EnsureShape Enter Equal Erf EuclideanNorm Exit Exp ExpandDims Expm1 FFT
    FakeQuantWithMinMaxVars Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    FusedDepthwiseConv2dNative Gather GatherNd GatherV2 Greater GreaterEqual HashTable HashTableV2 IFFT IRFFT
    Identity IdentityN If Imag ImageProjectiveTransformV3 InitializeTable InitializeTableV2 IsFinite IsInf IsNan
    LRN LeakyRelu Less LessEqual LinSpace ListDiff Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr
    LookupTableFind LookupTableFindV2 LookupTableImport LookupTableImportV2 LookupTableSize LookupTableSizeV2
    LoopCond LowerBound MatMul MatrixBandPart Max MaxPool MaxPool3D MaxPoolWithArgmax Maximum Mean Merge Min
    Minimum MirrorPad Mod Mul Multinomial Neg NextIteration NoOp NonMaxSuppressionV2 NonMaxSuppressionV3
    NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual OneHot Ones OnesLike Pack Pad PadV2 Placeholder
    PlaceholderWithDefault Pow Prelu Print Prod RFFT RandomStandardNormal RandomUniform RandomUniformInt Range
    Rank Real RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Reverse ReverseV2 Round
    Rsqrt ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax Softplus
    SpaceToBatchND SparseFillEmptyRows SparseReshape SparseSegmentMean SparseSegmentSum SparseToDense Split
    SplitV Sqrt Square SquaredDifference Squeeze StatelessIf StatelessWhile StaticRegexReplace StopGradient
    StridedSlice StringNGrams StringSplit StringToHashBucketFast Sub Sum Switch Tan Tanh TensorArrayCloseV3
    TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3
    TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 TensorListConcat TensorListConcatV2 TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
    TensorListResize TensorListScatter TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack
    TensorScatterUpdate Tile TopKV2 Transpose TruncatedNormal Unique UniqueV2 Unpack UpperBound Where While
    Zeros ZerosLike _FusedConv2D _FusedMatMul
    """
)
"""Operations that graph models may hold."""

_RAGGED = "TensorFlow.js does not map it, though its converter lets it pass: build the model without ragged tensors"
_FORESTS = "it needs the package @tensorflow/tfjs-tfdf, whose loadTFDFModel loads such models"

UNMAPPED_OPS: Mapping[str, str] = {
    "RaggedGather": _RAGGED,
    "RaggedRange": _RAGGED,
    "RaggedTensorToTensor": _RAGGED,
    "SimpleMLCreateModelResource": _FORESTS,
    "SimpleMLInferenceOpWithHandle": _FORESTS,
    "SimpleMLLoadModelFromPathWithHandle": _FORESTS,
}
"""Operations of the converter's list that the core of TensorFlow.js cannot run, and why."""
