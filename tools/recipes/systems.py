"""What docs/research.md says of each published system, without figures: those are in JSON files."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A published system, or a family of them.

    Attributes:
        title: of its section.
        names: beginnings of the names of its JSON files.
        paper: authors and title, empty if it is no paper's.
        arxiv: number of the paper.
        what: it is, and how this project does it; paragraphs.
        unknown: what of it could not be read.
    """
    title: str
    names: tuple[str, ...]
    paper: str
    arxiv: str
    what: str
    unknown: str = ""


SYSTEMS = (
    System("Mixed precision", ("headline",),
        'Tschopp, "Tuning of mixture-of-experts mixed-precision neural networks"', "2209.15427", """
        One trained fp32 model runs in fp16, or in integers of 16 or 8 bits, on whatever has an
        OpenCL driver, and a sparse mixture of experts runs faster than the dense network. The two
        published headline figures, how much less memory and how much more speed at best, stand
        below ours; memory is weights, all other constants and activations. Here ranges are
        calibrated once and kept in the file, and every precision is packed from them
        (`edgerun pack --precision`, [quantization.md](quantization.md)).""", """
        Of the paper the abstract could be read, and the code: neither the tables per device, nor
        which network and precision gave the two figures, nor the accuracy of its integers on
        ImageNet."""),
    System("Bit planes", ("bit-planes",), "", "", """
        One container for everything below eight bits: a weight matrix is stored as planes of single
        bits, the most significant first, and planes of all layers lie one after another. So a lower
        precision is a prefix of the file's bytes, and a switch of precision at run time is a write
        of a few counts. Each layer has a scale and an offset per output channel and prefix.
        `edgerun pack --bits N` quantizes without training, `--modes low=4,high=8` names precisions
        for `session.set_precision`. Kernels either decode planes to int8 in registers or count bits
        of `w & x` plane by plane; both give the same integers."""),
    System("Dual precision", ("dual-precision",),
        'Park, Choi and Ko, "Dual precision deep neural network"', "2009.02191", """
        One model has two precisions and switches between them without retraining; training has two
        phases. Here the low precision is trained first; then its bits are frozen and the remaining
        ones, the scales and the normalization of the high precision are trained. Each mode keeps a
        normalization of its own.""", """
        Of the paper the abstract and the references could be read: bit widths, data sets and tables
        are unknown, and whether its second phase freezes the high-order bits is our inference."""),
    System("PrecisionBatching", ("precision-batching",),
        'Lam et al., "PrecisionBatching: bitserial decomposition for efficient '
        'neural network inference on GPUs"', "2003.00822", """
        Dense and recurrent layers at batch 1 are bound by the memory of their weights, so weights
        become planes of bits, activations stay precise, and how many planes are used is chosen at
        run time, without retraining.""", """
        The published figures are those of the sample run in the authors' repository, on a GPU;
        tables of the paper could not be read."""),
    System("BSQ", ("bsq",),
        'Yang et al., "BSQ: exploring bit-level sparsity for mixed-precision '
        'neural network quantization"', "2102.10462", """
        Every bit of every weight is trained as a number of its own, with a group lasso over each
        plane of each layer; planes that become zero are stripped, so that one knob finds the bits
        of every layer. A file stores the sign of a weight and the planes of its magnitude; a layer
        of no planes is legal and gives its bias."""),
    System("Schemes of quantization-aware training", ("schemes",),
        'Athar, "An overview of datatype quantization techniques for '
        'convolutional neural networks"', "1808.07530", """
        The techniques of that survey behind one small interface: DoReFa, ternary weights (TWN,
        TTQ), binary weights and activations (XNOR), powers of two (INQ) and dynamic fixed point.
        Each ends as bit planes or as integers of the file.""", """
        The survey's own table could not be read; published figures are those of the techniques'
        papers or of public repetitions, as the source column says."""),
    System("Cyclic precision training", ("cyclic-precision",),
        'Fu et al., "CPT: efficient deep neural network training via cyclic '
        'precision"', "2101.09868", """
        The precision of weights and activations goes up and down along cosines while the network is
        trained. An option of the trainer; the runtime does not know about it."""),
    System("Stochastic rounding", ("stochastic-rounding",),
        'Gupta et al., "Deep learning with limited numerical precision"', "1502.02551", """
        Training in fixed point works if numbers are rounded up or down at random with the mean
        kept, where rounding to nearest loses every small update. An option of the trainer."""),
    System("Mixture of experts", ("mixture",),
        'Tschopp, as above', "2209.15427", """
        A gate chooses a few of many small expert networks for every sample, so that less is
        computed, not less stored. In the file experts are spans of ops behind one `route` op; those
        that are not chosen are neither computed nor paged in, and all of them share one part of the
        arena. The decision crosses to the host at most once per mixture, and where the launches are
        a chain only while an expert is chosen for the first time. Noise and the heads that balance
        the experts are for training only, and dropped when packing.""", """
        The networks are those of the published examples; their accuracies and times are not
        readable."""),
    System("Fastfood layers", ("fastfood",),
        'Yang et al., "Deep fried convnets"', "1412.7149", """
        The matrix of a dense layer becomes a product of three trained diagonals, one permutation
        and two Walsh-Hadamard transforms: a few numbers per output instead of a row."""),
    System("K-TanH", ("ktanh",),
        'Kundu et al., "K-TanH: efficient TanH for deep learning"', "1909.07729", """
        The hyperbolic tangent by integer operations on the bits of a float and a table of 32
        entries; sigmoid, swish and GELU follow from it. `edgerun pack --tanh ktanh` takes it for
        every such activation of a model."""),
    System("Knowledge transfer", ("knowledge-transfer",),
        'Passalis and Tefas, "Learning deep representations with probabilistic '
        'knowledge transfer"', "1803.10837", """
        A small network learns which samples a large one finds similar, instead of its outputs. It
        and distillation with soft targets are options of the trainer."""),
    System("Tuning by search", ("tuning",),
        'Zhang et al., "Compiler-level matrix multiplication optimization for '
        'deep learning"', "1909.10616", """
        A best-first search and an actor-critic search over factorizations of a matrix product's
        sizes. Both are searches of `edgerun tune` ([tuning.md](tuning.md))."""),
    System("16-bit dynamic fixed point", ("int16",),
        'Das et al., "Mixed precision training of convolutional neural '
        'networks using integer operations"', "1802.00930", """
        Tensors of 16-bit integers with one exponent each. Here it is for inference,
        `edgerun pack --precision int16`: symmetric integers with a scale, and sums in 32 bits that
        a bound from the real weights shows to be safe ([quantization.md](quantization.md))."""),
    System("CRNN for music tagging", ("crnn",),
        'Choi et al., "Convolutional recurrent neural networks for music '
        'classification"', "1609.04243", """
        A model that needs recurrent ops, ELU and poolings that are not square. Here at a quarter of
        its width and with random weights, exported from PyTorch."""),
)
