"""PyTorch modules, exported and packed, against PyTorch on every driver; needs PyTorch."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import loader
from edgerun.errors import InputError, ModelError, UnsupportedError
from edgerun.session import Session
from edgerun.tools import from_torch

torch = pytest.importorskip("torch", reason="exporting PyTorch modules is not checked: it needs "
                            "pip install '.[torch]', which is too large for every test run")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs pip install onnxscript")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from tests import torch_modules  # noqa: E402
from tests.torch_modules import Crnn, randomized  # noqa: E402


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recurrent(nn.Module):
    """An embedding, then a recurrent layer whose last states are outputs too."""

    def __init__(self, kind: type, **options):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = kind(8, 12, **options)

    def forward(self, tokens: torch.Tensor):
        y, state = self.layer(self.embedding(tokens))
        return (y, *state) if isinstance(state, tuple) else (y, state)


class Stateful(nn.Module):
    """One step of a recurrent layer; the states go in and out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(6, 10)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor):
        y, (h, c) = self.layer(x, (h, c))
        return y, h, c


class Block(nn.Module):
    """Attention with a residual and a feed-forward part, as in a transformer."""

    def __init__(self, causal: bool = False):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 64), nn.Linear(64, 16)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        mask = nn.Transformer.generate_square_subsequent_mask(9) if self.causal else None
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class ScaledProduct(nn.Module):
    """PyTorch's own attention, with rotated queries and keys."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(q.shape[-2]).unsqueeze(1) / torch.arange(1, q.shape[-1] // 2 + 1)
        cos, sin = angle.cos(), angle.sin()

        def rotated(x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, -1)
            return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
        return functional.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)


class Shapes(nn.Module):
    """Ops that move and choose elements."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.where(x > 0, x, torch.cumsum(x, -1)).roll(1, 1).flip(2)
        parts = torch.stack([part * i for i, part in enumerate(y.unbind(1), 1)], 2)
        z = torch.einsum("bij,bkj->bik", parts, x[:, :4])
        return torch.cat([z.repeat(1, 1, 2), z.expand(2, -1, -1)[:1]], -1).tril()


class Norms(nn.Module):
    """Normalizations and activations of newer networks."""

    def __init__(self):
        super().__init__()
        self.group, self.rms = nn.GroupNorm(4, 8), nn.RMSNorm(12)
        self.instance = nn.InstanceNorm2d(8, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.silu(self.group(x)) + functional.mish(self.rms(x))
        return functional.hardswish(self.instance(y)) + functional.softplus(y).mean((2, 3), True)


CONV = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                     nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
                     nn.ConvTranspose2d(8, 4, 2, 2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1),
                     nn.Flatten(), nn.Linear(4, 5))
ATTENTION = normal(1, 9, 16)
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CASES = {
    "conv-bn-relu": (CONV, (normal(1, 3, 16, 16),)),
    "conv1d": (nn.Sequential(nn.Conv1d(4, 6, 5, padding=4, dilation=2), nn.PReLU(6),
                             nn.MaxPool1d(2), nn.Upsample(scale_factor=2)), (normal(1, 4, 30),)),
    "lstm-bidirectional": (Recurrent(nn.LSTM, bidirectional=True, batch_first=True), (TOKENS,)),
    "lstm-two-layers": (Recurrent(nn.LSTM, num_layers=2), (TOKENS.T.contiguous(),)),
    "lstm-step": (Stateful(), (normal(1, 1, 6), normal(1, 1, 10), normal(1, 1, 10, seed=1))),
    "gru": (Recurrent(nn.GRU, batch_first=True), (TOKENS,)),
    "gru-bidirectional": (Recurrent(nn.GRU, bidirectional=True), (TOKENS.T.contiguous(),)),
    "rnn": (Recurrent(nn.RNN, nonlinearity="relu", batch_first=True), (TOKENS,)),
    "attention": (Block(), (ATTENTION,)),
    "attention-causal": (Block(causal=True), (ATTENTION,)),
    "scaled-product": (ScaledProduct(), (normal(1, 2, 7, 8), normal(1, 2, 7, 8, seed=1),
                                         normal(1, 2, 7, 8, seed=2))),
    "transformer": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (ATTENTION,)),
    "embedding": (nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 3), nn.Softmax(-1)),
                  (torch.arange(20).reshape(2, 10),)),
    "pixel-shuffle": (nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2)), (normal(1, 2, 5, 6),)),
    "shapes": (Shapes(), (normal(1, 5, 5),)),
    "norms": (Norms(), (normal(1, 8, 6, 12),)),
}


