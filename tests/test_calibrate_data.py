"""Calibration data: .npz files, folders of images, the preprocessing line, and all that is wrong.
"""
from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from edgerun.errors import InputError
from edgerun.model import TensorInfo
from edgerun.tools.calibrate import data
from edgerun.tools.calibrate.images import Preprocess

X = TensorInfo("x", (2, 3), np.dtype(np.float32))
IMAGE = TensorInfo("image", (1, 3, 8, 8), np.dtype(np.float32))
STATE = TensorInfo("state", (1, 4), np.dtype(np.float32))


def npz(path, **given):
    np.savez(path, **given)
    return path


def refuses(sentence: str, call, *args, **options) -> None:
    """The whole message is `sentence`."""
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        call(*args, **options)


def pixels(height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def folder_of(path, count: int = 3, **options):
    path.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(seed=number, **options)).save(path / f"{number:03}.png")
    return path


# .npz

def test_arrays_with_an_axis_of_samples(tmp_path):
    given = np.random.default_rng(0).standard_normal((40, 2, 3)).astype(np.float32)
    samples = data.read(npz(tmp_path / "a.npz", x=given), [X])
    assert len(samples) == 40 and samples.warnings == []
    assert all(np.array_equal(sample["x"], want) for sample, want in zip(samples, given))


def test_a_limit_takes_samples_spread_over_all(tmp_path):
    path = npz(tmp_path / "a.npz", x=np.arange(10, dtype=np.float32)[:, None, None] + np.zeros(
        (10, 2, 3), np.float32))
    for limit, chosen in ((1, [0]), (3, [0, 3, 6]), (5, [0, 2, 4, 6, 8]), (99, [*range(10)])):
        samples = data.read(path, [X], limit=limit)
        assert [sample["x"][0, 0] for sample in samples] == chosen
    refuses(f"{path}: 0 samples are asked for, needed at least 1", data.read, path, [X], limit=0)


def test_few_samples_are_warned_of(tmp_path):
    path = tmp_path / "a.npz"
    single = data.read(npz(path, x=np.zeros((2, 3), np.float32)), [X])
    assert single.warnings == [f"{path}: 1 sample to calibrate with: too small, ranges are "
                               "reliable from 32 on, and 100 are usual"]
    assert data.read(npz(path, x=np.zeros((31, 2, 3), np.float32)), [X]).warnings == [
        f"{path}: 31 samples to calibrate with: too small, ranges are reliable from 32 on, and 100 "
        "are usual"]
    assert data.read(npz(path, x=np.zeros((32, 2, 3), np.float32)), [X]).warnings == []
    assert len(data.read(path, [X], limit=9).warnings) == 1


@pytest.mark.parametrize("given, sentence", [
    ({"y": np.zeros((4, 2, 3), np.float32)}, "has the arrays 'y', needed 'x' (2, 3) float32"),
    ({"x": np.zeros((4, 2, 2), np.float32)},
     "'x' has the shape (4, 2, 2), needed (2, 3), or one more axis of samples in front of it"),
    ({"x": np.zeros((4, 2, 3), np.int64)}, "'x' is int64, needed float32"),
    ({"x": np.zeros((0, 2, 3), np.float32)}, "'x' has the shape (0, 2, 3): no samples"),
    ({"x": np.full((4, 2, 3), np.nan, np.float32)},
     "'x' holds 24 values of 24 that are not finite numbers"),
    ({"x": np.float32([[[1, 2, np.inf]] * 2] * 3)},
     "'x' holds 6 values of 18 that are not finite numbers")])
def test_wrong_arrays(tmp_path, given, sentence):
    path = npz(tmp_path / "a.npz", **given)
    refuses(f"{path}: {sentence}", data.read, path, [X])


def test_different_numbers_of_samples(tmp_path):
    path = npz(tmp_path / "a.npz", x=np.zeros((4, 2, 3), np.float32),
               state=np.zeros((5, 1, 4), np.float32))
    refuses(f"{path}: the arrays hold 4 and 5 samples (0: no axis of samples), needed the same "
            "number in each", data.read, path, [X, STATE])


