"""The protobuf messages of Caffe that matter here, made from a table.

Field names, numbers and defaults are those of caffe.proto (BVLC) and of its SSD branch. Parameters
of layers are only read as text, by name, so their numbers are of no importance.
"""
from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "edgerun_caffe"
_TYPES = {"bool": 8, "double": 1, "float": 2, "int": 5, "int64": 3, "string": 9, "uint": 13}

# Message -> fields, "[repeated] type name = default @number"; numbers count up where none is given.
# A type that is no scalar is a message, or an enum of ENUMS. "packed" is repeated, too.
MESSAGES = {
    "BlobShape": "packed int64 dim @1",
    "BlobProto": "int num @1; int channels @2; int height @3; int width @4; packed float data @5; "
                 "packed float diff @6; BlobShape shape @7; packed double double_data @8; "
                 "packed double double_diff @9",
    "Filler": "string type; float value; float min; float max; float mean; float std; int sparse; "
              "string variance_norm",
    "StateRule": "Phase phase; int min_level; int max_level; repeated string stage; "
                 "repeated string not_stage",
    "State": "Phase phase; int level; repeated string stage",
    "Param": "string name; string share_mode; float lr_mult; float decay_mult",
    "Convolution": "uint num_output; bool bias_term=true; repeated uint pad; "
                   "repeated uint kernel_size; repeated uint stride; repeated uint dilation; "
                   "uint pad_h; uint pad_w; uint kernel_h; uint kernel_w; uint stride_h; "
                   "uint stride_w; uint group=1; Filler weight_filler; Filler bias_filler; "
                   "Engine engine; int axis=1; bool force_nd_im2col",
    "Pooling": "Pool pool; uint pad; uint pad_h; uint pad_w; uint kernel_size; uint kernel_h; "
               "uint kernel_w; uint stride=1; uint stride_h; uint stride_w; Engine engine; "
               "bool global_pooling; RoundMode round_mode; bool ceil_mode=true",
    "InnerProduct": "uint num_output; bool bias_term=true; Filler weight_filler; "
                    "Filler bias_filler; int axis=1; bool transpose",
    "Lrn": "uint local_size=5; float alpha=1; float beta=0.75; NormRegion norm_region; float k=1; "
           "Engine engine",
    "Relu": "float negative_slope; Engine engine", "Elu": "float alpha=1",
    "Prelu": "Filler filler; bool channel_shared",
    "BatchNorm": "bool use_global_stats=true; float moving_average_fraction; float eps=1e-5",
    "Scale": "int axis=1; int num_axes=1; Filler filler; bool bias_term; Filler bias_filler",
    "Bias": "int axis=1; int num_axes=1; Filler filler",
    "Eltwise": "EltwiseOp operation=SUM; repeated float coeff; bool stable_prod_grad",
    "Concat": "int axis=1; uint concat_dim=1",
    "Slice": "int axis=1; repeated uint slice_point; uint slice_dim=1",
    "Crop": "int axis=2; repeated uint offset", "Permute": "repeated uint order",
    "Flatten": "int axis=1; int end_axis=-1",
    "Reshape": "BlobShape shape; int axis; int num_axes=-1",
    "Softmax": "Engine engine; int axis=1", "Activation": "Engine engine",
    "Power": "float power=1; float scale=1; float shift",
    "Exp": "float base=-1; float scale=1; float shift", "Threshold": "float threshold",
    "ArgMax": "bool out_max_val; uint top_k=1; int axis",
    "Reduction": "ReductionOp operation=SUM; int axis; float coeff=1",
    "Mvn": "bool normalize_variance=true; bool across_channels; float eps=1e-9",
    "Tile": "int axis=1; int tiles", "Swish": "float beta=1", "Input": "repeated BlobShape shape",
    "DummyData": "repeated Filler data_filler; repeated BlobShape shape; repeated uint num; "
                 "repeated uint channels; repeated uint height; repeated uint width",
    "Dropout": "float dropout_ratio; bool scale_train",
    "Normalize": "bool across_spatial=true; Filler scale_filler; bool channel_shared=true; "
                 "float eps=1e-10",
    "PriorBox": "repeated float min_size; repeated float max_size; repeated float aspect_ratio; "
                "bool flip=true; bool clip; repeated float variance; uint img_size; uint img_h; "
                "uint img_w; float step; float step_h; float step_w; float offset=0.5",
    "Nms": "float nms_threshold=0.3; int top_k; float eta=1",
    "SaveOutput": "string output_directory; string output_name_prefix; string output_format; "
                  "string label_map_file; string name_size_file; uint num_test_image",
    "DetectionOutput": "uint num_classes; bool share_location=true; int background_label_id; "
                       "Nms nms_param; SaveOutput save_output_param; CodeType code_type=CORNER; "
                       "bool variance_encoded_in_target; int keep_top_k=-1; "
                       "float confidence_threshold; bool visualize; float visualize_threshold; "
                       "string save_file; bool normalized_bbox=true; bool clip",
    "Layer": "string name @1; string type @2; repeated string bottom @3; repeated string top @4; "
             "repeated float loss_weight @5; repeated Param param @6; repeated BlobProto blobs @7; "
             "repeated StateRule include @8; repeated StateRule exclude @9; Phase phase @10; "
             "repeated bool propagate_down @11",
    "V1Layer": "repeated string bottom @2; repeated string top @3; string name @4; "
               "V1Type type @5; repeated BlobProto blobs @6; repeated float blobs_lr @7; "
               "repeated float weight_decay @8; repeated StateRule include @32; "
               "repeated StateRule exclude @33; repeated string param @1001",
    "Net": "string name @1; repeated V1Layer layers @2; repeated string input @3; "
           "repeated int input_dim @4; bool force_backward @5; State state @6; bool debug_info @7; "
           "repeated BlobShape input_shape @8; repeated Layer layer @100",
}
ENUMS = {
    "Phase": "TRAIN TEST", "Engine": "DEFAULT CAFFE CUDNN OCL", "Pool": "MAX AVE STOCHASTIC",
    "RoundMode": "CEIL FLOOR", "NormRegion": "ACROSS_CHANNELS WITHIN_CHANNEL",
    "EltwiseOp": "PROD SUM MAX", "ReductionOp": "NONE SUM ASUM SUMSQ MEAN",
    "CodeType": "NONE CORNER CENTER_SIZE CORNER_SIZE",
    "V1Type": "NONE ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA "
              "HDF5_OUTPUT IM2COL IMAGE_DATA INFOGAIN_LOSS INNER_PRODUCT LRN "
              "MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID SOFTMAX SOFTMAX_LOSS SPLIT TANH "
              "WINDOW_DATA ELTWISE POWER SIGMOID_CROSS_ENTROPY_LOSS HINGE_LOSS MEMORY_DATA ARGMAX "
              "THRESHOLD DUMMY_DATA SLICE MVN ABSVAL SILENCE CONTRASTIVE_LOSS EXP DECONVOLUTION",
}
# Field of a layer, without "_param" -> its message; both versions of layers have them.
PARAMS = {
    "argmax": "ArgMax", "batch_norm": "BatchNorm", "bias": "Bias", "concat": "Concat",
    "convolution": "Convolution", "crop": "Crop", "detection_output": "DetectionOutput",
    "dropout": "Dropout", "dummy_data": "DummyData",
    "eltwise": "Eltwise", "elu": "Elu", "exp": "Exp", "flatten": "Flatten",
    "inner_product": "InnerProduct", "input": "Input", "log": "Exp", "lrn": "Lrn", "mvn": "Mvn",
    "norm": "Normalize", "permute": "Permute", "pooling": "Pooling", "power": "Power",
    "prelu": "Prelu", "prior_box": "PriorBox", "reduction": "Reduction", "relu": "Relu",
    "reshape": "Reshape", "scale": "Scale", "sigmoid": "Activation", "slice": "Slice",
    "softmax": "Softmax", "swish": "Swish", "tanh": "Activation", "threshold": "Threshold",
    "tile": "Tile",
}
FIRST_PARAM = 2000


