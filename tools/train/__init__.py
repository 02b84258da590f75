"""Quantization-aware training: how weights and activations are rounded, and one loop for all of it.

`codes`, `schedule` and `rounding` need no PyTorch; everything else needs the extra "train".

| module | holds |
|---|---|
| codes | what a scheme's weights are in a file: integers, planes, scales; NumPy |
| schedule, rounding | cyclic precision; fixed point with stochastic rounding; NumPy |
| weights, activations | the schemes, as modules with straight-through gradients |
| layers | convolution, dense and normalization that use them |
| loop | the training loop and its hooks |
| transfer | what a student learns from a teacher |
| export | a trained network as ONNX that the packer stores as bit planes |
| data | images of .npz files and of folders of JPEGs |
| packed | predictions of a packed file |
| fastfood | dense layers of diagonals and fast transforms, and their export |
"""