def test_what_is_no_npz_file(tmp_path):
    refuses(f"{tmp_path / 'none.npz'}: cannot be read: No such file or directory; needed an .npz "
            "file", data.read, tmp_path / "none.npz", [X])
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="is not an .npz file of plain arrays"):
        data.read(tmp_path / "text.npz", [X])
    path = npz(tmp_path / "a.npz", x=np.zeros((4, 2, 3), np.float32))
    refuses(f"{path}: a preprocessing line is for a folder of images, this is an .npz file of "
            "arrays as the model takes them", data.read, path, [X], Preprocess())


def test_samples_that_are_arrays_already():
    good = {"x": np.zeros((2, 3), np.float32)}
    assert len(data.given([good] * 40, [X])) == 40
    refuses("calibration data: has no samples", data.given, [], [X])
    refuses("calibration data: sample 1: 'x' is float64, needed float32",
            data.given, [good, {"x": np.zeros((2, 3))}], [X])
    refuses("calibration data: sample 0: has an axis of samples, needed 'x' (2, 3) float32",
            data.given, [{"x": np.zeros((1, 2, 3), np.float32)}], [X])
    refuses("calibration data: sample 1: 'x' holds 6 values of 6 that are not finite numbers",
            data.given, [good, {"x": np.full((2, 3), np.inf, np.float32)}], [X])


# images

def test_images_become_what_the_line_says(tmp_path):
    folder = folder_of(tmp_path / "images")
    line = "color=bgr,scale=1/255,mean=0.1 0.2 0.3,std=0.5 1 2"
    samples = data.read(folder, [IMAGE], Preprocess.parse(line))
    assert len(samples) == 3 and len(samples.warnings) == 1
    for number, sample in enumerate(samples):
        want = pixels(seed=number)[:, :, ::-1].transpose(2, 0, 1)[None] / 255
        want = (want - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape([0.5, 1, 2], (3, 1, 1))
        assert sample["image"].dtype == np.float32 and sample["image"].flags.c_contiguous
        np.testing.assert_allclose(sample["image"], want, atol=1e-6)


@pytest.mark.parametrize("shape, line, axes", [
    ((1, 3, 8, 8), "", (2, 0, 1)), ((1, 8, 8, 3), "", (0, 1, 2)), ((3, 8, 8), "", (2, 0, 1)),
    ((8, 8, 3), "", (0, 1, 2)), ((8, 8, 3), "layout=hwc", (0, 1, 2)),
    ((1, 3, 8, 8), "layout=nchw", (2, 0, 1))])
def test_layouts(tmp_path, shape, line, axes):
    folder = folder_of(tmp_path / "images", 1)
    info = TensorInfo("image", shape, np.dtype(np.float32))
    found = data.read(folder, [info], Preprocess.parse(line))[0]["image"]
    assert np.array_equal(found, pixels().transpose(axes).reshape(shape))


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (8, 8, 1), (1, 8, 8, 1), (1, 1, 8, 8)])
def test_gray_images(tmp_path, shape):
    folder = folder_of(tmp_path / "images", 1)
    want = np.asarray(Image.fromarray(pixels()).convert("L"))
    info = TensorInfo("image", shape, np.dtype(np.float32))
    for line in ("", "color=gray"):
        found = data.read(folder, [info], Preprocess.parse(line))[0]["image"]
        assert np.array_equal(found, want.reshape(shape))


def test_integer_inputs_are_rounded_and_limited(tmp_path):
    folder = folder_of(tmp_path / "images", 1)
    info = TensorInfo("image", (1, 8, 8, 3), np.dtype(np.int8))
    found = data.read(folder, [info], Preprocess.parse("scale=1.3,mean=128.4"))[0]["image"]
    want = np.clip(np.rint(pixels() * np.float32(1.3) - np.float32(128.4)), -128, 127)
    assert found.dtype == np.int8 and np.array_equal(found[0], want) and found.max() == 127


def test_batches(tmp_path):
    folder = folder_of(tmp_path / "images", 7)
    info = TensorInfo("image", (3, 8, 8, 3), np.dtype(np.float32))
    samples = data.read(folder, [info])
    assert len(samples) == 2  # the seventh image fills no batch
    assert np.array_equal(samples[1]["image"], np.stack([pixels(seed=i) for i in (3, 4, 5)]))
    many = TensorInfo("image", (9, 8, 8, 3), np.dtype(np.float32))
    refuses(f"{folder}: has 7 images, needed at least the 9 of one input 'image' (9, 8, 8, 3)",
            data.read, folder, [many])