def _field(text: str, number: int) -> descriptor_pb2.FieldDescriptorProto:
    declared, _, given = text.partition("@")
    declared, _, default = declared.partition("=")
    *label, kind, name = declared.split()
    field = descriptor_pb2.FieldDescriptorProto(
        name=name, number=int(given or number), label=3 if label else 1)
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type = 14 if kind in ENUMS else 11
        field.type_name = f".{PACKAGE}.{kind}"
    if default.strip():
        field.default_value = default.strip()
    if label == ["packed"]:
        field.options.packed = True
    return field


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE,
                                              syntax="proto2")
    for name, values in ENUMS.items():
        # values of an enum share the scope of the package, where names are unique
        kind = file.message_type.add(name=f"Scope{name}").enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            kind.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split(";"), 1):
            message.field.append(_field(text.strip(), number))
        if name in ("Layer", "V1Layer"):
            for number, (param, kind) in enumerate(PARAMS.items(), FIRST_PARAM):
                message.field.append(_field(f"{kind} {param}_param", number))
        for field in message.field:
            kind = field.type_name.rpartition(".")[2]
            if kind in ENUMS:
                field.type_name = f".{PACKAGE}.Scope{kind}.{kind}"
    return file


def _net_class() -> type:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Net"))


Net = _net_class()
