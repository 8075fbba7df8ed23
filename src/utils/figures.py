"""Pictures of a classifier's work, as matplotlib figures that need no display."""

import math

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


def confusion_matrix(logits: Tensor, labels: Tensor) -> Figure:
    """Counts of label (rows) against prediction (columns), from logits [N, C] and labels [N]."""
    classes = logits.shape[1]
    pairs = (labels * classes + logits.argmax(1)).bincount(minlength=classes**2)
    counts = pairs.reshape(classes, classes).numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure = Figure(figsize=(6, 5.4))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color=colour,
                size=8,
            )
    accuracy = counts.trace() / counts.sum()
    axes.set(
        xlabel="predicted", ylabel="true", title=f"{accuracy:.2%} of {counts.sum():,} are right"
    )
    axes.set(xticks=range(classes), yticks=range(classes))
    return figure


def most_confident_errors(
    images: Tensor, logits: Tensor, labels: Tensor, count: int = 32
) -> Figure:
    """The wrong predictions that the model was surest of: images [N, H, W], logits [N, C], labels [N]."""
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:count].tolist()
    columns, rows = 8, max(1, math.ceil(len(worst) / 8))
    height, width = images.shape[1:]
    high, wide = height * 4 // 3, width * 8 // 7  # of a cell: with room for text
    sheet = images.new_zeros(rows * high, columns * wide)
    figure = Figure(figsize=(1.2 * columns, 1.4 * rows + 0.5))
    axes = figure.subplots()
    for cell, index in enumerate(worst):
        bottom, left = (cell // columns + 1) * high, cell % columns * wide
        sheet[bottom - height : bottom, left : left + width] = images[index]
        text = f"{labels[index]} → {predicted[index]}  {confidence[index]:.0%}"
        axes.text(left + width / 2, bottom - height - 3, text, ha="center", size=8)
    axes.imshow(sheet, cmap="gray_r")
    axes.set_axis_off()
    axes.set_title(f"the surest {len(worst)} of {len(wrong):,} errors: true → predicted")
    return figure