def test_crop_and_resize(tmp_path):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "a.png")
    info = TensorInfo("image", (1, 10, 10, 3), np.dtype(np.float32))

    def found(line: str) -> np.ndarray:
        return data.read(tmp_path / "images", [info], Preprocess.parse(line))[0]["image"][0]

    plain = np.asarray(image)
    assert np.array_equal(found("resize=30"), plain[15:25, 10:20])  # nothing to scale
    small = np.asarray(image.resize((20, 27), Image.Resampling.BILINEAR))
    assert np.array_equal(found("resize=20,size=10x10"), small[8:18, 5:15])
    filled = np.asarray(image.resize((10, 13), Image.Resampling.BILINEAR))
    assert np.array_equal(found("crop=center"), filled[1:11])
    stretched = np.asarray(image.resize((10, 10), Image.Resampling.NEAREST))
    assert np.array_equal(found("crop=none,filter=nearest"), stretched)


def test_sub_folders_and_other_files(tmp_path):
    folder_of(tmp_path / "b", 2)
    folder_of(tmp_path / "a", 1)
    (tmp_path / "labels.csv").write_text("0")
    samples = data.read(tmp_path, [IMAGE])
    assert len(samples) == 3
    assert np.array_equal(samples[2]["image"][0], pixels(seed=1).transpose(2, 0, 1))