def expected_of(module: nn.Module, inputs: tuple) -> list[np.ndarray]:
    with torch.no_grad():
        y = module(*inputs)
    return [part.numpy() for part in (y if isinstance(y, tuple) else (y,))]


def run(device, path, inputs: tuple) -> list[np.ndarray]:
    with Session(loader.read(path), device) as session:
        named = {info.name: value.numpy() for info, value in zip(session.inputs, inputs)}
        return list(session.run(named).values())


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return a function name of a case -> file; exports once."""
    folder = tmp_path_factory.mktemp("torch")

    def get(name: str):
        out = folder / f"{name}.edge"
        if not out.exists():
            module, inputs = CASES[name]
            from_torch(randomized(module), inputs, out)
        return out
    return get


@pytest.mark.parametrize("name", CASES)
def test_module(device, packed, name):
    module, inputs = CASES[name]
    path = packed(name)
    found, expected = run(device, path, inputs), expected_of(module, inputs)
    assert [(y.shape, y.dtype) for y in found] == [(y.shape, y.dtype) for y in expected]
    for y, want in zip(found, expected):
        assert np.abs(y - want).max() <= 1e-5 * max(1, np.abs(want).max())


def test_crnn(device, tmp_path):
    """The music-tagging network; also in test_crnn, without PyTorch."""
    module, x = randomized(Crnn()), torch.from_numpy(torch_modules.spectrogram(0))
    report = from_torch(module, x, tmp_path / "crnn.edge", input_names=["melgram"],
                        output_names=["tags"])
    assert report.precision == "fp32" and report.proven
    found, expected = run(device, tmp_path / "crnn.edge", (x,)), expected_of(module, (x,))
    assert np.abs(found[0] - expected[0]).max() <= 1e-4
    assert np.abs(found[0] - np.load(torch_modules.DATA / "crnn.npz")["tags"][0]).max() <= 1e-4
    with Session(loader.read(tmp_path / "crnn.edge"), device) as session:
        names = [info.name for info in (*session.inputs, *session.outputs)]
        assert names == ["melgram", "tags"]


class Loader:
    """Yields batches and counts them."""

    def __init__(self, batches):
        self.batches, self.taken = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.taken += 1
            yield batch


def calibrated(tmp_path, batches, **options):
    return from_torch(randomized(CONV), (normal(1, 3, 16, 16),), tmp_path / "conv.edge",
                      calibration=batches, device="portable", **options)


@pytest.mark.parametrize("form", ["pairs", "tensors", "names"])
def test_calibration_from_a_data_loader(device, tmp_path, form):
    data = normal(40, 3, 16, 16, seed=3)
    pairs = torch.utils.data.TensorDataset(data, torch.arange(40))
    batches = torch.utils.data.DataLoader(pairs, batch_size=16)  # the last is shorter
    if form != "pairs":
        batches = [x if form == "tensors" else {"input": x, "label": y} for x, y in batches]
    report = calibrated(tmp_path, batches, precision="int8")
    assert report.precision == "int8"
    assert not [note for note in report.notes if "too small" in note]  # 40 samples, not 3
    worst = max(np.abs(run(device, tmp_path / "conv.edge", (x[None],))[0]
                       - expected_of(CONV, (x[None],))[0]).max() for x in data[:8])
    assert worst <= 0.1 * np.ptp(expected_of(CONV, (data,))[0])


def test_an_input_may_have_the_name_of_an_argument_of_numpy(tmp_path):
    assert calibrated(tmp_path, [normal(4, 3, 16, 16)], precision="int8",
                      input_names=["file"]).precision == "int8"


def test_takes_no_more_of_a_loader_than_needed(tmp_path):
    batches = Loader([normal(16, 3, 16, 16, seed=i) for i in range(9)])
    calibrated(tmp_path, batches, precision="int8", samples=33)
    assert batches.taken == 3
    report = calibrated(tmp_path, batches, precision="int8", samples=4)
    assert [note for note in report.notes if note.startswith("the data loader: 4 samples")]


@pytest.mark.parametrize("batches, message", [
    ([], "yields no batch that fills an input"),
    ([normal(0, 3, 16, 16)], "yields no batch that fills an input"),
    (7, "is a int, needed a data loader or a path"),
    ([normal(4, 3, 16, 15)], r"batch 0 of the data loader: 'input' is \(4, 3, 16, 15\) float32, "
                             r"needed \(1, 3, 16, 16\) float32"),
    ([normal(4, 3, 16, 16), normal(4, 3, 16, 16).double()], "batch 1 .* float64"),
    ([{"image": normal(1, 3, 16, 16)}], "batch 0 of the data loader: has no 'input'"),
    ([()], "batch 0 of the data loader: holds 0 tensors"),
    ([["a photo"]], "batch 0 .*'input': is a str"),
    ([normal(40, 3, 16, 16) * float("nan")], "the data loader: 'input' holds .* not finite"),
])
def test_bad_data_loader(tmp_path, batches, message):
    with pytest.raises(InputError, match=message):
        calibrated(tmp_path, batches, precision="int8")
    assert not (tmp_path / "conv.edge").exists()


class Unpackable(nn.Module):
    """Has two ops whose results have shapes that depend on the contents."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x).sum() + torch.unique(x).sum()


