"""The table of ops: code -> OpDef. The only registry of the runtime."""
from edgerun.ops import (
    cast, conv, conv_transpose, copy, dense, elementwise, gather, lrn, matmul, norm, pad, pool,
    reduce, resize, softmax)
from edgerun.ops._base import Facts, Launch, OpDef, Scratch

__all__ = ["OPS", "Facts", "Launch", "OpDef", "Scratch"]

OPS: dict[str, OpDef] = {
    "unary": OpDef(elementwise.infer_unary, elementwise.unary, (1, 1), "UnaryOptions",
                   mixed=True),
    "binary": OpDef(elementwise.infer_binary, elementwise.binary, (2, 2), "BinaryOptions",
                    mixed=True),
    "conv2d": OpDef(conv.infer_conv2d, conv.conv2d, (2, 5), "Conv2dOptions", conv.conv2d_macs,
                    mixed=True, blocked=(1,)),
    "depthwise_conv2d": OpDef(conv.infer_depthwise, conv.depthwise_conv2d, (2, 4), "Conv2dOptions",
                              conv.depthwise_macs, mixed=True),
    "dense": OpDef(dense.infer_dense, dense.dense, (2, 4), "DenseOptions", dense.dense_macs,
                   mixed=True, blocked=(1,)),
    "pool2d": OpDef(pool.infer_pool2d, pool.pool2d, (1, 1), "Pool2dOptions"),
    "reshape": OpDef(copy.infer_reshape, copy.reshape, (1, 1), "ReshapeOptions"),
    "transpose": OpDef(copy.infer_transpose, copy.transpose, (1, 1), "TransposeOptions"),
    "slice": OpDef(copy.infer_slice, copy.slice_, (1, 1), "SliceOptions"),
    "concat": OpDef(copy.infer_concat, copy.concat, (1, 65_536), "AxisOptions"),
    "expand": OpDef(copy.infer_expand, copy.expand, (1, 1), "ExpandOptions"),
    "tile": OpDef(copy.infer_tile, copy.tile, (1, 1), "TileOptions"),
    "pad": OpDef(pad.infer_pad, pad.pad, (1, 1), "PadOptions"),
    "matmul": OpDef(matmul.infer_matmul, matmul.matmul, (2, 2), "MatmulOptions",
                    macs=matmul.macs_matmul),
    "softmax": OpDef(softmax.infer_softmax, softmax.softmax, (1, 1), "SoftmaxOptions"),
    "reduce": OpDef(reduce.infer_reduce, reduce.reduce, (1, 1), "ReduceOptions"),
    "arg": OpDef(reduce.infer_arg, reduce.arg, (1, 1), "ArgOptions"),
    "resize": OpDef(resize.infer_resize, resize.resize, (1, 1), "ResizeOptions"),
    "gather": OpDef(gather.infer_gather, gather.gather, (2, 2), "AxisOptions"),
    "where": OpDef(gather.infer_where, gather.where, (3, 3)),
    "cast": OpDef(cast.infer_cast, cast.cast, (1, 1), "CastOptions"),
    "conv_transpose2d": OpDef(conv_transpose.infer_conv_transpose2d,
                              conv_transpose.conv_transpose2d, (2, 3), "ConvTranspose2dOptions",
                              conv_transpose.conv_transpose2d_macs, blocked=(1,)),
    "layer_norm": OpDef(norm.infer_layer_norm, norm.layer_norm, (1, 3), "NormOptions"),
    "instance_norm": OpDef(norm.infer_instance_norm, norm.instance_norm, (1, 3), "NormOptions",
                           scratch=norm.instance_norm_scratch),
    "l2_normalize": OpDef(norm.infer_l2_normalize, norm.l2_normalize, (1, 1), "NormOptions"),
    "lrn": OpDef(lrn.infer_lrn, lrn.lrn, (1, 1), "LrnOptions"),
}
