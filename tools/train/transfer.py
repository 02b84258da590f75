"""What a student learns from a teacher: soft targets, or the likeness of samples to each other."""
from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-7


def soft_targets(logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor,
                 temperature: float = 4.0, share: float = 0.9) -> torch.Tensor:
    """Return the distillation loss of Hinton et al., "Distilling the knowledge", 2015.

    share T^2 KL(softmax(teacher / T) || softmax(logits / T)) + (1 - share) cross entropy of labels.
    """
    soft = functional.kl_div(functional.log_softmax(logits / temperature, 1),
                             functional.softmax(teacher / temperature, 1), reduction="batchmean")
    return share * temperature ** 2 * soft + (1 - share) * functional.cross_entropy(logits, labels)


def likeness(features: torch.Tensor) -> torch.Tensor:
    """Return how probable each sample finds each other one: [N, F] -> [N, N], rows sum to 1.

    Cosine similarities moved to 0..1, divided by their row's sum.
    """
    unit = features / (features.norm(dim=1, keepdim=True) + EPSILON)
    similar = (unit @ unit.T + 1) / 2
    return similar / similar.sum(1, keepdim=True)


def probabilistic(features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the loss of probabilistic knowledge transfer (Passalis and Tefas, 2018).

    mean(P log((P + eps) / (Q + eps))) with the likeness P of the teacher's features and Q of the
    student's, for one batch; both are [N, any width].
    """
    p, q = likeness(teacher), likeness(features)
    return (p * torch.log((p + EPSILON) / (q + EPSILON))).mean()


class Student(nn.Module):
    """Features and a dense layer over them: x -> logits."""

    def __init__(self, body: nn.Module, width: int, classes: int = 10):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Lessons:
    """What a teacher says of every training sample, beside the label, in one tensor.

    It is computed once; `targets` takes the labels' place in the loop, and the objectives take it
    apart again.
    """

    def __init__(self, logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor):
        self.classes = logits.shape[1]
        self.targets = torch.cat([labels[:, None].float(), logits, features], 1)

    def apart(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return labels, logits and features of a batch of targets."""
        return (targets[:, 0].long(), targets[:, 1:1 + self.classes], targets[:, 1 + self.classes:])

    def labels_only(self, student: Student, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Objective: the labels, as without a teacher."""
        return functional.cross_entropy(student(x), self.apart(targets)[0])

    def distilled(self, student: Student, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Objective: the teacher's soft targets alone, at the temperature of Passalis and Tefas."""
        labels, logits, _ = self.apart(targets)
        return soft_targets(student(x), logits, labels, temperature=2.0, share=1.0)

    def transferred(self, student: Student, x: torch.Tensor, targets: torch.Tensor
                    ) -> torch.Tensor:
        """Objective: the features by probabilistic transfer alone, the head by the labels alone."""
        labels, _, features = self.apart(targets)
        mine = student.body(x)
        # the mean over N^2 pairs is small: the factor makes it a row's divergence times 100
        return 100 * len(x) * probabilistic(mine, features) + functional.cross_entropy(
            student.head(mine.detach()), labels)


def average_precision(queries: np.ndarray, query_labels: np.ndarray, database: np.ndarray,
                      labels: np.ndarray) -> float:
    """Return the mean average precision of retrieval by cosine similarity, in percent.

    Args:
        queries: [Q, F] and their labels [Q]; database: [N, F] and its labels [N].
    """
    def unit(features: np.ndarray) -> np.ndarray:
        return features / (np.linalg.norm(features, axis=1, keepdims=True) + EPSILON)

    base, places, total = unit(database), np.arange(1, len(labels) + 1), 0.0
    for query, label in zip(unit(queries), query_labels):
        # stable: features that are all 0 tie, and else the CPU would choose their order
        right = labels[np.argsort(-(base @ query), kind="stable")] == label
        total += float((np.cumsum(right) / places)[right].mean()) if right.any() else 0.0
    return 100 * total / len(queries)
