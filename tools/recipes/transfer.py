r"""A tiny student learns from a teacher: soft targets against probabilistic transfer.

    pip install "edgerun[train,tools]"
    python -m edgerun.tools.recipes.transfer --train TRAIN.zip --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, H, W] or [N, H, W, C] and `labels` [N] in 0..9; TRAIN may
also be a .zip of JPEGs in folders <label>_<name>/. As in the paper's repository a student learns
the labels first, and each method goes on from there, for as long as the others. Retrieval: every
test image asks for training images by the cosine similarity of the student's 64 features; mAP is
over all of them. Passalis and Tefas, "Learning deep representations with probabilistic knowledge
transfer", 2018; Hinton et al., "Distilling the knowledge in a neural network", 2015.
"""
from __future__ import annotations

import argparse
import copy
import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from edgerun.tools.recipes import results
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.recipes.seeds import Labelled, gain
from edgerun.tools.train import data, loop
from edgerun.tools.train.transfer import Lessons, Student, average_precision

FEATURES, TEACHER_FEATURES = 64, 256
FIRST_RATE, RATE = 8e-3, 6e-3  # of a student's labels, and of what comes behind
LAST_EPOCHS = 3  # of a teacher: of images that are not shifted
COMMAND = "python -m edgerun.tools.recipes.transfer --train TRAIN.zip --test TEST.npz --out DIR " \
          "--results docs/research"
# what goes on from the student that knows the labels
METHODS = {"probabilistic transfer": Lessons.transferred, "soft targets": Lessons.distilled,
           "labels only, as long": Lessons.labels_only}
PUBLISHED = [
    {"data": "CIFAR-10", "method": method, "mAP %": value, "top-10 precision %": top,
     "source": "repository of the paper: stored results (ResNet-18 teacher)"}
    for method, value, top in (
        ("teacher", 91.39, 93.3), ("labels only", 38.96, 68.3), ("soft targets", 40.13, 68.8),
        ("probabilistic transfer", 51.19, 69.4))]
DIFFERS = [
    "The teacher has six convolutions, it is not ResNet-18: it is trained in minutes.",
    "Targets of images and mirrored images are computed once; the paper's student sees shifted "
    "ones, too.",
    "Every student learns its labels first. From there soft targets train all of it without "
    "labels, and labels only, as long, all of it by labels alone. Probabilistic transfer trains "
    "the features by the teacher alone; the dense layer over them learns from the labels at the "
    "same time, without changing the features, so that there is an accuracy. The paper has "
    "retrieval only.",
    "Epochs are all that a network was trained for, those of a student's labels included; a "
    "student's are of images and mirrored images.",
    "The rate, one for all that goes on from a student's labels, and the teacher's last epochs "
    "were chosen for probabilistic transfer and soft targets by 2,000 of CIFAR-10's training "
    "images that a student did not see, with one other seed.",
]
OF_DATA = {  # what differs if there are rows of these data
    "CIFAR-10": ["10,000 training images of CIFAR-10 from JPEGs instead of 50,000."],
    "Fashion-MNIST, a run that was stopped": [
        "Fashion-MNIST was tried before, on its test images and without the teacher's last epochs; "
        "probabilistic transfer was behind soft targets with the one seed that has both."]}


def block(channels: int, out: int, padding: int = 1) -> nn.Sequential:
    """Return 3x3 convolution, normalization, relu: x [N, C, H, W] -> [N, out, H, W]."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=padding, bias=False),
                         nn.BatchNorm2d(out), nn.ReLU())


def teacher(channels: int) -> Student:
    """Return the teacher: image [N, C, H, W] -> 256 features, not rectified -> logits [N, 10]."""
    body = nn.Sequential(
        block(channels, 32), nn.MaxPool2d(2), block(32, 64), nn.MaxPool2d(2), block(64, 128),
        block(128, 128), nn.MaxPool2d(2), block(128, 256),
        nn.Conv2d(256, TEACHER_FEATURES, 3, padding=1, bias=False),
        nn.BatchNorm2d(TEACHER_FEATURES), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Student(body, TEACHER_FEATURES)


def student(channels: int, size: int) -> Student:
    """Return the published student: convolutions of 8, 16, 32 channels, 64 features, logits."""
    parts: list[nn.Module] = []
    for before, behind in pairwise((channels, 8, 16, 32)):
        parts += [block(before, behind, 0), nn.MaxPool2d(2)]
        size = (size - 2) // 2
    body = nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * size * size, FEATURES), nn.ReLU())
    return Student(body, FEATURES)


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Mirror and shift images [N, C, H, W]."""
    return data.shifted(data.mirrored(x), 3)