def test_further_inputs_beside_the_images(tmp_path):
    folder = folder_of(tmp_path / "images")
    refuses(f"{folder}: images are for the input 'image'; the others must be arrays in "
            f"{folder / 'inputs.npz'}, needed 'state' (1, 4) float32",
            data.read, folder, [IMAGE, STATE])
    states = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    npz(folder / "inputs.npz", state=states)
    samples = data.read(folder, [STATE, IMAGE])
    assert all(np.array_equal(sample["state"], want) for sample, want in zip(samples, states))
    npz(folder / "inputs.npz", state=states[1])
    assert all(np.array_equal(sample["state"], states[1])
               for sample in data.read(folder, [STATE, IMAGE]))
    npz(folder / "inputs.npz", state=states[:2])
    refuses(f"{folder / 'inputs.npz'}: has 2 samples, needed 1 or the 3 of the images",
            data.read, folder, [STATE, IMAGE])
    other = TensorInfo("second", (1, 3, 8, 8), np.dtype(np.float32))
    refuses(f"{folder}: 2 inputs of the model have the shape of images; name it with input=NAME in "
            "the preprocessing line: 'image' (1, 3, 8, 8) float32; 'second' (1, 3, 8, 8) float32",
            data.read, folder, [IMAGE, other])
    npz(folder / "inputs.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    samples = data.read(folder, [IMAGE, other], Preprocess.parse("input=second"))
    assert samples[0]["second"].max() > 0 == samples[0]["image"].max()
    refuses("preprocessing: input=third is no input of the model, needed one of 'image' (1, 3, 8, "
            "8) float32", data.read, folder, [IMAGE], Preprocess.parse("input=third"))


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    refuses(f"{tmp_path}: has no images, needed files that end in .bmp, .jpeg, .jpg, .pgm, .png, "
            ".ppm, .tif, .tiff, .webp", data.read, tmp_path, [IMAGE])


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image \(.*\)$"):
        data.read(tmp_path, [IMAGE])[0]
    Image.fromarray(pixels(40, 40)).save(tmp_path / "b.jpg")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image \(.*truncated"):
        data.read(tmp_path, [IMAGE])[0]
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    refuses(f"{tmp_path / 'a.png'}: has more than 8 bits per channel (Pillow's mode I;16), needed "
            "8", data.read(tmp_path, [IMAGE]).__getitem__, 0)


# the preprocessing line

def test_every_key_of_the_line():
    found = Preprocess.parse(
        " size = 224x192, resize=256, crop=CENTER, color=BGR ,filter=bicubic,scale=1/255,"
        "mean=104 117 123.5,std=1/4,layout=nchw,input=data:0,")
    assert found == Preprocess((224, 192), 256, "center", "bgr", "bicubic", 1 / 255,
                               (104, 117, 123.5), (0.25,), "nchw", "data:0")
    assert Preprocess.parse("") == Preprocess()
    assert Preprocess.parse("size=224").size == (224, 224)


KEYS = "size, resize, crop, color, filter, scale, mean, std, layout, input"


@pytest.mark.parametrize("line, sentence", [
    ("zoom=2", f"'zoom=2' is not KEY=VALUE with a key of {KEYS}"),
    ("224", f"'224' is not KEY=VALUE with a key of {KEYS}"),
    ("size", "size has no value, needed size=VALUE"),
    ("mean=,std=1", "mean has no value, needed mean=VALUE"),
    ("size=1,size=2", "size is given twice"),
    ("size=big", "size=big, needed a number of pixels N or HxW"),
    ("size=0", "size=0, needed a number of pixels N or HxW"),
    ("size=4x-1", "size=-1, needed a number of pixels N or HxW"),
    ("resize=1.5", "resize=1.5, needed a number of pixels"),
    ("crop=top", "crop=top, needed one of center, none"),
    ("color=cmyk", "color=cmyk, needed one of rgb, bgr, gray"),
    ("filter=magic", "filter=magic, needed one of nearest, bilinear, bicubic, box"),
    ("layout=cnhw", "layout=cnhw, needed one of nchw, nhwc, chw, hwc, nhw, hw"),
    ("scale=1/0", "scale=1/0, needed a number or a fraction like 1/255"),
    ("scale=nan", "scale=nan, needed a number or a fraction like 1/255"),
    ("mean=1;2;3", "mean=1;2;3, needed a number or a fraction like 1/255"),
    ("std=1 0 1", "std holds 0, and values are divided by it"),
    ("crop=none,resize=9", "resize is for crop=center, with crop=none the image is stretched to "
     "size"),
    ("size=10x20,resize=9", "resize=9 leaves too little to cut 10x20 pixels out")])
def test_wrong_lines(line, sentence):
    refuses(f"preprocessing: {sentence}", Preprocess.parse, line)


@pytest.mark.parametrize("shape, line, sentence", [
    ((1, 3, 8, 8), "size=9", "preprocessing: size=9x9, the input 'image' has 8x8 pixels in "
     "layout=nchw"),
    ((1, 3, 8, 8), "resize=7", "preprocessing: resize=7 leaves too little to cut the 8x8 pixels of "
     "'image' out"),
    ((1, 3, 8, 8), "mean=1 2", "preprocessing: mean has 2 numbers, needed 1 or the 3 of the "
     "channels of 'image'"),
    ((1, 3, 8, 8), "layout=hwc", "preprocessing: layout=hwc is of 3 axes, the input 'image' has "
     "the shape (1, 3, 8, 8)"),
    ((1, 3, 8, 8), "layout=nhwc", "preprocessing: the input 'image' has the shape (1, 3, 8, 8) and "
     "with layout=nhwc 8 channels, needed 1 or 3"),
    ((1, 1, 8, 8), "color=bgr", "preprocessing: the input 'image' has the shape (1, 1, 8, 8) and "
     "with layout=nchw 1 channels, needed 3 for color=bgr"),
    ((1, 8, 8, 5), "", "input 'image': the shape (1, 8, 8, 5) does not say where height, width and "
     "1 or 3 channels are; needed layout=... in the preprocessing line, one of nchw, nhwc, chw, "
     "hwc, nhw, hw"),
    ((1, 3, 8, 3), "", "input 'image': the shape (1, 3, 8, 3) does not say where height, width and "
     "1 or 3 channels are; needed layout=... in the preprocessing line, one of nchw, nhwc, chw, "
     "hwc, nhw, hw")])
def test_lines_that_do_not_fit_the_input(tmp_path, shape, line, sentence):
    info = TensorInfo("image", shape, np.dtype(np.float32))
    refuses(sentence, data.read, folder_of(tmp_path / "images", 1), [info], Preprocess.parse(line))
    flag = TensorInfo("image", (1, 3, 8, 8), np.dtype(bool))
    refuses("input 'image': is bool, images need numbers", data.read, tmp_path / "images", [flag])
