"""Compare the speed of edgerun with that of other runtimes, side by side.

    python -m edgerun.tools.compare resnet18 mobilenetv2 --peers onnxruntime,openvino
    python -m edgerun.tools.compare model.onnx other.tflite --precision fp32,int8 --json out.json
    python -m edgerun.tools.compare resnet18 --device portable,intel --plot latency.svg
    python -m edgerun.tools.compare resnet18 --prepare      # convert and compile only

A model is a name of edgerun.tools.networks or a path. Every runtime has a process of its own; they
take turns of about 30 ms, and one whose turn it is not is stopped by the kernel. So a runtime may
keep its threads spinning in its own turn, which is how it is fastest, without taking a core from
another's. All have the same number of threads, on the same CPUs. A ratio is the median over the
rounds of (peer's time / edgerun's time in the same round): above 1 edgerun is faster.

The peers come with the extra `compare`. One that cannot run a model gets a row that says why.
"""