def top_ten(queries, query_labels, database, labels) -> float:
    """Return the share of the ten nearest that have the query's label, in percent."""
    queries, database = (nn.functional.normalize(f, dim=1) for f in (queries, database))
    nearest = (queries @ database.T).topk(10).indices
    return 100 * float((labels[nearest] == query_labels[:, None]).double().mean())


def measured(network: Student, train: Labelled, test: Labelled) -> dict[str, float]:
    """Return accuracy, mAP and top-10 precision on the test images, in percent."""
    database, queries = (loop.outputs(network.body, x) for x in (train[0], test[0]))
    return {"mAP %": average_precision(queries.numpy(), test[1].numpy(), database.numpy(),
                                       train[1].numpy()),
            "top-10 precision %": top_ten(queries, test[1], database, train[1]),
            "accuracy %": loop.accuracy(network, *test)}


def taught(train: Labelled, epochs: int) -> Student:
    """Return the teacher, trained for so many epochs and LAST_EPOCHS more."""
    loop.seeded(0)
    network = teacher(train[0].shape[1])
    options = {"weight_decay": 5e-2, "bfloat16": True,
               "log": lambda line: print(line, flush=True)}
    loop.train(network, *train, epochs=epochs, rate=3e-3, seed=0, augment=augmented, **options)
    # of images as the student gets them, so that features of a class come close to each other
    loop.train(network, *train, epochs=LAST_EPOCHS, rate=1e-3, seed=1, augment=data.mirrored,
               **options)
    # the loop's layout rounds otherwise, and the students behind the stored rows had this one
    return network.to(memory_format=torch.contiguous_format)


def named(train: Labelled, epochs: int) -> str:
    """Return the name under which a teacher is kept: another one for other images or labels."""
    x, y = (of.contiguous().numpy() for of in train)
    return f"teacher {zlib.crc32(y, zlib.crc32(x)):08x} {epochs}"


def students(seed: int, lessons: Lessons, x: torch.Tensor, train: Labelled, test: Labelled,
             epochs: int) -> list[dict]:
    """Train a student by its labels, and from there by each method; returns their rows."""
    loop.seeded(seed)
    first, rows = student(*x.shape[1:3]), []
    for method, objective in {"labels only": Lessons.labels_only, **METHODS}.items():
        network = copy.deepcopy(first) if rows else first
        loop.train(network, x, lessons.targets, epochs=epochs, rate=RATE if rows else FIRST_RATE,
                   seed=seed, objective=objective.__get__(lessons), log=None)
        rows.append({"method": method, "seed": seed, "epochs": (1 + bool(rows)) * epochs,
                     **measured(network, train, test)})
        print(rows[-1], flush=True)
    return rows


def differs(rows: Sequence[results.Row]) -> Iterator[str]:
    """Yield what is not as published, of all rows of a file."""
    yield from DIFFERS
    for name in dict.fromkeys(row["data"] for row in rows):
        yield from OF_DATA.get(name, ())
        yield f"{name}: " + gain([row for row in rows if row["data"] == name], "mAP %", "method",
                                 "probabilistic transfer", "soft targets", "at least 3 more")


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, metavar="FILE", help="training images, labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path,
                        help="folder for the teacher")
    parser.add_argument("--again", action="store_true",
                        help="take the teacher of an earlier run from DIR, if its images, labels "
                             "and epochs were the same")
    parser.add_argument("--data", default="CIFAR-10", metavar="NAME",
                        help="what the results call the images")
    parser.add_argument("--teacher-epochs", type=int, default=24,
                        help=f"%(default)s; {LAST_EPOCHS} of images that are not shifted follow")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    results.add_argument(parser)
    args = parser.parse_args(argv)
    kept = Kept(args.out, "transfer", 0, args.again)
    train, test = data.images(args.train), data.images(args.test)
    first = kept(named(train, args.teacher_epochs), lambda: taught(train, args.teacher_epochs))
    started = time.perf_counter() - kept.seconds  # those of an earlier run count, too
    rows = [{"method": "teacher", "seed": 0, "epochs": args.teacher_epochs + LAST_EPOCHS,
             **measured(first, train, test)}]
    print(rows[0], flush=True)
    x, y = torch.cat([train[0], train[0].flip(-1)]), train[1].repeat(2)
    features = loop.outputs(first.body, x)
    with torch.no_grad():
        lessons = Lessons(first.head(features), features, y)
    for seed in args.seeds:
        rows += students(seed, lessons, x, train, test, args.epochs)
        now = time.perf_counter()
        results.write(args.results, "knowledge-transfer", command=COMMAND, seeds=[seed],
                      minutes=(now - started) / 60, published=PUBLISHED,
                      ours=[{"data": args.data, **row} for row in rows],
                      differs=differs, merge=("data", "method", "seed"))
        started = now
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