class Branching(nn.Module):
    """Its path depends on what it reads, which no exporter can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize("module, inputs, options, error, message", [
    ("model.pt", normal(1), {}, InputError, "the module is a str, needed a torch.nn.Module"),
    (CONV, 3, {}, InputError, "the example inputs are a int"),
    (CONV, (), {}, InputError, "the example inputs are a tuple"),
    (CONV, (np.zeros(3),), {}, InputError, "an example input is a ndarray, needed a tensor"),
    (CONV, normal(1, 4, 16, 16), {}, ModelError, "Sequential: PyTorch cannot export it: .*chan"),
    (Branching(), normal(3), {}, ModelError, "Branching: PyTorch cannot export it: "),
    (CONV, normal(1, 3, 16, 16), {"precision": "int8"}, InputError,
     "Sequential: precision int8 needs the range of every tensor: give a data loader"),
    (CONV, normal(1, 3, 16, 16), {"precision": "fp8"}, UnsupportedError, "'fp8'"),
    (CONV, normal(1, 3, 16, 16), {"precision": "int8", "calibration": "none.npz"}, InputError,
     "none.npz: cannot be read"),
    (CONV, normal(1, 3, 16, 16), {"precision": "int8", "calibration": [], "samples": 0},
     InputError, "0 samples are asked for"),
])
def test_bad_input(tmp_path, module, inputs, options, error, message):
    with pytest.raises(error, match=message):
        from_torch(module, inputs, tmp_path / "x.edge", **options)
    assert not list(tmp_path.iterdir())


def test_unsupported_ops_are_listed_with_the_name_of_the_module(tmp_path):
    with pytest.raises(UnsupportedError, match="^Unpackable: not supported: .*Unique") as caught:
        from_torch(Unpackable(), normal(3, 3), tmp_path / "x.edge")
    assert "NonZero" in str(caught.value) and "edgerun-torch" not in str(caught.value)


def test_the_module_is_left_as_it_was(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    module.train()
    module[2].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    from_torch(module, normal(2, 4), tmp_path / "x.edge")
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
